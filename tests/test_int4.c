/* Packed int4: the product of every instruction set against PyTorch's operator and against scalar C. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kernels/kernels.h"
#include "sharding/checkpoint/checkpoint.h"

#define GOLDEN CHOIR_SOURCE_DIR "/tests/golden/int4.safetensors"
#define MOST_OUTPUTS 80
#define MOST_INPUTS 512
#define MOST_ROWS 40

static const isa_t isas[] = {ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_AVX512_BF16, ISA_AMX};

#define N_ISAS (sizeof isas / sizeof *isas)

/* A matrix, inputs, and what PyTorch makes of them (oracle/quantised.py). */
typedef struct int4_case {
    char name[32];
    size_t group, inputs, outputs, rows;
    bool zeros;
    uint8_t codes[MOST_OUTPUTS * MOST_INPUTS], zero[MOST_OUTPUTS * MOST_INPUTS];
    float scales[MOST_OUTPUTS * MOST_INPUTS];
    uint16_t x[MOST_ROWS * MOST_INPUTS], y[MOST_ROWS * MOST_OUTPUTS];
} int4_case_t;

static const checkpoint_tensor_t *read_tensor(
    checkpoint_t *golden, const int4_case_t *c, const char *what, void *to)
{
    char name[64];
    fail_t fail = {0};
    snprintf(name, sizeof name, "%s.%s", c->name, what);
    const checkpoint_tensor_t *tensor = checkpoint_find(golden, name);
    assert_non_null(tensor);
    assert_int_equal(checkpoint_read_bytes(golden, tensor, 0, tensor->size_bytes, to, &fail), 0);
    return tensor;
}

static void read_case(
    checkpoint_t *golden, size_t group, bool zeros, bool cancelling, int4_case_t *c)
{
    *c = (int4_case_t){.group = group, .zeros = zeros};
    snprintf(c->name, sizeof c->name, "%zu.%d.%d", group, zeros, cancelling);
    const checkpoint_tensor_t *codes = read_tensor(golden, c, "codes", c->codes);
    c->outputs = codes->shape[0];
    c->inputs = codes->shape[1];
    read_tensor(golden, c, "scales", c->scales);
    read_tensor(golden, c, "zeros", c->zero);
    c->rows = read_tensor(golden, c, "x", c->x)->shape[0];
    read_tensor(golden, c, "y", c->y);
}

/* Packs outputs [first, first + n) of a case as a matrix of its own. */
static matrix_t pack(const int4_case_t *c, size_t first, size_t n, const uint32_t *order)
{
    matrix_t w = {
        .format = format_int4(c->group, c->zeros), .rows = n, .columns = c->inputs, .order = order};
    size_t groups = c->inputs / c->group;
    w.bytes = format_matrix_bytes(w.format, n, c->inputs);
    w.panels = calloc(w.bytes, 1);
    assert_non_null(w.panels);
    for (size_t p = 0; p < matrix_n_panels(&w); p++)
        for (size_t r = 0; r < KERNEL_PANEL && p * KERNEL_PANEL + r < n; r++) {
            size_t at = first + p * KERNEL_PANEL + r;
            const coded_rows_t row = {.n = 1,
                .columns = c->inputs,
                .n_groups = groups,
                .codes = c->codes + at * c->inputs,
                .scales = c->scales + at * groups,
                .zeros = c->zero + at * groups,
                .order = order};
            w.format->pack_codes(w.format, &row,
                (char *)w.panels +
                    w.format->offset(w.format, c->inputs, matrix_panel_width(&w, p), p, 0),
                matrix_panel_width(&w, p), r);
        }
    return w;
}

