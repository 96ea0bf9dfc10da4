/* Attention over a sliding window: the bits of the reference's calls, which begin at the oldest key that
 * it keeps, however the window lies in the blocks of the cache. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/size.h"
#include "tests/attention_fixture.h"

static const struct {
    const char *name;
    order_t order;
    attention_t attention;
    dot_t dot;
} orders[] = {
    {"eager", ORDER_TORCH, ATTENTION_EAGER, DOT_CHAIN},
    {"sdpa", ORDER_TORCH, ATTENTION_SDPA, DOT_CHAIN},
    {"sdpa with amx", ORDER_TORCH, ATTENTION_SDPA, DOT_AMX},
    {"eager avx2", ORDER_TORCH_AVX2, ATTENTION_EAGER, DOT_FOLD},
    {"sdpa avx2", ORDER_TORCH_AVX2, ATTENTION_SDPA, DOT_FOLD},
};
enum { N_ORDERS = sizeof orders / sizeof *orders };

static const size_t windows[] = {1, 2, 7, 16, 33, 64, 65, 300, 515};
enum { N_WINDOWS = sizeof windows / sizeof *windows };

static attention_case_t case_of(size_t order, size_t n_heads, size_t n_tokens, size_t window)
{
    return (attention_case_t){.mode = DTYPE_BF16,
        .isa = isa_detect(),
        .order = orders[order].order,
        .attention = orders[order].attention,
        .dot = orders[order].dot,
        .head_dim = 72,
        .n_heads = n_heads,
        .n_tokens = n_tokens,
        .window = window};
}

/* Values in pairs that cancel but for rounding, [n_keys, dim]: the sum is the rounding error of its
 * order. */
static void fill_cancelling(uint16_t *v, size_t n_keys, size_t dim)
{
    uint64_t random = 7;
    for (size_t i = 0; i < n_keys * dim; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        float x = (float)(random >> 40) * 0x1p-24f + 0.01f;
        v[i] = bf16_from_f32(i / dim % 3 == 0 ? x * 1000 : x);
    }
    for (size_t j = 0; j + 1 < n_keys; j += 2)
        for (size_t i = 0; i < dim; i++)
            v[(n_keys - 1 - j / 2) * dim + i] = v[j / 2 * dim + i] ^ 0x8000;
}

/* Queries of zero, so that all keys weigh the same, and values that cancel in every window, since they
 * repeat after its length. */
static void make_cancelling(attention_data_t *data)
{
    const attention_case_t *c = &data->c;
    uint16_t *v = (uint16_t *)data->v;
    memset(data->q, 0, c->n_tokens * c->n_heads * c->head_dim * sizeof *v);
    fill_cancelling(v, c->window, c->head_dim);
    for (size_t i = c->window * c->head_dim; i < c->n_tokens * c->head_dim; i++)
        v[i] = v[i - c->window * c->head_dim];
}

/* A step at position t of a sequence with a window is the step after window - 1 tokens of the sequence that
 * begins where the window does. Several query heads are rows of one head in sdpa's call, and in
 * no other. */
static void a_full_window_is_a_sequence_of_its_own(void **state)
{
    static const size_t beyond[] = {0, 1, 2, 31, 62, 63, 64, 65};
    (void)state;
    for (size_t i = 0; i < 2 * N_ORDERS; i++)
        for (size_t w = 0; w < N_WINDOWS; w++) {
            size_t o = i / 2, n_heads = orders[o].attention == ATTENTION_SDPA ? 1 : 3;
            attention_case_t c = case_of(o, n_heads, windows[w] + 66, windows[w]);
            size_t row = n_heads * c.head_dim * sizeof(uint16_t), key = row / n_heads;
            attention_data_t data, own;
            attention_open(&data, &c);
            if (i % 2 == 1)
                make_cancelling(&data);
            attention_append(&data, 0, c.n_tokens);
            for (size_t b = 0; b < sizeof beyond / sizeof *beyond; b++) {
                size_t last = windows[w] - 1, first = beyond[b];
                attention_case_t fresh = case_of(o, n_heads, windows[w], 0);
                attention_open_with(
                    &own, &fresh, data.q + first * row, data.k + first * key, data.v + first * key);
                attention_append(&own, 0, fresh.n_tokens);
                attention_compute(&own, last, last + 1, 1);
                attention_compute(&data, first + last, first + last + 1, 1);
                if (memcmp(data.out + (first + last) * row, own.out + last * row, row) != 0)
                    fail_msg("%s, window %zu, %zu keys dropped: other bits than without those",
                        orders[o].name, windows[w], first);
                attention_close(&own);
            }
            attention_close(&data);
        }
}

