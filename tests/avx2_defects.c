/* Defects of --order torch-avx2. */
#include <string.h>

#include "engine/kernels/fold.h"
#include "tests/defects.h"
#include "tests/wrong_kernels.h"

static void use_fold_from_left_to_right(bench_t *bench)
{
    bench->model.kernels.tile_fold = fold_left_to_right;
}

static void use_tail_in_chains(bench_t *bench)
{
    bench->model.kernels.tile_fold = fold_tail_in_chains;
}

static void use_interleaved_tail(bench_t *bench)
{
    bench->model.kernels.interleaved_outputs = interleaved_tail;
}

static void use_flushed_denormals(bench_t *bench)
{
    bench->model.kernels.tile_fold = fold_flushed;
}

static void use_softmax_of_16_lanes(bench_t *bench)
{
    bench->model.kernels.softmax = softmax_of_16_lanes;
}

static void use_sdpa_of_16_lanes(bench_t *bench)
{
    bench->model.kernels.sdpa_weights = sdpa_of_16_lanes;
}

/* Multiplies a matrix of the order torch-avx2 by 2^-exponent, exactly. */
static void scale_matrix(const matrix_t *w, uint32_t exponent)
{
    for (size_t p = 0; p < matrix_n_panels(w); p++) {
        size_t n = fold_inputs(w->columns) * matrix_panel_width(w, p);
        uint16_t *x = (uint16_t *)(uintptr_t)matrix_panel(w, p, 0);
        uint32_t depth = fold_depth(x, n) + exponent;
        for (size_t i = 0; i < n; i++)
            x[i] = (uint16_t)((x[i] & 0x7fff) != 0 ? x[i] - (exponent << 7) : x[i]);
        memcpy(x + n, &depth, sizeof depth);
    }
}

/* So that down_proj's products are denormal (oracle/defects_avx2.py). */
void avx2_scale_mlp(bench_t *bench)
{
    model_weight_t *of = bench->model.layers[0].of;
    scale_matrix(&of[WEIGHT_UP].matrix, 100);
    scale_matrix(&of[WEIGHT_DOWN].matrix, 22);
}

/* Beside up_proj, where it shows first. */
#define PRODUCTS                                                                                   \
    (BIT(COMPONENT_Q_PROJ) | BIT(COMPONENT_K_PROJ) | BIT(COMPONENT_V_PROJ) |                       \
        BIT(COMPONENT_O_PROJ) | BIT(COMPONENT_GATE_PROJ) | BIT(COMPONENT_MLP_OUTPUT) | ALL_LOGITS)

const defect_t avx2_chain_defect = {"chains are added from left to right",
    use_fold_from_left_to_right, COMPONENT_UP_PROJ, PRODUCTS, EAGER, NULL};

const defect_t avx2_tiny_defects[] = {
    {"the softmax sums in 16 lanes", use_softmax_of_16_lanes, COMPONENT_ATTN_WEIGHTS, 0, EAGER,
        NULL},
    {"sdpa sums in 16 lanes", use_sdpa_of_16_lanes, COMPONENT_ATTN_OUTPUT, 0, SDPA, NULL},
    {"the inputs after the last 64 go to other chains", use_tail_in_chains, COMPONENT_MLP_OUTPUT, 0,
        EAGER, NULL},
};
const size_t n_avx2_tiny_defects = sizeof avx2_tiny_defects / sizeof *avx2_tiny_defects;

const defect_t avx2_denormal_defect = {
    "denormals are flushed", use_flushed_denormals, COMPONENT_MLP_OUTPUT, 0, EAGER, NULL};

const defect_t avx2_keys_defect = {"the last keys go to other chains", use_interleaved_tail,
    COMPONENT_ATTN_OUTPUT, 0, EAGER, NULL};