/* All panels with the first n rows. y: [rows, outputs] bf16 */
static void multiply(
    const kernels_t *k, const matrix_t *w, const uint16_t *x, size_t n, uint16_t *y)
{
    static float c[4 * MOST_ROWS * KERNEL_PANEL];
    panel_t panels[4] = {{NULL, 0}};
    const matrix_rows_t rows = {.x = x, .stride = w->columns, .n = n};
    size_t n_panels = matrix_n_panels(w);
    for (size_t p = 0; p < n_panels; p++)
        panels[p] = (panel_t){w, p};
    matrix_product(
        k, DOT_CHAIN, panels, n_panels, &rows, MATRIX_ONE_LEAF, MATRIX_ONE_LEAF, NULL, c);
    for (size_t p = 0; p < n_panels; p++)
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < KERNEL_PANEL && p * KERNEL_PANEL + i < w->rows; i++)
                y[r * w->rows + p * KERNEL_PANEL + i] =
                    bf16_from_f32(c[(p * n + r) * KERNEL_PANEL + i]);
}

static void expect_same(const char *isa, const int4_case_t *c, size_t n, size_t first,
    size_t outputs, const uint16_t *y)
{
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < outputs; i++)
            if (y[r * outputs + i] != c->y[r * c->outputs + first + i])
                fail_msg("%s, %s, %zu rows: output [%zu, %zu]: expected %04x, found %04x", isa,
                    c->name, n, r, first + i, c->y[r * c->outputs + first + i], y[r * outputs + i]);
}

static void for_each_case(void (*check)(const kernels_t *k, const int4_case_t *c))
{
    static int4_case_t c;
    checkpoint_t *golden;
    fail_t fail = {0};
    assert_int_equal(checkpoint_open_file(&golden, GOLDEN, &fail), 0);
    for (size_t group = 32; group <= 256; group *= 2)
        for (int kind = 0; kind < 3; kind++) {
            read_case(golden, group, kind == 2, kind == 1, &c);
            for (size_t i = 0; i < N_ISAS; i++) {
                kernels_t k;
                if (!isa_has(isa_detect(), isas[i]))
                    continue;
                kernels_get(&k, isas[i], DTYPE_BF16);
                check(&k, &c);
            }
        }
    checkpoint_close(golden);
}

static void check_all_rows(const kernels_t *k, const int4_case_t *c)
{
    static uint16_t y[MOST_ROWS * MOST_OUTPUTS];
    matrix_t w = pack(c, 0, c->outputs, NULL);
    for (size_t n = 1; n <= c->rows; n++) {
        multiply(k, &w, c->x, n, y);
        expect_same(k->isa, c, n, 0, c->outputs, y);
    }
    free(w.panels);
}

static void products_are_those_of_aten_for_any_number_of_rows(void **state)
{
    (void)state;
    for_each_case(check_all_rows);
}

/* A share of the outputs, as a rank has it: panels of every width, also with padding. */
static void check_shares(const kernels_t *k, const int4_case_t *c)
{
    static const size_t shares[][2] = {{0, 16}, {16, 32}, {40, 40}, {0, 48}, {5, 73}};
    static uint16_t y[MOST_ROWS * MOST_OUTPUTS];
    for (size_t s = 0; s < sizeof shares / sizeof *shares; s++) {
        matrix_t w = pack(c, shares[s][0], shares[s][1], NULL);
        multiply(k, &w, c->x, 1, y);
        expect_same(k->isa, c, 1, shares[s][0], shares[s][1], y);
        multiply(k, &w, c->x, c->rows, y);
        expect_same(k->isa, c, c->rows, shares[s][0], shares[s][1], y);
        free(w.panels);
    }
}

static void shares_of_outputs_have_the_same_bits(void **state)
{
    (void)state;
    for_each_case(check_shares);
}

