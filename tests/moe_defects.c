/* Defects of mixtures of experts. */
#include "tests/defects.h"
#include "tests/wrong_kernels.h"

static void route_before_the_norm(bench_t *bench)
{
    divide_router_by_norm(&bench->model.layers[0]);
}

static void choose_lower_indices(bench_t *bench)
{
    bench->model.router_kernels.softmax = softmax_of_lower_index;
}

static void forget_to_normalise_weights(bench_t *bench)
{
    bench->model.config.norm_topk_prob = false;
}

static void renumber_experts(bench_t *bench)
{
    rotate_experts(&bench->model.layers[0], bench->model.config.n_experts);
}

static void swap_gate_and_up_of_experts(bench_t *bench)
{
    model_weight_t *of = bench->model.layers[0].of;
    matrix_t *gate = of[WEIGHT_EXPERT_GATE].experts;
    of[WEIGHT_EXPERT_GATE].experts = of[WEIGHT_EXPERT_UP].experts;
    of[WEIGHT_EXPERT_UP].experts = gate;
}

static void use_swiglu_of_the_other(bench_t *bench)
{
    bench->model.kernels.store_swiglu = swiglu_of_the_other;
}

static void use_experts_rounded_each(bench_t *bench)
{
    bench->model.kernels.add_elements = add_rounded_each;
}

const defect_t moe_defects[] = {
    {"the router reads rows before the norm's weight", route_before_the_norm,
        COMPONENT_ROUTER_LOGITS, 0, EAGER, NULL},
    {"equal experts are chosen by index", choose_lower_indices, COMPONENT_CHOSEN_EXPERTS, 0, EAGER,
        NULL},
    {"weights of experts are not normalised", forget_to_normalise_weights,
        COMPONENT_ROUTING_WEIGHTS, 0, EAGER, NULL},
    {"experts are in another order", renumber_experts, COMPONENT_EXPERT_GATE_PROJ,
        BIT(COMPONENT_EXPERT_UP_PROJ) | BIT(COMPONENT_EXPERT_DOWN_PROJ), EAGER, NULL},
    {"gate and up of experts are swapped", swap_gate_and_up_of_experts, COMPONENT_EXPERT_GATE_PROJ,
        BIT(COMPONENT_EXPERT_UP_PROJ), EAGER, NULL},
    {"SiLU is taken of up in experts", use_swiglu_of_the_other, COMPONENT_EXPERT_ACTIVATION,
        BIT(COMPONENT_MLP_ACTIVATION), EAGER, NULL},
    {"the sum of experts is rounded at each", use_experts_rounded_each, COMPONENT_MLP_OUTPUT, 0,
        EAGER, NULL},
};
const size_t n_moe_defects = sizeof moe_defects / sizeof *moe_defects;
