/* Eager attention: scores, scale, softmax over the whole row, product with V, each rounded as
 * transformers' eager path does (docs/pytorch-orders.md, "Eager attention"). Masked keys add zeros
 * to sums that start at +0 and are left out; only their number matters, to the choice of the sum's
 * order. */
#include <math.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/model/attention_window.h"

/* Products of at most this many multiplications are not done by oneDNN in the reference, and follow
 * another order. */
#define SMALL_PRODUCT 4096
#define SMALL_PLAIN 400
#define OUT_CHAINS 4 /* of an output, with --order torch-avx2 */

typedef struct eager_scratch {
    char *q;       /* [rows, head_dim] element */
    char *weights; /* [rows, keys] element: scores, then probabilities */
    char *block;   /* [rows, KERNEL_PANEL] accumulator: scores of one block, chains of one leaf */
    char *out;     /* [rows, OUT_CHAINS, KERNEL_PANEL] accumulator: one panel of outputs */
    char *exponentials; /* [keys] accumulator */
    char *panel;        /* of keys or values that begin within a block of the cache */
    size_t weights_stride;
} eager_scratch_t;

static size_t place(char *base, size_t *used, char **part, size_t bytes)
{
    *part = base == NULL ? NULL : base + *used;
    *used += size_round_up(bytes, 64);
    return *used;
}

static size_t lay_out(
    eager_scratch_t *s, char *base, const kernels_t *k, size_t rows, size_t head_dim, size_t keys)
{
    size_t used = 0;
    s->weights_stride = size_round_up(keys, KV_BLOCK);
    place(base, &used, &s->q, rows * kernel_padded_inputs(k->mode, head_dim) * k->element_bytes);
    place(base, &used, &s->weights, rows * s->weights_stride * k->element_bytes);
    place(base, &used, &s->block, rows * KERNEL_PANEL * k->accumulator_bytes);
    place(base, &used, &s->out, rows * OUT_CHAINS * KERNEL_PANEL * k->accumulator_bytes);
    place(base, &used, &s->panel, attention_panel_bytes(head_dim));
    return place(base, &used, &s->exponentials, s->weights_stride * k->accumulator_bytes);
}

size_t attention_eager_scratch_bytes(
    const kernels_t *kernels, size_t head_dim, size_t max_heads, size_t max_keys)
{
    eager_scratch_t s;
    return lay_out(&s, NULL, kernels, attention_unit_max_rows(max_heads), head_dim, max_keys);
}

static void gather_queries(const attention_unit_t *u, char *q)
{
    size_t row_bytes = u->n_heads * u->head_dim * u->kernels->element_bytes;
    for (size_t t = 0; t < u->n_tokens; t++)
        memcpy(q + t * row_bytes, (const char *)u->q + t * u->q_stride * u->kernels->element_bytes,
            row_bytes);
}

static size_t position_of(const attention_unit_t *u, size_t row)
{
    return u->first_position + row / u->n_heads;
}

/* First key that a row sees. */
static size_t first_key(const attention_unit_t *u, size_t row)
{
    size_t seen = position_of(u, row) + 1;
    return u->window != 0 && seen > u->window ? seen - u->window : 0;
}

/* Keys of the call that the reference makes, masked ones included. */
static size_t call_keys(const attention_unit_t *u)
{
    return u->ref_q_len == 1 ? u->first_position + 1 : u->ref_q_len;
}

/* Keys of the call before a sliding window: their probability becomes exactly 0. */
static void hide_keys(dtype_t mode, size_t n, void *scores)
{
    const double hidden = -INFINITY;
    for (size_t i = 0; i < n; i++)
        dtype_convert((char *)scores + i * dtype_bytes(mode), mode, &hidden, DTYPE_F64, 1);
}

static void show_weights(const attention_unit_t *u, size_t r, size_t n_keys, void *weights)
{
    if (u->tap == NULL)
        return;
    size_t token = r / u->n_heads, head = u->tap_head + r % u->n_heads;
    const tap_part_t part = {.component = COMPONENT_ATTN_WEIGHTS,
        .layer = u->layer,
        .row = head * u->tap_rows + u->tap_row + token,
        .n_rows = 1,
        .n_columns = n_keys,
        .stride = n_keys,
        .values = weights};
    u->tap->part(u->tap->context, &part);
}