/* Inputs and codes that are stored in another order, with the order that restores it. */
static void check_order(const kernels_t *k, const int4_case_t *c)
{
    static int4_case_t shuffled;
    static uint32_t order[MOST_INPUTS];
    static uint16_t y[MOST_ROWS * MOST_OUTPUTS];
    shuffled = *c;
    for (size_t i = 0; i < c->inputs; i++)
        order[i] = (uint32_t)((i * 7 + 3) % c->inputs);
    for (size_t i = 0; i < c->inputs; i++) {
        for (size_t r = 0; r < c->outputs; r++)
            shuffled.codes[r * c->inputs + order[i]] = c->codes[r * c->inputs + i];
        for (size_t r = 0; r < c->rows; r++)
            shuffled.x[r * c->inputs + order[i]] = c->x[r * c->inputs + i];
    }
    matrix_t w = pack(&shuffled, 0, c->outputs, order);
    for (size_t n = 1; n <= c->rows; n += 12) {
        multiply(k, &w, shuffled.x, n, y);
        expect_same(k->isa, c, n, 0, c->outputs, y);
    }
    free(w.panels);
}

static void inputs_in_the_order_of_groups_have_the_same_bits(void **state)
{
    (void)state;
    for_each_case(check_order);
}

/* Unpacked rows, multiplied in a plain loop, and a bias that is added after the rounding. */
static void check_unpacked(const kernels_t *k, const int4_case_t *c)
{
    static float b[MOST_INPUTS], bias[MOST_OUTPUTS];
    static uint16_t y[MOST_ROWS * MOST_OUTPUTS];
    matrix_t w = pack(c, 0, c->outputs, NULL);
    for (size_t i = 0; i < c->outputs; i++)
        bias[i] = 0.1f * (float)i + 0.0001f;
    w.late_bias = bias;
    multiply(k, &w, c->x, 2, y);
    for (size_t i = 0; i < c->outputs; i++) {
        size_t p = i / KERNEL_PANEL;
        w.format->unpack_row(w.format, c->inputs, matrix_panel(&w, p, 0), matrix_panel_width(&w, p),
            i % KERNEL_PANEL, b);
        double sum = 0;
        for (size_t j = 0; j < c->inputs; j++)
            sum += (double)f32_from_bf16(c->x[j]) * (double)b[j];
        assert_true(sum - (double)f32_from_bf16(c->y[i]) < 0.1 &&
                    (double)f32_from_bf16(c->y[i]) - sum < 0.1);
        assert_int_equal(y[i], bf16_from_f32(f32_from_bf16(c->y[i]) + bias[i]));
    }
    free(w.panels);
}

static void a_bias_is_added_after_the_rounding(void **state)
{
    (void)state;
    for_each_case(check_unpacked);
}

/* Of zeros, denormals, least and largest numbers, infinities, and numbers around one; mostly of the first n */
static uint16_t odd_number(uint64_t *state, size_t n)
{
    static const uint16_t numbers[] = {0x3f80, 0xbfc1, 0x0000, 0x8000, 0x0b80, 0x8b80, 0x3080,
        0x6c80, 0x4e80, 0x0b7f, 0x8b7f, 0x307f, 0x6c81, 0xce81, 0x0001, 0x8001, 0x807f, 0x0080,
        0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0x7680, 0x7700, 0x7800, 0xf980};
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    uint32_t random = (uint32_t)(*state >> 32);
    if (random % 64 > 0)
        return (uint16_t)(numbers[random / 64 % n] ^ (random & 0x8000u));
    return numbers[random / 64 % (sizeof numbers / sizeof *numbers)];
}

static void expect_same_sums(
    const char *isa, const format_t *format, size_t n, const float *found, const float *expected)
{
    for (size_t i = 0; i < n; i++)
        if (f32_bits(found[i]) != f32_bits(expected[i]) &&
            !(found[i] != found[i] && expected[i] != expected[i]))
            fail_msg("%s, %s: sum %zu: expected %08x, found %08x", isa, format->name, i,
                f32_bits(expected[i]), f32_bits(found[i]));
}

