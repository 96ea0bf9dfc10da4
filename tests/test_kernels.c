/* Every instruction set against scalar, bit for bit, on odd shapes and on data that shows the order
 * of additions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kernels/kernel_list.h"

static void fill_elements(dtype_t mode, kernel_fill_t fill, size_t n, void *x)
{
    static uint64_t seed;
    kernel_fill_buffer(&(kernel_buffer_t){.type = mode, .count = n}, fill, ++seed, x);
}

static void assert_same(
    const kernels_t *k, const char *what, const void *got, const void *expected, size_t bytes)
{
    if (memcmp(got, expected, bytes) == 0)
        return;
    size_t i = 0;
    while (((const char *)got)[i] == ((const char *)expected)[i])
        i++;
    fail_msg("%s of %s in %s differs from scalar at byte %zu of %zu", what, k->isa,
        dtype_name(k->mode), i, bytes);
}

/* Every level that this CPU has, and all that it has. */
static isa_t isa_number(size_t i)
{
    return i < ISA_LEVELS ? isa_of_level(i) : isa_detect();
}

#define FOR_EACH_ISA(NAME)                                                                         \
    for (size_t level = 0; level <= ISA_LEVELS; level++)                                           \
        for (isa_t NAME = isa_number(level), once = 1; once != 0 && isa_has(isa_detect(), NAME);   \
             once = 0)

static void check_kernel(const kernel_entry_t *entry, const kernels_t *k, const kernels_t *scalar)
{
    enum { SHAPES = 120 };
    fail_t fail = {0};
    for (int fill = 0; fill < (entry->narrow ? FILL_WIDE : FILL_COUNT); fill++)
        for (size_t i = 0; i < SHAPES; i++) {
            kernel_shape_t s = kernel_odd_shape(entry, k, i);
            if (kernel_compare(entry, k, scalar, &s, (kernel_fill_t)fill, i * 7 + 1, &fail) != 0)
                fail_msg(
                    "%s of %s in %s differs from scalar: rows %zu, n %zu, k %zu, pad %zu, variant %zu, fill %d %s",
                    entry->name, k->isa, dtype_name(k->mode), s.rows, s.n, s.k, s.pad, s.variant,
                    fill, fail.message);
        }
}

static void every_kernel_equals_scalar(void **state)
{
    (void)state;
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    for (size_t m = 0; m < 3; m++) {
        kernels_t scalar;
        kernels_get(&scalar, ISA_SCALAR, modes[m]);
        FOR_EACH_ISA (isa) {
            kernels_t k;
            kernels_get(&k, isa, modes[m]);
            for (size_t i = 0; i < kernel_list_count; i++)
                if (kernel_exists(&kernel_list[i], &k))
                    check_kernel(&kernel_list[i], &k, &scalar);
        }
    }
}

#if defined(__x86_64__)
/* Where fused multiply-adds multiply more than vdpbf16ps, the table has that for few rows or none. */
static void dot_products_of_any_rows_equal_scalar(void **state)
{
    (void)state;
    kernels_t k, scalar;
    if (!isa_has(isa_detect(), ISA_AVX512_BF16))
        skip();
    kernels_get_dot_product(&k);
    kernels_get(&scalar, ISA_SCALAR, DTYPE_BF16);
    for (size_t i = 0; i < kernel_list_count; i++)
        if (kernel_list[i].slot == offsetof(kernels_t, tile) ||
            kernel_list[i].slot == offsetof(kernels_t, tile_fold) ||
            kernel_list[i].slot == offsetof(kernels_t, coded_row) ||
            kernel_list[i].slot == offsetof(kernels_t, packed_rows))
            check_kernel(&kernel_list[i], &k, &scalar);
}
#endif

/* Every function pointer of a table belongs to a row of the list, but for the two that compute
 * nothing. */
static void no_kernel_is_missing_from_the_list(void **state)
{
    (void)state;
    size_t first = offsetof(kernels_t, tile), end = sizeof(kernels_t);
    for (size_t slot = first; slot < end; slot += sizeof(void (*)(void))) {
        bool listed =
            slot == offsetof(kernels_t, amx_begin) || slot == offsetof(kernels_t, amx_end);
        for (size_t i = 0; i < kernel_list_count; i++)
            listed |= kernel_list[i].slot == slot;
        if (!listed)
            fail_msg("the slot at byte %zu of kernels_t is in no row of kernel_list", slot);
    }
}

