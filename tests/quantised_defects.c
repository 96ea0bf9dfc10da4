/* Defects of quantised matrices. They are packed again, from codes, scales and zeros that are wrong in one way. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "tests/defects.h"
#include "tests/wrong_kernels.h"

/* Rows of a panel that may be altered. */
typedef struct wrong_rows {
    size_t n, columns, n_groups;
    uint8_t *codes; /* [n, columns] */
    float *scales;  /* [n, n_groups] */
    uint8_t *zeros; /* [n, n_groups] */
} wrong_rows_t;

typedef void alter_t(wrong_rows_t *rows);

static void copy_rows(const coded_rows_t *from, wrong_rows_t *to, fail_t *fail)
{
    size_t scales = from->n * from->n_groups;
    *to = (wrong_rows_t){.n = from->n, .columns = from->columns, .n_groups = from->n_groups};
    to->scales = memory_alloc(scales * sizeof *to->scales, "scales", fail);
    to->zeros = memory_alloc(scales, "zeros", fail);
    to->codes = memory_alloc(from->n * from->columns, "codes", fail);
    memcpy(to->scales, from->scales, scales * sizeof *to->scales);
    memcpy(to->zeros, from->zeros, scales);
    for (size_t r = 0; r < from->n; r++)
        memcpy(to->codes + r * from->columns, from->codes + r * from->codes_stride, from->columns);
}

static void pack_altered(
    const matrix_t *matrix, size_t p, const coded_rows_t *right, alter_t *alter, fail_t *fail)
{
    wrong_rows_t wrong;
    copy_rows(right, &wrong, fail);
    if (alter != NULL)
        alter(&wrong);
    coded_rows_t rows = *right;
    rows.codes = wrong.codes;
    rows.codes_stride = wrong.columns;
    rows.scales = wrong.scales;
    rows.zeros = wrong.zeros;
    rows.order = matrix->code_order;
    matrix->format->pack_codes(matrix->format, &rows, (void *)(uintptr_t)matrix_panel(matrix, p, 0),
        matrix_panel_width(matrix, p), 0);
    memory_free(wrong.scales, wrong.n * wrong.n_groups * sizeof *wrong.scales);
    memory_free(wrong.zeros, wrong.n * wrong.n_groups);
    memory_free(wrong.codes, wrong.n * wrong.columns);
}

/* Packs a matrix of layer 0 again. */
static void alter_matrix(bench_t *bench, weight_role_t role, alter_t *alter)
{
    const model_t *model = &bench->model;
    const matrix_t *matrix = &model->layers[0].of[role].matrix;
    const arch_weight_t *weight = arch_weight_of(&model->config, role);
    const plan_part_t part = plan_weight_part(&model->plan, model->rank, &weight->shape);
    model_source_t source = model_source_checkpoint(bench->checkpoint);
    char name[ARCH_NAME_BYTES];
    arch_weight_name(weight, 0, 0, name);
    for (size_t p = 0; p < matrix_n_panels(matrix); p++) {
        fail_t fail = {0};
        coded_rows_t rows;
        size_t begin = part.rows.begin + p * KERNEL_PANEL;
        model_part_t panel = {.name = name,
            .shape_rows = plan_dim(&model->plan.model, weight->shape.rows),
            .shape_columns = matrix->columns,
            .row_begin = begin,
            .row_end = size_min(begin + KERNEL_PANEL, part.rows.end),
            .col_end = matrix->columns,
            .scheme = quantization_scheme(&model->config.quantization, (int)role, true, 0)};
        size_t bytes = source.stage_bytes(source.context, &panel);
        void *stage = memory_alloc(bytes, "rows of a quantised matrix", &fail);
        if (source.stage(source.context, &panel, stage, &fail) != 0 ||
            source.codes(source.context, &panel, &rows, &fail) != 0)
            abort();
        pack_altered(matrix, p, &rows, alter, &fail);
        memory_free(stage, bytes);
    }
}

/* ---- Alterations ----------------------------------------------------------------------------- */

