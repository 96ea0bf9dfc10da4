#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/kernels/kernels.h"
#include "engine/model/model.h"
#include "engine/model/model_internal.h"

static void free_weight(const model_t *model, model_weights_t *place, const arch_weight_t *weight)
{
    const plan_part_t part = plan_weight_part(&model->plan, model->rank, &weight->shape);
    model_weight_t *of = &place->of[weight->role];
    size_t n_experts = arch_weight_experts(&model->config, weight);
    if (weight->shape.columns == PLAN_DIM_NONE)
        memory_free(of->vector, model->format->vector_bytes(model->format, plan_count(part.rows)));
    memory_free(of->late_bias, kernel_padded_outputs(plan_count(part.rows)) * sizeof(float));
    memory_free(of->orders,
        n_experts * 2 * plan_dim(&model->plan.model, weight->shape.columns) * sizeof *of->orders);
    free(of->experts);
}

void model_close(model_t *model)
{
    const arch_weight_t *weight;
    if (model->layers != NULL)
        for (size_t i = 0; (weight = arch_weight(&model->config, i)) != NULL; i++) {
            size_t n = weight->shape.per_layer ? model->config.num_hidden_layers : 1;
            for (size_t l = 0; l < n; l++)
                free_weight(
                    model, weight->shape.per_layer ? &model->layers[l] : &model->outside, weight);
        }
    free(model->layers);
    memory_free(model->own, model->own_bytes);
    if (!model->shared)
        memory_free(model->spill.at, model->spill.bytes);
    size_t table = model_rope_bytes(model->config.head_dim, model->mode, model->rope_positions);
    memory_free(model->rope_cos, table);
    memory_free(model->rope_sin, table);
    plan_close(&model->plan);
    *model = (model_t){0};
}