/* Against leaves and groups that the scalar tile is called for one by one. */
static void check_groups(const kernels_t *k, size_t rows, size_t width, size_t inputs)
{
    size_t e = k->element_bytes, acc = k->accumulator_bytes;
    char *a = malloc(rows * inputs * e), *b = malloc(inputs * width * e);
    char *c = malloc(rows * width * acc), *expected = malloc(rows * width * acc);
    char *group = malloc(rows * width * acc);
    fill_elements(k->mode, FILL_CANCEL, rows * inputs, a);
    fill_elements(k->mode, FILL_UNIT, inputs * width, b);
    for (int add = 0; add < 2; add++) {
        k->tile_groups(rows, a, inputs, b, width, inputs, c, width, add == 0 ? TILE_SET : TILE_ADD);
        for (size_t i = 0; i < inputs; i += KERNEL_LEAF) {
            size_t n = inputs - i < KERNEL_LEAF ? inputs - i : KERNEL_LEAF;
            k->tile(rows, a + i * e, inputs, b + i * width * e, width, n, group, width,
                i % KERNEL_GROUP == 0 ? TILE_SET : TILE_ADD);
            bool ends = (i + n) % KERNEL_GROUP == 0 || i + n == inputs;
            if (ends && add == 0 && i < KERNEL_GROUP)
                memcpy(expected, group, rows * width * acc);
            else if (ends)
                k->add(rows * width, group, expected);
        }
        assert_same(k, "tile_groups", c, expected, rows * width * acc);
    }
    free(a);
    free(b);
    free(c);
    free(expected);
    free(group);
}

static void groups_are_sums_of_leaves(void **state)
{
    (void)state;
    static const dtype_t modes[] = {DTYPE_F32, DTYPE_F64};
    for (size_t m = 0; m < 2; m++) {
        kernels_t k;
        kernels_get(&k, ISA_SCALAR, modes[m]);
        for (size_t rows = 1; rows <= 9; rows++)
            check_groups(&k, rows, 16 + rows % 4 * 16, 1 + rows * 47 % 400);
    }
}

/* Every bf16 gate, infinities and all NaNs included, with several values of up, in rows whose end
 * fills no vector. */
static void swiglu_of_every_gate_equals_scalar(void **state)
{
    (void)state;
    enum { ROWS = 256, WIDTH = 257, N = ROWS * WIDTH };
    static const float ups[] = {1, -0.75f, 0x1p-120f, 0, INFINITY, NAN};
    kernels_t scalar;
    kernels_get(&scalar, ISA_SCALAR, DTYPE_BF16);
    float *gate = malloc(N * sizeof *gate), *up = malloc(N * sizeof *up);
    uint16_t *got = calloc(N, 2), *expected = calloc(N, 2);
    for (size_t u = 0; u < sizeof ups / sizeof *ups; u++) {
        for (size_t i = 0; i < N; i++) {
            uint32_t bits = (uint32_t)i << 16 | (i % 3 == 0 ? 0x7fffu : 0);
            memcpy(&gate[i], &bits, sizeof bits);
            up[i] = ups[u];
        }
        scalar.store_swiglu(ROWS, WIDTH, gate, up, WIDTH, expected, WIDTH);
        FOR_EACH_ISA (isa) {
            kernels_t k;
            kernels_get(&k, isa, DTYPE_BF16);
            k.store_swiglu(ROWS, WIDTH, gate, up, WIDTH, got, WIDTH);
            assert_same(&k, "store_swiglu", got, expected, N * 2);
        }
    }
    free(gate);
    free(up);
    free(got);
    free(expected);
}

static void the_start_up_test_passes_here(void **state)
{
    (void)state;
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    for (size_t m = 0; m < 3; m++)
        FOR_EACH_ISA (isa) {
            kernels_t k;
            fail_t fail = {0};
            kernels_get(&k, isa, modes[m]);
            assert_int_equal(kernels_self_test(&k, KERNELS_ALL, &fail), 0);
        }
}