static void check_same(const attention_data_t *a, const attention_data_t *b, size_t order,
    size_t window, const char *what)
{
    if (memcmp(a->out, b->out, a->out_bytes) != 0)
        fail_msg("%s, window %zu: other bits with %s", orders[order].name, window, what);
}

static void compute_steps(attention_data_t *data)
{
    for (size_t t = 0; t < data->c.n_tokens; t++)
        attention_compute(data, t, t + 1, 1);
}

/* Of a prompt, and of decode steps: near plain double precision, the same bits in chunks and on every
 * instruction set. */
static void windows_hide_keys_on_every_instruction_set(void **state)
{
    static const isa_t isas[] = {ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_AVX512_BF16};
    (void)state;
    for (size_t o = 0; o < N_ORDERS; o++)
        for (size_t w = 0; w < N_WINDOWS; w++) {
            /* Groups of two and three rows have orders of their own. */
            attention_case_t c = case_of(o, 2 + w % 4, windows[w] < 300 ? 140 : 600, windows[w]);
            attention_data_t prompt, steps, other;
            attention_open(&prompt, &c);
            attention_prefill(&prompt, c.n_tokens);
            assert_true(attention_error(&prompt) < 0x1p-5);
            attention_open(&steps, &c);
            attention_append(&steps, 0, c.n_tokens);
            compute_steps(&steps);
            assert_true(attention_error(&steps) < 0x1p-5);
            attention_open(&other, &c);
            attention_prefill(&other, 37);
            check_same(&other, &prompt, o, c.window, "chunks");
            attention_close(&other);
            for (size_t i = 0; i < sizeof isas / sizeof *isas && c.n_tokens < 300; i++) {
                /* Scalar C is slow, with sanitizers most of this test: 1, 7, 33, 65. */
                if (!isa_has(isa_detect(), isas[i]) || (isas[i] == ISA_SCALAR && w % 2 != 0))
                    continue;
                c.isa = isas[i];
                attention_open(&other, &c);
                attention_prefill(&other, c.n_tokens);
                check_same(&other, &prompt, o, c.window, "another instruction set");
                compute_steps(&other);
                check_same(&other, &steps, o, c.window, "steps on another instruction set");
                attention_close(&other);
            }
            attention_close(&prompt);
            attention_close(&steps);
        }
}

/* ---- Two and three rows of one head ----------------------------------------------------------- */

enum { DIM = 40, MOST_KEYS = 600 };

/* exp(0), as sdpa computes it for whole vectors of keys: weights are this, rounded, and add up to sum. */
static float weight_sum(size_t n_keys, size_t lanes)
{
    union {
        int32_t bits;
        float value;
    } e = {.bits = (int32_t)fmaf(0x1p+23f, -0.00010703434948458272f, 0x1.fcp+29f)};
    float total = 0;
    for (size_t first = 0; first < n_keys; first += 512) {
        size_t n = size_min(512, n_keys - first), whole = n / lanes * lanes;
        float sums[2][16] = {{0}};
        for (size_t j = 0; j < whole; j++)
            sums[j / lanes % 2][j % lanes] += e.value;
        for (size_t j = 0; j < lanes; j++)
            sums[0][j] += sums[1][j];
        for (size_t half = lanes / 2; half > 0; half /= 2)
            for (size_t j = 0; j < half; j++)
                sums[0][j] += sums[0][j + half];
        for (size_t j = whole; j < n; j++)
            sums[0][0] += 1;
        total = fmaf(1, total, sums[0][0]);
    }
    return total;
}

