/* The dot product fold: its layout, and its sums against the definition, element by element in the
 * checkpoint's order. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kernels/fold.h"
#include "engine/kernels/kernels.h"

static const size_t sizes[] = {
    1, 2, 15, 16, 17, 31, 40, 63, 64, 65, 80, 127, 128, 192, 200, 240, 447, 512, 896, 1023};
enum { N_SIZES = sizeof sizes / sizeof *sizes, MOST_INPUTS = 1023, OUTPUTS = 90, ROWS = 7 };

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Values around 1 whose sums cancel: each is followed by its opposite, 64 or 1 later. */
static void fill(size_t inputs, uint32_t seed, uint16_t *x)
{
    for (size_t k = 0; k < inputs; k++) {
        size_t before = seed % 2 == 0 ? 64 : 1;
        if (k / before % 2 == 1)
            x[k] = x[k - before] ^ 0x8000;
        else
            x[k] = bf16_from_f32((float)next_random(&seed) * 0x1p-23f - 1);
    }
}

/* Packs [OUTPUTS, inputs] rows, panel by panel, some rows at a time. */
static matrix_t pack(size_t inputs, const uint16_t *rows)
{
    matrix_t w = {.format = format_fold(), .rows = OUTPUTS, .columns = inputs};
    w.bytes = format_matrix_bytes(w.format, OUTPUTS, inputs);
    w.panels = calloc(1, w.bytes);
    for (size_t r = 0, n; r < OUTPUTS; r += n) {
        size_t p = r / KERNEL_PANEL, first = r % KERNEL_PANEL;
        n = first == 0 ? 13 : KERNEL_PANEL - first;
        n = r + n < OUTPUTS ? n : OUTPUTS - r;
        w.format->pack_rows(w.format, n, inputs, rows + r * inputs,
            (void *)(uintptr_t)matrix_panel(&w, p, 0), matrix_panel_width(&w, p), first);
    }
    return w;
}

static void every_input_has_a_place_of_its_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t inputs = sizes[i], places = fold_inputs(inputs);
        bool *taken = calloc(places, sizeof *taken);
        assert_int_equal(places % 2, 0);
        for (size_t k = 0; k < inputs; k++) {
            size_t at = fold_position(inputs, k);
            assert_true(at < places && !taken[at]);
            taken[at] = true;
        }
        free(taken);
    }
}

static void rows_lie_at_the_places_and_zeros_between_them(void **state)
{
    (void)state;
    uint16_t x[MOST_INPUTS], packed[2 * MOST_INPUTS + 128], found[2 * MOST_INPUTS + 128];
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t inputs = sizes[i];
        fill(inputs, (uint32_t)i, x);
        memset(packed, 0xff, sizeof packed);
        memset(found, 0, sizeof found);
        fold_pack_row(inputs, x, packed);
        for (size_t k = 0; k < inputs; k++)
            found[fold_position(inputs, k)] = x[k];
        assert_memory_equal(packed, found, fold_inputs(inputs) * sizeof *found);
    }
}

static void packed_panels_give_their_rows_back(void **state)
{
    (void)state;
    uint16_t *rows = malloc(OUTPUTS * MOST_INPUTS * sizeof *rows), row[MOST_INPUTS];
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t inputs = sizes[i];
        fill(OUTPUTS * inputs, (uint32_t)i, rows);
        matrix_t w = pack(inputs, rows);
        for (size_t r = 0; r < OUTPUTS; r++) {
            size_t p = r / KERNEL_PANEL;
            w.format->unpack_row(w.format, inputs, matrix_panel(&w, p, 0),
                matrix_panel_width(&w, p), r % KERNEL_PANEL, row);
            assert_memory_equal(row, rows + r * inputs, inputs * sizeof *row);
        }
        free(w.panels);
    }
    free(rows);
}