/* Many rows are cut into other blocks of inputs than a few, and panels go together. */
static void a_row_does_not_depend_on_the_others(void **state)
{
    (void)state;
    enum { ROWS = 40, OUTPUTS = 150, INPUTS = 1200, PANELS = 3 };
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    static const dot_t dots[] = {DOT_CHAIN, DOT_AMX, DOT_CHAIN, DOT_CHAIN};
    for (size_t m = 0; m < 4; m++) {
        kernels_t k;
        kernels_get(&k, isa_detect(), modes[m]);
        size_t e = k.element_bytes, row_bytes = KERNEL_PANEL * k.accumulator_bytes;
        matrix_t w = {.format = format_dense(modes[m]), .rows = OUTPUTS, .columns = INPUTS};
        w.bytes = format_matrix_bytes(w.format, OUTPUTS, INPUTS);
        char *x = malloc(ROWS * INPUTS * e), *c = malloc(PANELS * ROWS * row_bytes);
        char *single_row = malloc(PANELS * row_bytes);
        w.panels = malloc(w.bytes);
        fill_elements(modes[m], FILL_UNIT, ROWS * INPUTS, x);
        fill_elements(modes[m], FILL_UNIT, w.bytes / e, w.panels);
        panel_t panels[PANELS];
        for (size_t p = 0; p < PANELS; p++)
            panels[p] = (panel_t){&w, p};
        size_t leaf = dots[m] == DOT_AMX ? MATRIX_ONE_LEAF : 512;
        const matrix_rows_t all = {.x = x, .stride = INPUTS, .n = ROWS};
        matrix_product(&k, dots[m], panels, PANELS, &all, leaf, leaf, NULL, c);
        for (size_t row = 0; row < ROWS; row++) {
            const matrix_rows_t one = {.x = x + row * INPUTS * e, .stride = INPUTS, .n = 1};
            matrix_product(&k, dots[m], panels, PANELS, &one, leaf, leaf, NULL, single_row);
            for (size_t p = 0; p < PANELS; p++)
                assert_same(&k, "matrix_product of a row", c + (p * ROWS + row) * row_bytes,
                    single_row + p * row_bytes, matrix_panel_width(&w, p) * k.accumulator_bytes);
        }
        free(x);
        free(c);
        free(single_row);
        free(w.panels);
    }
}

typedef void panels_fn_t(size_t rows, const void *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode);
typedef void tile_fn_t(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);

static void check_panels(
    const kernels_t *k, panels_fn_t *together, tile_fn_t *tile, tile_mode_t mode)
{
    /* More rows than a leaf's sums are kept of and than are prepared at once, more inputs than a block has. */
    enum { ROWS = 530, INPUTS = 264, N_PANELS = 2, PANEL = INPUTS * KERNEL_PANEL };
    size_t c_panel = ROWS * KERNEL_PANEL, c_bytes = N_PANELS * c_panel * sizeof(float);
    size_t element = k->element_bytes;
    char *a = malloc(ROWS * INPUTS * element), *b = malloc(N_PANELS * PANEL * element);
    float *c = malloc(c_bytes), *expected = malloc(c_bytes);
    const void *panels[N_PANELS] = {b, b + PANEL * element};
    fill_elements(k->mode, FILL_CANCEL, ROWS * INPUTS, a);
    fill_elements(k->mode, FILL_UNIT, N_PANELS * PANEL, b);
    fill_elements(DTYPE_F32, FILL_UNIT, N_PANELS * c_panel, c);
    memcpy(expected, c, c_bytes);
    together(
        ROWS, a, INPUTS, N_PANELS, panels, KERNEL_PANEL, INPUTS, c, c_panel, KERNEL_PANEL, mode);
    for (size_t p = 0; p < N_PANELS; p++)
        for (size_t r = 0; r < ROWS; r++)
            tile(1, a + r * INPUTS * element, INPUTS, panels[p], KERNEL_PANEL, INPUTS,
                expected + p * c_panel + r * KERNEL_PANEL, KERNEL_PANEL, mode);
    assert_same(k, "several panels", c, expected, c_bytes);
    free(a);
    free(b);
    free(c);
    free(expected);
}