static void lower_zeros(wrong_rows_t *rows)
{
    for (size_t i = 0; i < rows->n * rows->n_groups; i++)
        rows->zeros[i] = (rows->zeros[i] - 1) & 15;
}

static void move_scales_to_the_next_group(wrong_rows_t *rows)
{
    for (size_t r = 0; r < rows->n; r++) {
        float *scales = rows->scales + r * rows->n_groups, first = scales[0];
        memmove(scales, scales + 1, (rows->n_groups - 1) * sizeof *scales);
        scales[rows->n_groups - 1] = first;
    }
}

static void move_scales_to_the_next_row(wrong_rows_t *rows)
{
    for (size_t r = 0; r + 1 < rows->n; r++)
        memcpy(rows->scales + r * rows->n_groups, rows->scales + (r + 1) * rows->n_groups,
            rows->n_groups * sizeof *rows->scales);
}

static void round_scales(wrong_rows_t *rows)
{
    for (size_t i = 0; i < rows->n * rows->n_groups; i++)
        rows->scales[i] = f32_round_bf16(rows->scales[i]);
}

static void swap_halves_of_bytes(wrong_rows_t *rows)
{
    for (size_t i = 0; i < rows->n * rows->columns; i += 2) {
        uint8_t even = rows->codes[i];
        rows->codes[i] = rows->codes[i + 1];
        rows->codes[i + 1] = even;
    }
}

static void read_codes_as_signed(wrong_rows_t *rows)
{
    for (size_t i = 0; i < rows->n * rows->columns; i++)
        rows->codes[i] ^= 0x80;
}

/* ---- Defects --------------------------------------------------------------------------------- */

static void take_stored_zeros(bench_t *bench)
{
    alter_matrix(bench, WEIGHT_Q, lower_zeros);
}

static void take_scales_of_the_next_group(bench_t *bench)
{
    alter_matrix(bench, WEIGHT_DOWN, move_scales_to_the_next_group);
}

static void ignore_g_idx(bench_t *bench)
{
    matrix_t *matrix = &bench->model.layers[0].of[WEIGHT_V].matrix;
    matrix->order = matrix->code_order = NULL;
    alter_matrix(bench, WEIGHT_V, NULL);
}

static void use_dequantised_int4(bench_t *bench)
{
    bench->model.kernels.int4_tile = int4_of_rounded_weights;
    bench->model.kernels.int4_row = NULL;
}

static void use_int4_in_two_halves(bench_t *bench)
{
    bench->model.kernels.int4_tile = int4_in_two_halves;
    bench->model.kernels.int4_row = NULL;
}

static void round_bias(bench_t *bench)
{
    matrix_t *matrix = &bench->model.layers[0].of[WEIGHT_Q].matrix;
    float *bias = bench->model.layers[0].of[WEIGHT_Q].late_bias;
    for (size_t i = 0; i < matrix->rows; i++)
        bias[i] = f32_round_bf16(bias[i]);
}

static void round_scales_of_down(bench_t *bench)
{
    alter_matrix(bench, WEIGHT_DOWN, round_scales);
}

static void round_scales_of_k(bench_t *bench)
{
    alter_matrix(bench, WEIGHT_K, round_scales);
}

static void read_q_as_signed(bench_t *bench)
{
    alter_matrix(bench, WEIGHT_Q, read_codes_as_signed);
}

static void take_scale_of_the_next_output(bench_t *bench)
{
    alter_matrix(bench, WEIGHT_O, move_scales_to_the_next_row);
}

static void take_scales_of_the_next_block(bench_t *bench)
{
    alter_matrix(bench, WEIGHT_GATE, move_scales_to_the_next_group);
}

static void swap_int4_of_bytes(bench_t *bench)
{
    alter_matrix(bench, WEIGHT_DOWN, swap_halves_of_bytes);
}

/* The scheme of a matrix of layer 0, which decides on activations. */
static quantised_activation_t *activation_of(bench_t *bench, weight_role_t role)
{
    quantization_t *q = &bench->model.config.quantization;
    const quantised_scheme_t *scheme = quantization_scheme(q, (int)role, true, 0);
    return &q->schemes[scheme - q->schemes].activation;
}