/* ---- The reference's order for tiny products (bf16) ------------------------------------------ */

/* Sum of products x[i] * y[i], i ascending. Products of bf16 are exact in f32. */
static float plain_dot(const float *x, const float *y, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = fmaf(x[i], y[i], sum);
    return sum;
}

static float fold_lanes(float *lanes)
{
    for (size_t width = 4; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            lanes[j] += lanes[j + width];
    return lanes[0];
}

/* 8 lanes; 64 elements at a time in 8 vector accumulators, then 16 at a time into one, then one by
 * one. */
static float lanes_dot(const float *x, const float *y, size_t n)
{
    float wide[8][8] = {{0}}, narrow[8] = {0};
    size_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (size_t j = 0; j < 64; j++)
            wide[j / 8][j % 8] = fmaf(x[i + j], y[i + j], wide[j / 8][j % 8]);
    for (size_t width = 4; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++)
            for (size_t l = 0; l < 8; l++)
                wide[j][l] += wide[j + width][l];
    float sum = fold_lanes(wide[0]);
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 16; j++)
            narrow[j % 8] = fmaf(x[i + j], y[i + j], narrow[j % 8]);
    sum += fold_lanes(narrow);
    for (; i < n; i++)
        sum = fmaf(x[i], y[i], sum);
    return sum;
}

/* 4 interleaved accumulators over keys; remaining keys go to the first. */
static float interleaved_dot(const float *x, const float *y, size_t n)
{
    float sums[4] = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t j = 0; j < 4; j++)
            sums[j] = fmaf(x[i + j], y[i + j], sums[j]);
    for (; i < n; i++)
        sums[0] = fmaf(x[i], y[i], sums[0]);
    return ((sums[0] + sums[1]) + sums[2]) + sums[3];
}

static bool is_small(const attention_unit_t *u)
{
    if (u->order == ORDER_TORCH_AVX2)
        return u->ref_q_len * call_keys(u) * u->head_dim < SMALL_PLAIN;
    return u->kernels->mode == DTYPE_BF16 && u->order == ORDER_TORCH &&
           u->total_heads * u->ref_q_len * call_keys(u) * u->head_dim <= SMALL_PRODUCT;
}

/* Element i of a bf16 panel's output n. */
static float panel_value(const void *panel, size_t width, size_t n, size_t i)
{
    return f32_from_bf16(((const uint16_t *)panel)[(i / 2 * width + n) * 2 + i % 2]);
}

/* A panel of outputs. */
static const char *v_panel(const attention_unit_t *u, size_t key, size_t first_output, size_t width)
{
    if (u->kernels->mode == DTYPE_BF16)
        return attention_values(u, key, first_output, width, false);
    return kv_cache_v(u->cache, u->layer, u->kv_head, (size_t)u->blocks[key / KV_BLOCK]) +
           first_output * KV_BLOCK * u->kernels->element_bytes;
}