/* x: [MOST_INPUTS], panels: of any bits */
static void check_odd_row(const kernels_t *k, const kernels_t *scalar, const format_t *format,
    const uint16_t *x, const void *const *panels, size_t width)
{
    enum { N = MATRIX_MAX_PANELS };
    static float found[N * KERNEL_PANEL], expected[N * KERNEL_PANEL];
    for (size_t p = 0; p < N; p++)
        scalar->int4_tile(1, x, MOST_INPUTS, NULL, format, panels[p], width, MOST_INPUTS,
            expected + p * width, width);
    if (k->int4_row != NULL) {
        k->int4_row(x, NULL, format, N, panels, width, MOST_INPUTS, found, width);
        expect_same_sums(k->isa, format, N * width, found, expected);
    }
    /* As rows of several, and unpacked. */
    static uint16_t rows[3 * MOST_INPUTS];
    static float b[MOST_INPUTS * KERNEL_PANEL], expected_b[MOST_INPUTS * KERNEL_PANEL];
    for (size_t r = 0; r < 3; r++)
        memcpy(rows + r * MOST_INPUTS, x, MOST_INPUTS * sizeof *x);
    k->int4_tile(3, rows, MOST_INPUTS, NULL, format, panels[0], width, MOST_INPUTS, found, width);
    for (size_t r = 0; r < 3; r++)
        expect_same_sums(k->isa, format, width, found + r * width, expected);
    k->int4_unpack(format, panels[0], width, MOST_INPUTS, b);
    scalar->int4_unpack(format, panels[0], width, MOST_INPUTS, expected_b);
    expect_same_sums(k->isa, format, MOST_INPUTS * width, b, expected_b);
}

/* Scales of any size, and offsets as zeros of 0 to 16 make them, and somewhat larger. */
static void fill_likely_offsets(size_t n, uint16_t *scales, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        uint32_t random = (uint32_t)(*seed >> 32);
        uint16_t scale = (uint16_t)(0x80 + random % (0x7700 - 0x80)), sign = random >> 31 << 15;
        scales[i] = scale | sign;
        scales[n + i] = (uint16_t)((scale & 0x7f80) + (random >> 16 & 0x1ff)) | (random & 0x8000);
        if (random % 32 == 0)
            scales[n + i] = 0;
    }
}

/* Panels whose scales, and inputs, are any numbers, of which the first `mostly` are frequent; 0: likely offsets. */
static void check_odd_numbers(const kernels_t *k, const kernels_t *scalar, const format_t *format,
    size_t width, size_t mostly, uint64_t seed)
{
    static uint16_t x[MOST_INPUTS];
    static uint32_t memory[MATRIX_MAX_PANELS][KERNEL_PANEL * (MOST_INPUTS / 8 + MOST_INPUTS / 32)];
    const void *panels[MATRIX_MAX_PANELS];
    const size_t group_bytes = format->offset(format, MOST_INPUTS, width, 0, format->group);
    for (size_t i = 0; i < MOST_INPUTS; i++)
        x[i] = odd_number(&seed, mostly == 0 ? 1 : mostly);
    for (size_t p = 0; p < MATRIX_MAX_PANELS; p++) {
        panels[p] = memory[p];
        for (size_t i = 0; i < MOST_INPUTS / format->group * group_bytes / 2; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            ((uint16_t *)(void *)memory[p])[i] = (uint16_t)(seed >> 40);
        }
        for (size_t g = 0; g < MOST_INPUTS / format->group; g++) {
            uint16_t *scales = (uint16_t *)(void *)((char *)memory[p] + g * group_bytes);
            for (size_t n = 0; n < width * (format->zeros ? 2 : 1) && mostly > 0; n++)
                scales[n] = odd_number(&seed, mostly);
            if (mostly == 0)
                fill_likely_offsets(width, scales, &seed);
        }
    }
    check_odd_row(k, scalar, format, x, panels, width);
}

static void rows_of_any_numbers_equal_scalar(void **state)
{
    (void)state;
    kernels_t scalar, k;
    kernels_get(&scalar, ISA_SCALAR, DTYPE_BF16);
    for (size_t i = 0; i < N_ISAS; i++) {
        kernels_get(&k, isas[i], DTYPE_BF16);
        for (size_t seed = 0; seed < 120 && isa_has(isa_detect(), isas[i]); seed++)
            check_odd_numbers(&k, &scalar, format_int4((size_t)32 << seed % 4, seed >= 60),
                16 + seed % 4 * 16, 1 + seed % 16, seed);
        for (size_t seed = 0; seed < 40 && isa_has(isa_detect(), isas[i]); seed++)
            check_odd_numbers(&k, &scalar, format_int4((size_t)32 << seed % 4, true),
                16 + seed / 4 % 4 * 16, 0, seed);
    }
}

