/* Bytes of a model's weights. */
#include "engine/base/size.h"
#include "engine/model/model.h"
#include "engine/model/model_internal.h"

#define SHARED_SPILL 64 /* a spill in shared memory is such a part of the matrices */

size_t model_rope_bytes(size_t head_dim, dtype_t mode, size_t positions)
{
    return positions * (head_dim / 2) * (mode == DTYPE_F64 ? sizeof(double) : sizeof(float));
}

plan_model_t model_sizes(const config_t *config, dtype_t mode, dot_t dot, bool packed)
{
    plan_model_t sizes = config_plan_model(config, mode);
    const format_t *format = matrix_format(mode, dot, packed);
    sizes.layout = format;
    sizes.matrix_bytes = format->matrix_bytes;
    sizes.packed = format->kind == FORMAT_PACKED;
    if (sizes.packed)
        sizes.format = format->name;
    return sizes;
}

/* Of all matrices, as they lie in shared memory. */
static size_t shared_matrix_bytes(const plan_t *plan, size_t rank)
{
    size_t bytes = 0;
    for (size_t i = 0; i < plan->model.n_weights; i++) {
        const plan_weight_t *weight = &plan->model.weights[i];
        if (weight->columns != PLAN_DIM_NONE) {
            /* The experts of a layer lie side by side. */
            size_t each =
                plan_part_bytes(&plan->model, weight, plan_weight_part(plan, rank, weight));
            size_t experts = weight->per_expert ? plan->model.n_experts : 1;
            bytes += plan_weight_count(&plan->model, weight) / experts *
                     size_round_up(experts * each, MODEL_ALIGN);
        }
    }
    return bytes;
}

size_t model_shared_spill_bytes(const plan_t *plan, size_t rank)
{
    return plan->model.packed
               ? size_round_up(shared_matrix_bytes(plan, rank) / SHARED_SPILL, MODEL_ALIGN)
               : 0;
}

size_t model_shared_bytes(const plan_t *plan, size_t rank)
{
    return shared_matrix_bytes(plan, rank) + model_shared_spill_bytes(plan, rank);
}

size_t model_bytes(const plan_t *plan, size_t rank, dtype_t mode, size_t max_positions)
{
    return plan_weight_bytes(plan, rank) +
           2 * model_rope_bytes(plan->model.head_dim, mode, max_positions);
}