static void panels_of_many_rows_equal_row_by_row(void **state)
{
    (void)state;
    FOR_EACH_ISA (isa) {
        kernels_t k;
        kernels_get(&k, isa, DTYPE_BF16);
        for (int mode = TILE_SET; mode <= TILE_ADD && k.tile_panels != NULL; mode++)
            check_panels(&k, k.tile_panels, k.tile, (tile_mode_t)mode);
        kernels_get(&k, isa, DTYPE_F32);
        for (int mode = TILE_SET; mode <= TILE_ADD && k.tile_groups_panels != NULL; mode++)
            if (mode != TILE_CHAIN)
                check_panels(&k, k.tile_groups_panels, k.tile_groups, (tile_mode_t)mode);
    }
}

/* Rows in K-blocks give what they give row by row, where a kernel takes them so. */
static void k_blocks_give_the_same(void **state)
{
    (void)state;
    enum { MOST_ROWS = 70, INPUTS = 1216, WIDE = INPUTS + 6 };
    kernels_t k, scalar;
    kernels_get(&k, isa_detect(), DTYPE_BF16);
    kernels_get(&scalar, ISA_SCALAR, DTYPE_BF16);
    assert_false(matrix_wants_k_blocked(&scalar, DOT_AMX, MOST_ROWS, INPUTS));
    assert_false(matrix_wants_k_blocked(&k, DOT_CHAIN, MOST_ROWS, INPUTS));
    assert_false(matrix_wants_k_blocked(&k, DOT_AMX, MOST_ROWS, INPUTS + 2));
    if (!matrix_wants_k_blocked(&k, DOT_AMX, MOST_ROWS, INPUTS))
        skip();
    matrix_t w = {.format = format_dense(DTYPE_BF16), .rows = KERNEL_PANEL, .columns = INPUTS};
    w.bytes = format_matrix_bytes(w.format, w.rows, INPUTS);
    w.panels = malloc(w.bytes);
    uint16_t *x = malloc(MOST_ROWS * WIDE * 2), *k_blocked = malloc(MOST_ROWS * WIDE * 2);
    size_t c_bytes = MOST_ROWS * KERNEL_PANEL * sizeof(float);
    float *c = malloc(c_bytes), *expected = malloc(c_bytes);
    const panel_t panel = {&w, 0};
    for (int fill = 0; fill < FILL_COUNT; fill++) {
        fill_elements(DTYPE_BF16, fill == FILL_CANCEL ? FILL_UNIT : (kernel_fill_t)fill,
            w.bytes / 2, w.panels);
        fill_elements(DTYPE_BF16, (kernel_fill_t)fill, MOST_ROWS * WIDE, x);
        for (size_t n = 2; n <= MOST_ROWS; n += 1 + n / 4) {
            /* K-blocks with room between them, in two calls as two threads would. */
            size_t stride = (n + 3) * KERNEL_K_BLOCK;
            k_blocked = realloc(k_blocked, INPUTS / KERNEL_K_BLOCK * stride * 2);
            k_blocks_pack_rows(n / 2, INPUTS, x, WIDE, k_blocked, stride, 0);
            k_blocks_pack_rows(n - n / 2, INPUTS, x + n / 2 * WIDE, WIDE, k_blocked, stride, n / 2);
            const matrix_rows_t is_k_blocked = {
                .x = k_blocked, .stride = stride, .k_blocked = true, .n = n};
            const matrix_rows_t rows = {.x = x, .stride = WIDE, .n = n};
            matrix_product(
                &k, DOT_AMX, &panel, 1, &is_k_blocked, MATRIX_ONE_LEAF, MATRIX_ONE_LEAF, NULL, c);
            matrix_product(&scalar, DOT_AMX, &panel, 1, &rows, MATRIX_ONE_LEAF, MATRIX_ONE_LEAF,
                NULL, expected);
            assert_same(&k, "matrix_product of K-blocks", c, expected, n * KERNEL_PANEL * 4);
        }
    }
    free(x);
    free(k_blocked);
    free(c);
    free(expected);
    free(w.panels);
}

static void wrong_tile(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    kernels_t scalar;
    kernels_get(&scalar, ISA_SCALAR, DTYPE_F32);
    scalar.tile(rows, a, a_stride, b, width, k - 2, c, c_stride, mode);
}

static void the_start_up_test_finds_a_wrong_kernel(void **state)
{
    (void)state;
    kernels_t k;
    fail_t fail = {0};
    kernels_get(&k, ISA_SCALAR, DTYPE_F32);
    k.tile = wrong_tile;
    assert_int_equal(kernels_self_test(&k, KERNELS_ALL, &fail), FAIL_INTERNAL);
    assert_non_null(strstr(fail.message, "tile"));
}