/* The first input's product is negative and rounds to -0; all others are -1 times a b of +0, and keep it. */
static void check_minus_zero(const kernels_t *k, uint16_t first_input, uint16_t scale)
{
    static uint16_t x[MOST_INPUTS];
    static uint32_t memory[KERNEL_PANEL * (MOST_INPUTS / 8 + MOST_INPUTS / 64)];
    const format_t *format = format_int4(128, false);
    const void *panel = memory;
    float sums[KERNEL_PANEL];
    for (size_t i = 0; i < MOST_INPUTS; i++)
        x[i] = i == 0 ? first_input : 0xbf80;
    for (size_t g = 0; g < MOST_INPUTS / 128; g++) {
        uint32_t *group = memory + g * (KERNEL_PANEL / 2 + KERNEL_PANEL * 128 / 8);
        for (size_t n = 0; n < KERNEL_PANEL; n++)
            ((uint16_t *)(void *)group)[n] = (uint16_t)(scale | (n % 2 == 0 ? 0 : 0x8000));
        for (size_t i = 0; i < KERNEL_PANEL * 128 / 8; i++)
            group[KERNEL_PANEL / 2 + i] = 0x88888888;
        for (size_t n = 0; n < KERNEL_PANEL && g == 0; n++)
            group[KERNEL_PANEL / 2 + n] = n % 2 == 0 ? 0x88888887 : 0x88888889;
    }
    k->int4_row(x, NULL, format, 1, &panel, KERNEL_PANEL, MOST_INPUTS, sums, KERNEL_PANEL);
    for (size_t n = 0; n < KERNEL_PANEL; n++)
        if (f32_bits(sums[n]) != 0x80000000u)
            fail_msg("%s: input %04x, scale %04x: sum %zu is %08x, not -0", k->isa, first_input,
                scale, n, f32_bits(sums[n]));
}

static void a_sum_of_minus_zero_keeps_its_sign(void **state)
{
    (void)state;
    kernels_t k;
    for (size_t i = 0; i < N_ISAS; i++) {
        kernels_get(&k, isas[i], DTYPE_BF16);
        if (k.int4_row == NULL || !isa_has(isa_detect(), isas[i]))
            continue;
        check_minus_zero(&k, 0x0080, 0x3080); /* 2^-126, 2^-30 */
        check_minus_zero(&k, 0x0b80, 0x2180); /* 2^-104, 2^-60 */
        check_minus_zero(&k, 0x0001, 0x3080); /* 2^-133 */
    }
}

static void groups_that_aten_refuses_have_no_format(void **state)
{
    (void)state;
    assert_null(format_int4(16, false));
    assert_null(format_int4(512, true));
    assert_non_null(format_int4(128, true));
    /* 4 bits and a scale for each group; with zeros two numbers. */
    assert_int_equal(format_matrix_bytes(format_int4(128, false), 64, 256), 64 * 2 * (64 + 2));
    assert_int_equal(format_matrix_bytes(format_int4(128, true), 64, 256), 64 * 2 * (64 + 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_aten_for_any_number_of_rows),
        cmocka_unit_test(shares_of_outputs_have_the_same_bits),
        cmocka_unit_test(inputs_in_the_order_of_groups_have_the_same_bits),
        cmocka_unit_test(a_bias_is_added_after_the_rounding),
        cmocka_unit_test(rows_of_any_numbers_equal_scalar),
        cmocka_unit_test(a_sum_of_minus_zero_keeps_its_sign),
        cmocka_unit_test(groups_that_aten_refuses_have_no_format),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
