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

#include "engine/kernels/kernels.h"

static uint64_t random_state = 1;

static uint32_t random_u32(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

typedef enum fill { FILL_NORMAL, FILL_CANCEL, FILL_WIDE, FILL_COUNT } fill_t;

/* A value of one of three kinds: around 1; with exact opposites following each other, so that sums
 * are their own rounding errors; or of any exponent, denormals and zeros included. */
static double random_value(fill_t fill, size_t i, double last)
{
    if (fill == FILL_CANCEL && i % 2 == 1)
        return -last;
    double unit = (double)random_u32() / 4294967296.0 * 2 - 1;
    if (fill == FILL_WIDE) {
        int exponent = (int)(random_u32() % 254) - 140;
        return exponent < -138 ? 0.0 : ldexp(unit, exponent / 2);
    }
    return unit;
}

static void fill_elements(dtype_t mode, fill_t fill, size_t n, void *x)
{
    double last = 0;
    for (size_t i = 0; i < n; i++) {
        last = random_value(fill, i, last);
        dtype_convert((char *)x + i * dtype_bytes(mode), mode, &last, DTYPE_F64, 1);
    }
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

typedef void (*tile_fn)(
    size_t, const void *, size_t, const void *, size_t, size_t, void *, size_t, tile_mode_t);

static void check_tile(const kernels_t *k, tile_fn tile, tile_fn scalar, fill_t fill, size_t rows,
    size_t width, size_t inputs)
{
    size_t stride = inputs + random_u32() % 3 * 2, e = k->element_bytes, acc = k->accumulator_bytes;
    size_t c_stride = width + random_u32() % 5;
    char *a = malloc(rows * stride * e + 2), *b = malloc(inputs * width * e);
    char *c = malloc(rows * c_stride * acc), *expected = malloc(rows * c_stride * acc);
    fill_elements(k->mode, fill, rows * stride, a);
    fill_elements(k->mode, fill == FILL_CANCEL ? FILL_NORMAL : fill, inputs * width, b);
    fill_elements(acc == 8 ? DTYPE_F64 : DTYPE_F32, FILL_NORMAL, rows * c_stride, c);
    memcpy(expected, c, rows * c_stride * acc);
    for (int mode = TILE_SET; mode <= TILE_ADD; mode++) {
        tile(rows, a, stride, b, width, inputs, c, c_stride, (tile_mode_t)mode);
        scalar(rows, a, stride, b, width, inputs, expected, c_stride, (tile_mode_t)mode);
        assert_same(k, tile == k->tile ? "tile" : "tile_amx", c, expected, rows * c_stride * acc);
    }
    free(a);
    free(b);
    free(c);
    free(expected);
}

static void check_tiles(const kernels_t *k, tile_fn tile, tile_fn scalar, fill_t fill)
{
    for (size_t rows = 1; rows <= 14; rows++)
        for (size_t width = 16; width <= 64; width += 16)
            check_tile(k, tile, scalar, fill, rows, width, 2 + random_u32() % 60 * 2);
    for (size_t rows = 15; rows <= 70; rows += 1 + rows % 3 * 4)
        check_tile(k, tile, scalar, fill, rows, 48, 64 + rows % 4 * 2);
    check_tile(k, tile, scalar, fill, 3, 64, 1024);
}

/* Against leaves and groups that the scalar tile is called for one by one. */
static void check_groups(const kernels_t *k, const kernels_t *scalar, fill_t fill, size_t rows,
    size_t width, size_t inputs)
{
    size_t stride = inputs + random_u32() % 3, e = k->element_bytes, acc = k->accumulator_bytes;
    char *a = malloc(rows * stride * e), *b = malloc(inputs * width * e);
    char *c = malloc(rows * width * acc), *expected = malloc(rows * width * acc);
    char *group = malloc(rows * width * acc);
    fill_elements(k->mode, fill, rows * stride, a);
    fill_elements(k->mode, fill == FILL_CANCEL ? FILL_NORMAL : fill, inputs * width, b);
    fill_elements(k->mode, FILL_NORMAL, rows * width, c);
    memcpy(expected, c, rows * width * acc);
    for (int add = 0; add < 2; add++) {
        k->tile_groups(rows, a, stride, b, width, inputs, c, width, add == 0 ? TILE_SET : TILE_ADD);
        for (size_t i = 0; i < inputs; i += KERNEL_LEAF) {
            size_t n = inputs - i < KERNEL_LEAF ? inputs - i : KERNEL_LEAF;
            scalar->tile(rows, a + i * e, stride, b + i * width * e, width, n, group, width,
                i % KERNEL_GROUP == 0 ? TILE_SET : TILE_ADD);
            bool ends = (i + n) % KERNEL_GROUP == 0 || i + n == inputs;
            if (ends && add == 0 && i < KERNEL_GROUP)
                memcpy(expected, group, rows * width * acc);
            else if (ends)
                scalar->add(rows * width, group, expected);
        }
        assert_same(k, "tile_groups", c, expected, rows * width * acc);
    }
    free(a);
    free(b);
    free(c);
    free(expected);
    free(group);
}

static void check_elementwise(const kernels_t *k, const kernels_t *scalar, fill_t fill, size_t n)
{
    size_t e = k->element_bytes, acc = k->accumulator_bytes;
    dtype_t acc_type = acc == 8 ? DTYPE_F64 : DTYPE_F32;
    char *x = malloc(2 * n * e), *w = malloc(n * e), *c = malloc(2 * n * acc),
         *u = malloc(2 * n * acc);
    char *got = malloc(2 * n * acc), *expected = malloc(2 * n * acc), *scratch = malloc(n * acc);
    fill_elements(k->mode, fill, 2 * n, x);
    fill_elements(k->mode, fill, n, w);
    fill_elements(acc_type, fill, 2 * n, c);
    fill_elements(acc_type, fill, 2 * n, u);

#define CHECK(NAME, BYTES, CALL)                                                                   \
    do {                                                                                           \
        const kernels_t *t = k;                                                                    \
        char *y = got;                                                                             \
        memcpy(y, x, 2 * n * e);                                                                   \
        CALL;                                                                                      \
        t = scalar;                                                                                \
        y = expected;                                                                              \
        memcpy(y, x, 2 * n * e);                                                                   \
        CALL;                                                                                      \
        assert_same(k, NAME, got, expected, BYTES);                                                \
    } while (0)
    CHECK("store", n * e, t->store(1, n, c, n, w, y, n));
    CHECK("store without bias", 2 * n * e, t->store(2, n, c, n, NULL, y, n));
    CHECK("store_residual", n * e, t->store_residual(1, n, c, n, x, y, n));
    CHECK("store_swiglu", n * e, t->store_swiglu(1, n, c, u, n, y, n));
    CHECK("store_logits", n * acc, t->store_logits(1, n, c, n, y, n));
    CHECK("rms_norm", n * e, t->rms_norm(1, n, x, n, w, 1e-6, y, n));
    CHECK("rope", 2 * n * e, t->rope(1, n, c, u, y));
    CHECK("scale_scores", n * e, t->scale_scores(n, c, 0.125, y));
    CHECK("softmax", n * e, t->softmax(n, true, y, scratch));
    CHECK("softmax left to right", n * e, t->softmax(n, false, y, scratch));
    memcpy(got, u, n * acc);
    memcpy(expected, u, n * acc);
    k->add(n, c, got);
    scalar->add(n, c, expected);
    assert_same(k, "add", got, expected, n * acc);
    free(x);
    free(w);
    free(c);
    free(u);
    free(got);
    free(expected);
    free(scratch);
}

/* Several rows of a norm and heads of a rotation are what each is alone. */
static void check_several(const kernels_t *k, const kernels_t *scalar, fill_t fill, size_t n)
{
    enum { ROWS = 11 };
    size_t e = k->element_bytes, x_stride = 2 * n + 3, y_stride = n + 1;
    char *x = malloc(ROWS * x_stride * e), *w = malloc(n * e), *heads = malloc(ROWS * 2 * n * e);
    char *angles = malloc(n * k->accumulator_bytes);
    char *got = calloc(ROWS * y_stride, e), *expected = calloc(ROWS * y_stride, e);
    fill_elements(k->mode, fill, ROWS * x_stride, x);
    fill_elements(k->mode, fill, n, w);
    fill_elements(k->accumulator_bytes == 8 ? DTYPE_F64 : DTYPE_F32, fill, n, angles);
    k->rms_norm(ROWS, n, x, x_stride, w, 1e-6, got, y_stride);
    for (size_t r = 0; r < ROWS; r++)
        scalar->rms_norm(1, n, x + r * x_stride * e, n, w, 1e-6, expected + r * y_stride * e, n);
    assert_same(k, "rms_norm of rows", got, expected, ROWS * y_stride * e);
    for (size_t h = 0; h < ROWS; h++) {
        memcpy(heads + h * 2 * n * e, x + h * x_stride * e, 2 * n * e);
        scalar->rope(1, n, angles, angles, x + h * x_stride * e);
    }
    k->rope(ROWS, n, angles, angles, heads);
    for (size_t h = 0; h < ROWS; h++)
        assert_same(k, "rope of heads", heads + h * 2 * n * e, x + h * x_stride * e, 2 * n * e);
    free(x);
    free(w);
    free(heads);
    free(angles);
    free(got);
    free(expected);
}

#define SDPA_ROWS 13

/* The kernels of the sdpa order, over one key block of n_block keys of which n_kept are seen, for
 * some query rows. */
static void check_sdpa(const kernels_t *k, const kernels_t *scalar, fill_t fill, size_t rows,
    size_t inputs, size_t n_block, size_t n_kept)
{
    enum { KEYS = 512, WIDTH = 112 };
    uint16_t *q = malloc(rows * inputs * 2), *panel = malloc(KERNEL_PANEL * inputs * 2);
    float *wide_q = malloc(rows * inputs * 4);
    uint16_t *values = malloc(KERNEL_PANEL * WIDTH * 2), *weights[2];
    float *scores[2], *out[2], max[2][SDPA_ROWS], sum[2][SDPA_ROWS];
    fill_elements(DTYPE_BF16, fill, rows * inputs, q);
    dtype_convert(wide_q, DTYPE_F32, q, DTYPE_BF16, rows * inputs);
    fill_elements(DTYPE_BF16, fill, KERNEL_PANEL * inputs, panel);
    fill_elements(DTYPE_BF16, fill, KERNEL_PANEL * WIDTH, values);
    for (int i = 0; i < 2; i++) {
        const kernels_t *t = i == 0 ? k : scalar;
        weights[i] = calloc(rows * KEYS, 2);
        scores[i] = calloc(rows * KEYS, 4);
        out[i] = calloc(rows * WIDTH, 4);
        random_state = n_block * 1000 + n_kept; /* both see the same */
        fill_elements(DTYPE_F32, fill, rows * KEYS, scores[i]);
        t->sdpa_scores(rows, KERNEL_PANEL, inputs, wide_q, panel, 4, scores[i], KEYS);
        for (size_t lanes = 8, at = KERNEL_PANEL; lanes >= 4; lanes -= 4, at += KERNEL_PANEL) {
            size_t keys = n_block % KERNEL_PANEL + 1;
            t->sdpa_scores(rows, keys, inputs, wide_q, panel, lanes, scores[i] + at, KEYS);
            /* What lies beyond the keys is nobody's. */
            for (size_t r = 0; r < rows; r++)
                fill_elements(
                    DTYPE_F32, fill, KERNEL_PANEL - keys, scores[i] + r * KEYS + at + keys);
        }
        size_t written = (n_kept + 3) / 4 * 4;
        for (size_t r = 0; r < rows; r++)
            max[i][r] = r % 3 == 1 ? 0.25f : -INFINITY;
        t->sdpa_weights(rows, n_kept, n_block, written, 0.125f, max[i], sum[i], scores[i],
            rows % 4 == 3 ? NULL : weights[i], KEYS);
        for (size_t r = 0; r < rows; r++)
            memset(scores[i] + r * KEYS + n_kept, 0, (KEYS - n_kept) * sizeof *scores[i]);
        t->sdpa_outputs(rows, written < KERNEL_PANEL ? written : KERNEL_PANEL, scores[i], KEYS,
            values, WIDTH, out[i], WIDTH);
        t->sdpa_output_key(rows, 5, scores[i], KEYS, values, WIDTH, out[i], WIDTH);
        t->sdpa_scale(rows * WIDTH, 0.7f, out[i]);
        t->sdpa_store(WIDTH, out[i], 1 / sum[i][0], weights[i] + KEYS - WIDTH);
    }
    assert_same(k, "sdpa max", max[0], max[1], rows * 4);
    assert_same(k, "sdpa sum", sum[0], sum[1], rows * 4);
    assert_same(k, "sdpa scores", scores[0], scores[1], rows * KEYS * 4);
    assert_same(k, "sdpa weights", weights[0], weights[1], rows * KEYS * 2);
    assert_same(k, "sdpa out", out[0], out[1], rows * WIDTH * 4);
    for (int i = 0; i < 2; i++) {
        free(weights[i]);
        free(scores[i]);
        free(out[i]);
    }
    free(q);
    free(wide_q);
    free(panel);
    free(values);
}

static void the_sdpa_kernels_equal_scalar(void **state)
{
    (void)state;
    kernels_t scalar;
    kernels_get(&scalar, ISA_SCALAR, DTYPE_BF16);
    for (isa_t isa = ISA_AVX2; isa <= isa_detect(); isa++) {
        kernels_t k;
        kernels_get(&k, isa, DTYPE_BF16);
        for (int fill = 0; fill < FILL_WIDE; fill++)
            for (size_t n_block = 1, rows = 1; n_block <= 400; n_block += 1 + n_block / 9)
                for (size_t n_kept = 1; n_kept <= n_block; n_kept += 1 + n_kept / 3) {
                    check_sdpa(
                        &k, &scalar, (fill_t)fill, rows, 40 + n_block % 4 * 8, n_block, n_kept);
                    rows = rows % SDPA_ROWS + 1;
                }
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
        for (isa_t isa = ISA_AVX2; isa <= isa_detect(); isa++) {
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
        for (isa_t isa = ISA_SCALAR; isa <= isa_detect(); isa++) {
            kernels_t k;
            fail_t fail = {0};
            kernels_get(&k, isa, modes[m]);
            assert_int_equal(kernels_self_test(&k, &fail), 0);
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
        matrix_t w = {.rows = OUTPUTS, .columns = INPUTS};
        w.bytes = matrix_panel_bytes(modes[m], OUTPUTS, INPUTS);
        char *x = malloc(ROWS * INPUTS * e), *c = malloc(PANELS * ROWS * row_bytes);
        char *lone = malloc(PANELS * row_bytes);
        w.panels = malloc(w.bytes);
        fill_elements(modes[m], FILL_NORMAL, ROWS * INPUTS, x);
        fill_elements(modes[m], FILL_NORMAL, w.bytes / e, w.panels);
        panel_t panels[PANELS];
        for (size_t p = 0; p < PANELS; p++)
            panels[p] = (panel_t){&w, p};
        size_t leaf = dots[m] == DOT_AMX ? MATRIX_ONE_LEAF : 512;
        const matrix_rows_t all = {.x = x, .stride = INPUTS, .n = ROWS};
        matrix_product(&k, dots[m], panels, PANELS, &all, leaf, leaf, c);
        for (size_t row = 0; row < ROWS; row++) {
            const matrix_rows_t one = {.x = x + row * INPUTS * e, .stride = INPUTS, .n = 1};
            matrix_product(&k, dots[m], panels, PANELS, &one, leaf, leaf, lone);
            for (size_t p = 0; p < PANELS; p++)
                assert_same(&k, "matrix_product of a row", c + (p * ROWS + row) * row_bytes,
                    lone + p * row_bytes, matrix_panel_width(&w, p) * k.accumulator_bytes);
        }
        free(x);
        free(c);
        free(lone);
        free(w.panels);
    }
}

/* Rows in slabs give what they give row by row, where a kernel takes them so. */
static void slabs_give_the_same(void **state)
{
    (void)state;
    enum { MOST_ROWS = 70, INPUTS = 1216, WIDE = INPUTS + 6 };
    kernels_t k, scalar;
    kernels_get(&k, isa_detect(), DTYPE_BF16);
    kernels_get(&scalar, ISA_SCALAR, DTYPE_BF16);
    assert_false(matrix_wants_slabs(&scalar, DOT_AMX, MOST_ROWS, INPUTS));
    assert_false(matrix_wants_slabs(&k, DOT_CHAIN, MOST_ROWS, INPUTS));
    assert_false(matrix_wants_slabs(&k, DOT_AMX, MOST_ROWS, INPUTS + 2));
    if (!matrix_wants_slabs(&k, DOT_AMX, MOST_ROWS, INPUTS))
        skip();
    matrix_t w = {.rows = KERNEL_PANEL, .columns = INPUTS};
    w.bytes = matrix_panel_bytes(DTYPE_BF16, w.rows, INPUTS);
    w.panels = malloc(w.bytes);
    uint16_t *x = malloc(MOST_ROWS * WIDE * 2), *slabs = malloc(MOST_ROWS * WIDE * 2);
    size_t c_bytes = MOST_ROWS * KERNEL_PANEL * sizeof(float);
    float *c = malloc(c_bytes), *expected = malloc(c_bytes);
    const panel_t panel = {&w, 0};
    for (int fill = 0; fill < FILL_COUNT; fill++) {
        fill_elements(
            DTYPE_BF16, fill == FILL_CANCEL ? FILL_NORMAL : (fill_t)fill, w.bytes / 2, w.panels);
        fill_elements(DTYPE_BF16, (fill_t)fill, MOST_ROWS * WIDE, x);
        for (size_t n = 2; n <= MOST_ROWS; n += 1 + n / 4) {
            /* Slabs with room between them, in two calls as two threads would. */
            size_t stride = (n + 3) * KERNEL_SLAB;
            slabs = realloc(slabs, INPUTS / KERNEL_SLAB * stride * 2);
            slabs_pack_rows(n / 2, INPUTS, x, WIDE, slabs, stride, 0);
            slabs_pack_rows(n - n / 2, INPUTS, x + n / 2 * WIDE, WIDE, slabs, stride, n / 2);
            const matrix_rows_t in_slabs = {.x = slabs, .stride = stride, .slabs = true, .n = n};
            const matrix_rows_t rows = {.x = x, .stride = WIDE, .n = n};
            matrix_product(&k, DOT_AMX, &panel, 1, &in_slabs, MATRIX_ONE_LEAF, MATRIX_ONE_LEAF, c);
            matrix_product(
                &scalar, DOT_AMX, &panel, 1, &rows, MATRIX_ONE_LEAF, MATRIX_ONE_LEAF, expected);
            assert_same(&k, "matrix_product of slabs", c, expected, n * KERNEL_PANEL * 4);
        }
    }
    free(x);
    free(slabs);
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
    assert_int_equal(kernels_self_test(&k, &fail), FAIL_INTERNAL);
    assert_non_null(strstr(fail.message, "tile"));
}

/* Logits with what sums have to get right: equal ones, infinities, NaN, a short last granule. */
static void check_granules(const kernels_t *k, const kernels_t *scalar, fill_t fill, size_t n)
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

static void every_instruction_set_equals_scalar(void **state)
{
    (void)state;
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    for (size_t m = 0; m < 3; m++) {
        kernels_t scalar;
        kernels_get(&scalar, ISA_SCALAR, modes[m]);
        for (isa_t isa = ISA_SCALAR; isa <= isa_detect(); isa++) {
            kernels_t k;
            kernels_get(&k, isa, modes[m]);
            for (int fill = 0; fill < FILL_COUNT; fill++) {
                check_tiles(&k, k.tile, scalar.tile, (fill_t)fill);
                for (size_t rows = 1; modes[m] != DTYPE_BF16 && rows <= 14; rows++)
                    check_groups(&k, &scalar, (fill_t)fill, rows, 16 + rows % 4 * 16,
                        1 + random_u32() % 400);
                if (modes[m] == DTYPE_BF16)
                    check_tiles(&k, k.tile_amx, scalar.tile_amx, (fill_t)fill);
                for (size_t n = 1; n < 40; n++) {
                    check_elementwise(&k, &scalar, (fill_t)fill, n);
                    check_several(&k, &scalar, (fill_t)fill, n);
                }
                check_several(&k, &scalar, (fill_t)fill, 1037);
                for (size_t n = 64; n < 9000; n = n * 3 / 2 + random_u32() % 7) {
                    check_elementwise(&k, &scalar, (fill_t)fill, n);
                    if (modes[m] != DTYPE_F64)
                        check_granules(&k, &scalar, (fill_t)fill, n);
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_set_equals_scalar),
        cmocka_unit_test(a_row_does_not_depend_on_the_others),
        cmocka_unit_test(slabs_give_the_same),
        cmocka_unit_test(the_sdpa_kernels_equal_scalar),
        cmocka_unit_test(swiglu_of_every_gate_equals_scalar),
        cmocka_unit_test(the_start_up_test_passes_here),
        cmocka_unit_test(the_start_up_test_finds_a_wrong_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
