/* The start-up check: the chosen kernels against scalar, so that a miscompiled or misdetected
 * instruction set is found before it answers anybody. Data cancels, because rounding to bf16 hides
 * a wrong order in nearly all random results. */
#include <string.h>

#include "engine/base/memory.h"
#include "engine/kernels/kernels.h"

enum { ROWS = 7, INPUTS = 94, ROW_ELEMENTS = 96, MAX_VALUES = 8192 };

/* Values for one check, in f64 so that every mode fits. */
typedef struct self_test {
    kernels_t scalar;
    const kernels_t *tested;
    double a[MAX_VALUES], b[MAX_VALUES], expected[MAX_VALUES], got[MAX_VALUES];
} self_test_t;

static void fill(dtype_t dtype, uint32_t seed, void *out, size_t n)
{
    uint32_t state = seed;
    double last = 0;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        double value =
            i % 2 == 1 ? -last : ((double)(state >> 8) / 8388608.0 - 1) * (double)(1 + i % 5);
        last = value;
        dtype_convert((char *)out + i * dtype_bytes(dtype), dtype, &value, DTYPE_F64, 1);
    }
}

static int differs(const self_test_t *t, size_t bytes, const char *kernel, fail_t *fail)
{
    if (memcmp(t->expected, t->got, bytes) == 0)
        return 0;
    return fail_set(fail, FAIL_INTERNAL,
        "self-test: kernel %s of %s in %s does not equal scalar; set CHOIR_ISA to a lower "
        "instruction set "
        "(scalar, avx2, avx512, avx512_bf16)",
        kernel, t->tested->isa, dtype_name(t->tested->mode));
}

typedef void (*tile_fn)(
    size_t, const void *, size_t, const void *, size_t, size_t, void *, size_t, tile_mode_t);

static int test_tile(self_test_t *t, const char *name, tile_fn tile, tile_fn scalar, fail_t *fail)
{
    const kernels_t *k = t->tested;
    dtype_t accumulator = k->accumulator_bytes == 8 ? DTYPE_F64 : DTYPE_F32;
    size_t n = ROWS * KERNEL_PANEL;
    fill(k->mode, 1, t->a, ROWS * ROW_ELEMENTS);
    fill(k->mode, 2, t->b, INPUTS * KERNEL_PANEL);
    for (int mode = TILE_SET; mode <= TILE_ADD; mode++) {
        fill(accumulator, 3, t->expected, n);
        fill(accumulator, 3, t->got, n);
        scalar(ROWS, t->a, ROW_ELEMENTS, t->b, KERNEL_PANEL, INPUTS, t->expected, KERNEL_PANEL,
            (tile_mode_t)mode);
        tile(ROWS, t->a, ROW_ELEMENTS, t->b, KERNEL_PANEL, INPUTS, t->got, KERNEL_PANEL,
            (tile_mode_t)mode);
        if (differs(t, n * k->accumulator_bytes, name, fail) != 0)
            return fail->status;
    }
    return 0;
}

static int test_groups(self_test_t *t, fail_t *fail)
{
    const kernels_t *k = t->tested;
    fill(k->mode, 1, t->a, ROWS * ROW_ELEMENTS);
    fill(k->mode, 2, t->b, INPUTS * KERNEL_PANEL);
    t->scalar.tile_groups(
        ROWS, t->a, ROW_ELEMENTS, t->b, KERNEL_PANEL, INPUTS, t->expected, KERNEL_PANEL, TILE_SET);
    k->tile_groups(
        ROWS, t->a, ROW_ELEMENTS, t->b, KERNEL_PANEL, INPUTS, t->got, KERNEL_PANEL, TILE_SET);
    return differs(t, ROWS * KERNEL_PANEL * k->accumulator_bytes, "tile_groups", fail);
}

static int test_rows(self_test_t *t, fail_t *fail)
{
    enum { N = 1037 };
    const kernels_t *k = t->tested, *s = &t->scalar;
    size_t bytes = N * k->element_bytes;
    dtype_t accumulator = k->accumulator_bytes == 8 ? DTYPE_F64 : DTYPE_F32;
    fill(k->mode, 4, t->a, N);
    fill(k->mode, 5, t->b, N);
    s->rms_norm(1, N, t->a, N, t->b, 1e-6, t->expected, N);
    k->rms_norm(1, N, t->a, N, t->b, 1e-6, t->got, N);
    if (differs(t, bytes, "rms_norm", fail) != 0)
        return fail->status;
    /* Scratch behind the row: both fit. */
    fill(k->mode, 6, t->expected, N);
    fill(k->mode, 6, t->got, N);
    s->softmax(N, true, t->expected, t->expected + MAX_VALUES / 2);
    k->softmax(N, true, t->got, t->got + MAX_VALUES / 2);
    if (differs(t, bytes, "softmax", fail) != 0)
        return fail->status;
    fill(accumulator, 7, t->a, N);
    fill(accumulator, 8, t->b, N);
    s->store_swiglu(1, N, t->a, t->b, N, t->expected, N);
    k->store_swiglu(1, N, t->a, t->b, N, t->got, N);
    if (differs(t, bytes, "store_swiglu", fail) != 0)
        return fail->status;
    fill(DTYPE_F64, 9, t->expected, N);
    fill(DTYPE_F64, 9, t->got, N);
    s->exp_f64(N, t->expected);
    k->exp_f64(N, t->got);
    return differs(t, N * sizeof(double), "exp_f64", fail);
}

int kernels_self_test(const kernels_t *kernels, fail_t *fail)
{
    /* Too large for some stacks. */
    self_test_t *test = memory_alloc(sizeof *test, "self-test", fail);
    if (test == NULL)
        return fail->status;
    test->tested = kernels;
    kernels_get(&test->scalar, ISA_SCALAR, kernels->mode);
    test_tile(test, "tile", kernels->tile, test->scalar.tile, fail);
    if (kernels->mode == DTYPE_BF16 && fail->status == 0)
        test_tile(test, "tile_amx", kernels->tile_amx, test->scalar.tile_amx, fail);
    if (kernels->mode != DTYPE_BF16 && fail->status == 0)
        test_groups(test, fail);
    if (fail->status == 0)
        test_rows(test, fail);
    memory_free(test, sizeof *test);
    return fail->status;
}