static void small_attention(const attention_unit_t *u, eager_scratch_t *s)
{
    enum { MAX_SMALL = SMALL_PRODUCT };
    float x[MAX_SMALL], y[MAX_SMALL];
    size_t d = u->head_dim;
    bool plain = u->ref_q_len * call_keys(u) * d < SMALL_PLAIN;
    for (size_t r = 0; r < u->n_tokens * u->n_heads; r++) {
        size_t n_keys = position_of(u, r) + 1;
        uint16_t *weights = (uint16_t *)s->weights;
        float *scores = (float *)s->exponentials;
        for (size_t i = 0; i < d; i++)
            x[i] = f32_from_bf16(((const uint16_t *)s->q)[r * d + i]);
        const void *panel = NULL; /* of a block of keys or values: a window may have to copy it */
        for (size_t key = 0; key < n_keys; key++) {
            panel = key % KV_BLOCK == 0 ? attention_keys(u, key) : panel;
            for (size_t i = 0; i < d; i++)
                y[i] = panel_value(panel, KV_BLOCK, key % KV_BLOCK, i);
            scores[key] = plain ? plain_dot(x, y, d) : lanes_dot(x, y, d);
        }
        u->kernels->scale_scores(n_keys, scores, u->scale, weights);
        hide_keys(DTYPE_BF16, first_key(u, r), weights);
        u->kernels->softmax(
            n_keys, order_softmax_lanes(u->order, call_keys(u)), weights, s->exponentials);
        show_weights(u, r, n_keys, weights);
        for (size_t key = 0; key < n_keys; key++)
            x[key] = f32_from_bf16(weights[key]);
        uint16_t *out = (uint16_t *)u->out + r / u->n_heads * u->out_stride + r % u->n_heads * d;
        for (size_t i = 0; i < d; i++) {
            size_t first = i / KERNEL_PANEL * KERNEL_PANEL;
            size_t width = size_min(KERNEL_PANEL, kernel_padded_outputs(d) - first);
            for (size_t key = 0; key < n_keys; key++) {
                panel = key % KV_BLOCK == 0 ? v_panel(u, key, first, width) : panel;
                y[key] = panel_value(panel, width, i - first, key % KV_BLOCK);
            }
            out[i] = bf16_from_f32(plain ? plain_dot(x, y, n_keys) : interleaved_dot(x, y, n_keys));
        }
    }
}

/* ---- The general case ------------------------------------------------------------------------ */

static void compute_scores(const attention_unit_t *u, eager_scratch_t *s, size_t n_keys)
{
    const kernels_t *k = u->kernels;
    size_t rows = u->n_tokens * u->n_heads, leaf = order_score_leaf(k->mode, u->head_dim);
    for (size_t key = 0; key < n_keys; key += KV_BLOCK) {
        const char *panel = attention_keys(u, key);
        for (size_t i = 0; i < u->head_dim; i += leaf)
            k->tile(rows, s->q + i * k->element_bytes, u->head_dim,
                panel + i * KV_BLOCK * k->element_bytes, KV_BLOCK, size_min(leaf, u->head_dim - i),
                s->block, KERNEL_PANEL, i == 0 ? TILE_SET : TILE_ADD);
        for (size_t r = 0; r < rows; r++)
            k->scale_scores(KV_BLOCK, s->block + r * KERNEL_PANEL * k->accumulator_bytes, u->scale,
                s->weights + (r * s->weights_stride + key) * k->element_bytes);
    }
}

static void compute_probabilities(const attention_unit_t *u, eager_scratch_t *s, size_t n_keys)
{
    const kernels_t *k = u->kernels;
    size_t lanes = order_softmax_lanes(u->order, call_keys(u));
    for (size_t r = 0; r < u->n_tokens * u->n_heads; r++) {
        char *row = s->weights + r * s->weights_stride * k->element_bytes;
        size_t end = position_of(u, r) + 1;
        hide_keys(k->mode, first_key(u, r), row);
        k->softmax(end, lanes, row, s->exponentials);
        show_weights(u, r, end, row);
        memset(row + end * k->element_bytes, 0,
            (size_round_up(n_keys, KV_BLOCK) - end) * k->element_bytes);
    }
}

/* One panel of outputs: leaves over keys, each a chain that continues through the cache's
 * blocks. */
static void compute_outputs(
    const attention_unit_t *u, eager_scratch_t *s, size_t n_keys, size_t first_output)
{
    const kernels_t *k = u->kernels;
    size_t rows = u->n_tokens * u->n_heads;
    size_t width = size_min(KERNEL_PANEL, kernel_padded_outputs(u->head_dim) - first_output);
    size_t leaf = order_output_leaf(u->order, k->mode, call_keys(u), u->ref_q_len == 1);
    for (size_t key = 0; key < n_keys; key += KV_BLOCK) {
        const char *panel = v_panel(u, key, first_output, width);
        size_t n = kernel_padded_inputs(k->mode, size_min(KV_BLOCK, n_keys - key));
        k->tile(rows, s->weights + key * k->element_bytes, s->weights_stride, panel, width, n,
            key < leaf ? s->out : s->block, KERNEL_PANEL, key % leaf == 0 ? TILE_SET : TILE_CHAIN);
        bool leaf_ends = (key + KV_BLOCK) % leaf == 0 || key + KV_BLOCK >= n_keys;
        if (leaf_ends && key >= leaf)
            k->add(rows * KERNEL_PANEL, s->block, s->out);
    }
    size_t outputs = size_min(width, u->head_dim - first_output);
    for (size_t t = 0; t < u->n_tokens; t++)
        for (size_t h = 0; h < u->n_heads; h++)
            k->store(1, outputs,
                s->out + (t * u->n_heads + h) * KERNEL_PANEL * k->accumulator_bytes, KERNEL_PANEL,
                NULL,
                (char *)u->out +
                    (t * u->out_stride + h * u->head_dim + first_output) * k->element_bytes,
                0);
}