/* The sum over keys, all of weight 1: ascending, or, of an output that the reference's buffer does not align,
 * by eights: four one by one, then the others together. */
static float value_sum(const uint16_t *v, size_t n_keys, size_t output, bool unaligned)
{
    float sum = 0;
    for (size_t first = 0; first < n_keys; first += 512) {
        size_t n = size_min(512, n_keys - first), j = 0;
        const uint16_t *at = v + first * DIM + output;
        for (; unaligned && n >= 8 && j + 8 <= n; j += 8) {
            for (size_t i = 0; i < 4; i++)
                sum += f32_from_bf16(at[(j + i) * DIM]);
            sum += ((f32_from_bf16(at[(j + 4) * DIM]) + f32_from_bf16(at[(j + 5) * DIM])) +
                       f32_from_bf16(at[(j + 6) * DIM])) +
                   f32_from_bf16(at[(j + 7) * DIM]);
        }
        for (; j < n; j++)
            sum += f32_from_bf16(at[j * DIM]);
    }
    return sum;
}

/* Returns how many outputs the exception changes. */
static size_t check_packed_rows(size_t n_heads, size_t window, size_t dropped, order_t order)
{
    static uint16_t q[(MOST_KEYS + 70) * 3 * DIM], k[(MOST_KEYS + 70) * DIM],
        v[(MOST_KEYS + 70) * DIM];
    size_t last = window + dropped - 1, off = n_heads * (size_min(window, 512) + 2) % 4, n = 0;
    const attention_case_t c = {.mode = DTYPE_BF16,
        .isa = isa_detect(),
        .order = order,
        .attention = ATTENTION_SDPA,
        .dot = order == ORDER_TORCH ? DOT_CHAIN : DOT_FOLD,
        .head_dim = DIM,
        .n_heads = n_heads,
        .n_tokens = last + 1,
        .window = window};
    attention_data_t data;
    fill_cancelling(v + dropped * DIM, window, DIM);
    attention_open_with(&data, &c, q, k, v);
    attention_append(&data, 0, last + 1);
    attention_compute(&data, last, last + 1, 1);
    const uint16_t *found = (const uint16_t *)data.out + last * n_heads * DIM;
    float z = 1 / weight_sum(window, order == ORDER_TORCH ? 16 : 8);
    for (size_t i = 0; i < n_heads * DIM; i++) {
        bool unaligned = off > 0 && i % DIM < 4 - off;
        const uint16_t *first = v + dropped * DIM;
        uint16_t expected = bf16_from_f32(value_sum(first, window, i % DIM, unaligned) * z);
        n += unaligned && expected != bf16_from_f32(value_sum(first, window, i % DIM, false) * z);
        if (found[i] != expected)
            fail_msg("%zu heads, window %zu, %zu dropped: output %zu is %04x, expected %04x",
                n_heads, window, dropped, i, found[i], expected);
    }
    attention_close(&data);
    return n;
}

static void two_and_three_rows_have_the_order_of_their_buffer(void **state)
{
    static const size_t sizes[] = {7, 8, 9, 10, 13, 37, 64, 127, 513, 600};
    (void)state;
    size_t n_changed = 0;
    for (size_t w = 0; w < sizeof sizes / sizeof *sizes; w++)
        for (size_t n_heads = 2; n_heads <= 3; n_heads++)
            for (size_t dropped = 0; dropped < 66; dropped += 13)
                for (int avx2 = 0; avx2 < 2; avx2++)
                    n_changed += check_packed_rows(
                        n_heads, sizes[w], dropped, avx2 ? ORDER_TORCH_AVX2 : ORDER_TORCH);
    assert_true(n_changed > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_window_is_a_sequence_of_its_own),
        cmocka_unit_test(windows_hide_keys_on_every_instruction_set),
        cmocka_unit_test(two_and_three_rows_have_the_order_of_their_buffer),
    };
    return cmocka_run_group_tests_name("attention_window", tests, NULL, NULL);
}