static void keep_activations(bench_t *bench)
{
    *activation_of(bench, WEIGHT_O) = QUANTISED_AS_THEY_ARE;
}

static void use_activations_with_zeros(bench_t *bench)
{
    *activation_of(bench, WEIGHT_Q) = QUANTISED_INT8_TOKEN_ZERO;
}

static void use_scales_of_the_next_token(bench_t *bench)
{
    bench->model.kernels.tile = tile_of_scales_of_the_next_row;
}

#define Q_K_V (BIT(COMPONENT_Q_PROJ) | BIT(COMPONENT_K_PROJ) | BIT(COMPONENT_V_PROJ))
#define MATRICES                                                                                   \
    (Q_K_V | BIT(COMPONENT_O_PROJ) | BIT(COMPONENT_GATE_PROJ) | BIT(COMPONENT_UP_PROJ) |           \
        BIT(COMPONENT_MLP_OUTPUT))

const defect_t int4_defects[] = {
    {"int4: zeros are one too low", take_stored_zeros, COMPONENT_Q_PROJ, 0, EAGER, NULL},
    {"int4: scales are those of the next group", take_scales_of_the_next_block, COMPONENT_GATE_PROJ,
        0, EAGER, NULL},
    {"int4: g_idx is ignored", ignore_g_idx, COMPONENT_V_PROJ, 0, EAGER, NULL},
    {"int4: the bias is rounded to bf16", round_bias, COMPONENT_Q_PROJ, 0, EAGER, NULL},
    {"int4: weights are rounded to bf16", use_dequantised_int4, COMPONENT_Q_PROJ, MATRICES, EAGER,
        NULL},
    {"int4: the chain is summed in two halves", use_int4_in_two_halves, COMPONENT_GATE_PROJ,
        MATRICES, EAGER, NULL},
};
const size_t n_int4_defects = sizeof int4_defects / sizeof *int4_defects;

const defect_t int8_defects[] = {
    {"int8: scales are rounded to bf16", round_scales_of_down, COMPONENT_MLP_OUTPUT, 0, EAGER,
        NULL},
    {"int8: scales are those of the next group", take_scales_of_the_next_group,
        COMPONENT_MLP_OUTPUT, 0, EAGER, NULL},
    {"int8: codes are read as signed", read_q_as_signed, COMPONENT_Q_PROJ, 0, EAGER, NULL},
};
const size_t n_int8_defects = sizeof int8_defects / sizeof *int8_defects;

const defect_t fp8_defects[] = {
    {"FP8: scales are rounded to bf16", round_scales_of_k, COMPONENT_K_PROJ, 0, EAGER, NULL},
    {"FP8: scales are those of the next block", take_scales_of_the_next_block, COMPONENT_GATE_PROJ,
        0, EAGER, NULL},
};
const size_t n_fp8_defects = sizeof fp8_defects / sizeof *fp8_defects;

const defect_t compressed_defects[] = {
    {"activations are not quantised", keep_activations, COMPONENT_O_PROJ, 0, EAGER, NULL},
    {"int8 activations have zeros", use_activations_with_zeros, COMPONENT_Q_PROJ, Q_K_V, EAGER,
        NULL},
    {"the scale of activations is that of the next token", use_scales_of_the_next_token,
        COMPONENT_O_PROJ, 0, EAGER, NULL},
    {"the scale is that of the next output", take_scale_of_the_next_output, COMPONENT_O_PROJ, 0,
        EAGER, NULL},
    {"blocks have the scales of the next ones", take_scales_of_the_next_block, COMPONENT_GATE_PROJ,
        0, EAGER, NULL},
    {"packed int4: the high half of a byte comes first", swap_int4_of_bytes, COMPONENT_MLP_OUTPUT,
        0, EAGER, NULL},
    {"packed int4: scales are those of the next group", take_scales_of_the_next_group,
        COMPONENT_MLP_OUTPUT, 0, EAGER, NULL},
};
const size_t n_compressed_defects = sizeof compressed_defects / sizeof *compressed_defects;