static void wrong_unpack(
    const format_t *format, const void *groups, size_t width, size_t inputs, float *b)
{
    (void)format, (void)groups;
    memset(b, 0, width * inputs * sizeof *b);
}

static void the_start_up_test_calls_what_the_run_uses(void **state)
{
    (void)state;
    kernels_t k;
    fail_t fail = {0};
    kernels_get(&k, ISA_SCALAR, DTYPE_BF16);
    k.int4_unpack = wrong_unpack;
    assert_int_equal(kernels_self_test(&k, KERNELS_ALL & ~KERNELS_QUANTISED, &fail), 0);
    assert_int_equal(kernels_self_test(&k, KERNELS_QUANTISED, &fail), FAIL_INTERNAL);
    assert_non_null(strstr(fail.message, "int4_unpack"));
}

/* Logits with what sums have to get right: equal ones, infinities, NaN, a short last granule. */
static void check_granules(
    const kernels_t *k, const kernels_t *scalar, kernel_fill_t fill, size_t n)
{
    static const float odd[] = {NAN, -INFINITY, INFINITY};
    size_t n_granules = (n + KERNEL_GRANULE - 1) / KERNEL_GRANULE;
    float *x = malloc(n * sizeof *x);
    double(*got)[2] = calloc(n_granules, sizeof *got);
    double(*expected)[2] = calloc(n_granules, sizeof *expected);
    fill_elements(DTYPE_F32, fill, n, x);
    for (size_t i = 5; i < n; i += 171)
        x[i] = odd[i % 3];
    for (size_t i = 0; i < n && n > 200; i++)
        x[i] = i / KERNEL_GRANULE == 1 ? -INFINITY : x[i];
    k->sum_granules(n, x, got);
    scalar->sum_granules(n, x, expected);
    assert_same(k, "sum_granules", got, expected, n_granules * sizeof *got);
    for (size_t g = 0; g < n_granules; g++) {
        double max = -INFINITY, sum = 0;
        for (size_t i = g * KERNEL_GRANULE; i < n && i < (g + 1) * KERNEL_GRANULE; i++)
            max = x[i] > max ? x[i] : max;
        for (size_t i = g * KERNEL_GRANULE; i < n && i < (g + 1) * KERNEL_GRANULE; i++) {
            double value = isnan(x[i]) ? -INFINITY : (double)x[i];
            sum += value == max ? 1 : exp(value - max);
        }
        assert_true(expected[g][0] == max);
        assert_true(fabs(expected[g][1] - sum) <= 1e-13 * sum);
    }
    free(x);
    free(got);
    free(expected);
}

static void sums_of_granules_are_exact_and_equal(void **state)
{
    (void)state;
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32};
    for (size_t m = 0; m < 2; m++) {
        kernels_t scalar;
        kernels_get(&scalar, ISA_SCALAR, modes[m]);
        FOR_EACH_ISA (isa) {
            kernels_t k;
            kernels_get(&k, isa, modes[m]);
            for (int fill = 0; fill < FILL_COUNT; fill++)
                for (size_t n = 64; n < 9000; n = n * 3 / 2 + n % 7)
                    check_granules(&k, &scalar, (kernel_fill_t)fill, n);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_equals_scalar),
#if defined(__x86_64__)
        cmocka_unit_test(dot_products_of_any_rows_equal_scalar),
#endif
        cmocka_unit_test(no_kernel_is_missing_from_the_list),
        cmocka_unit_test(groups_are_sums_of_leaves),
        cmocka_unit_test(sums_of_granules_are_exact_and_equal),
        cmocka_unit_test(a_row_does_not_depend_on_the_others),
        cmocka_unit_test(panels_of_many_rows_equal_row_by_row),
        cmocka_unit_test(k_blocks_give_the_same),
        cmocka_unit_test(swiglu_of_every_gate_equals_scalar),
        cmocka_unit_test(the_start_up_test_passes_here),
        cmocka_unit_test(the_start_up_test_finds_a_wrong_kernel),
        cmocka_unit_test(the_start_up_test_calls_what_the_run_uses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