/* ---- The order of CPUs with AVX2 only -------------------------------------------------------- */

static void compute_folded_scores(const attention_unit_t *u, eager_scratch_t *s, size_t n_keys)
{
    const kernels_t *k = u->kernels;
    size_t rows = u->n_tokens * u->n_heads;
    for (size_t key = 0; key < n_keys; key += KV_BLOCK) {
        k->fold_scores(rows, (const uint16_t *)s->q, u->head_dim, attention_keys(u, key), KV_BLOCK,
            u->head_dim, (float *)s->block, KERNEL_PANEL);
        for (size_t r = 0; r < rows; r++)
            k->scale_scores(KV_BLOCK, (const float *)s->block + r * KERNEL_PANEL, u->scale,
                (uint16_t *)s->weights + r * s->weights_stride + key);
    }
}

/* One panel of outputs: the keys of the call, masked ones included, go to four chains, the last one to
 * three of them to the first. */
static void compute_interleaved_outputs(
    const attention_unit_t *u, eager_scratch_t *s, size_t n_keys, size_t first_output)
{
    const kernels_t *k = u->kernels;
    size_t rows = u->n_tokens * u->n_heads, interleaved = call_keys(u) / 4 * 4;
    size_t width = size_min(KERNEL_PANEL, kernel_padded_outputs(u->head_dim) - first_output);
    size_t outputs = size_min(width, u->head_dim - first_output), stride = OUT_CHAINS * width;
    memset(s->out, 0, rows * stride * sizeof(float));
    for (size_t key = 0; key < n_keys; key += KV_BLOCK) {
        size_t n = kernel_padded_inputs(k->mode, size_min(KV_BLOCK, n_keys - key));
        k->interleaved_outputs(rows, (const uint16_t *)s->weights + key, s->weights_stride,
            v_panel(u, key, first_output, width), width, n,
            interleaved > key ? size_min(interleaved - key, n) : 0, (float *)s->out, stride);
    }
    for (size_t r = 0; r < rows; r++) {
        float *sums = (float *)s->out + r * stride;
        for (size_t chain = 1; chain < OUT_CHAINS; chain++)
            k->add(width, sums + chain * width, sums);
        k->store(1, outputs, sums, width, NULL,
            (uint16_t *)u->out + r / u->n_heads * u->out_stride + r % u->n_heads * u->head_dim +
                first_output,
            0);
    }
}

void attention_eager(const attention_unit_t *unit, void *scratch)
{
    eager_scratch_t s;
    size_t n_keys = unit->first_position + unit->n_tokens;
    lay_out(&s, scratch, unit->kernels, unit->n_tokens * unit->n_heads, unit->head_dim, n_keys);
    const attention_unit_t call = attention_call(unit, s.panel), *u = &call;
    n_keys = u->first_position + u->n_tokens;
    gather_queries(u, s.q);
    if (is_small(u)) {
        small_attention(u, &s);
        return;
    }
    bool avx2 = u->order == ORDER_TORCH_AVX2;
    (avx2 ? compute_folded_scores : compute_scores)(u, &s, n_keys);
    compute_probabilities(u, &s, n_keys);
    for (size_t first = 0; first < u->head_dim; first += KERNEL_PANEL)
        (avx2 ? compute_interleaved_outputs : compute_outputs)(u, &s, n_keys, first);
}