/* By halves: i and i + n / 2, i + n / 4, ... */
static float fold_by_halves(float *x, size_t n)
{
    for (size_t half = n / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}

/* As pytorch-orders-avx2.md says it. */
static float defined_dot(size_t inputs, const uint16_t *x, const uint16_t *w)
{
    float s[8][8] = {{0}}, t[8] = {0}, of_r[8];
    size_t k = 0;
    for (; k < inputs / 64 * 64; k++) {
        float *sum = &s[k % 8][k % 64 / 8]; /* s[l][r] */
        *sum = fmaf(f32_from_bf16(x[k]), f32_from_bf16(w[k]), *sum);
    }
    for (size_t l = 0; l < 8; l++)
        of_r[l] = fold_by_halves(s[l], 8);
    float sum = fold_by_halves(of_r, 8);
    for (; k < inputs / 16 * 16; k++)
        t[k % 8] = fmaf(f32_from_bf16(x[k]), f32_from_bf16(w[k]), t[k % 8]);
    if (inputs % 64 != 0)
        sum += fold_by_halves(t, 8);
    for (; k < inputs; k++)
        sum += f32_from_bf16(x[k]) * f32_from_bf16(w[k]);
    return sum;
}

static void check_product(const kernels_t *kernels, size_t inputs, uint32_t seed)
{
    size_t stride = fold_row_elements(inputs);
    uint16_t *rows = malloc(OUTPUTS * inputs * sizeof *rows);
    uint16_t *x = malloc(ROWS * inputs * sizeof *x),
             *packed = malloc(ROWS * stride * sizeof *packed);
    float c[2 * ROWS * KERNEL_PANEL];
    fill(OUTPUTS * inputs, seed + 2, rows);
    fill(ROWS * inputs, seed, x);
    for (size_t r = 0; r < ROWS; r++)
        fold_pack_row(inputs, x + r * inputs, packed + r * stride);
    matrix_t w = pack(inputs, rows);
    const panel_t panels[] = {{&w, 0}, {&w, 1}};
    const matrix_rows_t of = {.x = packed, .stride = stride, .n = ROWS, .n_single_rows = 1};
    matrix_product(kernels, DOT_FOLD, panels, 2, &of, MATRIX_ONE_LEAF, MATRIX_ONE_LEAF, NULL, c);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t n = 0; n < OUTPUTS; n++) {
            float expected = defined_dot(inputs, x + r * inputs, rows + n * inputs);
            float found =
                c[n / KERNEL_PANEL * ROWS * KERNEL_PANEL + r * KERNEL_PANEL + n % KERNEL_PANEL];
            if (f32_bits(expected) != f32_bits(found))
                fail_msg("%s, %zu inputs, row %zu, output %zu: expected %a, found %a", kernels->isa,
                    inputs, r, n, (double)expected, (double)found);
        }
    free(w.panels);
    free(packed);
    free(x);
    free(rows);
}

static void products_are_as_defined(void **state)
{
    (void)state;
    for (int level = 0; level < 5; level++) {
        kernels_t kernels;
        isa_t isa = isa_of_level((size_t)level);
        if (!isa_has(isa_detect(), isa))
            continue;
        kernels_get(&kernels, isa, DTYPE_BF16);
        for (size_t i = 0; i < N_SIZES; i++)
            for (uint32_t seed = 0; seed < 2; seed++)
                check_product(&kernels, sizes[i], seed);
    }
}

static void depths_tell_where_sums_may_be_denormal(void **state)
{
    (void)state;
    uint16_t x[64] = {0}, packed[256];
    fold_pack_row(64, x, packed);
    assert_int_equal(fold_depth(packed, fold_inputs(64)), 0);
    x[5] = bf16_from_f32(-0x1p-50f);
    x[6] = bf16_from_f32(3);
    fold_pack_row(64, x, packed);
    uint32_t depth = fold_depth(packed, fold_inputs(64));
    /* -2^-50 times 2^-62 is a multiple of 2^-126: its own last place is 2^-7 of it, and so is the
     * other's. */
    x[6] = bf16_from_f32(0x1p-62f);
    x[5] = 0;
    fold_pack_row(64, x, packed);
    assert_true(fold_is_normal(depth, fold_depth(packed, fold_inputs(64))));
    x[6] = bf16_from_f32(0x1p-63f);
    fold_pack_row(64, x, packed);
    assert_false(fold_is_normal(depth, fold_depth(packed, fold_inputs(64))));
    x[6] = 1; /* a denormal: taken as zero by the instruction, whatever it is multiplied with */
    fold_pack_row(64, x, packed);
    assert_false(fold_is_normal(0, fold_depth(packed, fold_inputs(64))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_input_has_a_place_of_its_own),
        cmocka_unit_test(rows_lie_at_the_places_and_zeros_between_them),
        cmocka_unit_test(packed_panels_give_their_rows_back),
        cmocka_unit_test(products_are_as_defined),
        cmocka_unit_test(depths_tell_where_sums_may_be_denormal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
