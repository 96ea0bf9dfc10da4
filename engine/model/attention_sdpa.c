/* Attention in the order of PyTorch's fused CPU kernel
 * (_scaled_dot_product_flash_attention_for_cpu), transformers' default: blocks of queries and keys
 * with a running maximum, products in the orders of MKL's bf16 gemm (docs/pytorch-orders.md,
 * "SDPA"). Masked keys contribute zeros to sums that start at +0 and are left out; their number
 * matters, and where a call with a window begins. Mode bf16 only. */
#include <math.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/model/attention_window.h"
#include "engine/model/libm_exp.h"

#define KEY_BLOCK 512
#define LINE 64                           /* of the caches */
#define PREFETCH_BYTES ((size_t)16 << 10) /* at most: a part of the first-level cache */

typedef struct sdpa_scratch {
    uint16_t *q;              /* [rows, head_dim], pairs swapped */
    float *wide_q;            /* [rows, head_dim], not swapped */
    float *scores;            /* [rows, KEY_BLOCK], then the weights, not swapped */
    uint16_t *weights;        /* [rows, KEY_BLOCK], pairs swapped */
    float *out;               /* [panels][rows, KERNEL_PANEL] */
    float *leaf;              /* [rows, KERNEL_PANEL] */
    float *max, *sum;         /* [rows] */
    float *old_max, *old_sum; /* of the heads of a token */
    uint16_t *carry;          /* [rows] carried weights of a leaf's odd end */
    void *panel;              /* of keys or values that begin within a block of the cache */
    bool cached;              /* another unit has just read this block of keys */
} sdpa_scratch_t;

static size_t place(char *base, size_t *used, size_t bytes, char **part)
{
    *part = base == NULL ? NULL : base + *used;
    *used += size_round_up(bytes, 64);
    return *used;
}

/* rows: of all units together; most: of one of them, for what lasts for a block of keys. */
static size_t lay_out(sdpa_scratch_t *s, char *base, size_t rows, size_t most, size_t head_dim)
{
    size_t used = 0, panels = (head_dim + KERNEL_PANEL - 1) / KERNEL_PANEL;
    char *parts[12];
    const size_t bytes[12] = {rows * head_dim * 2, rows * head_dim * 4, most * KEY_BLOCK * 4,
        most * KEY_BLOCK * 2, panels * rows * KERNEL_PANEL * 4, most * KERNEL_PANEL * 4, rows * 4,
        rows * 4, most * 4, most * 4, most * 2, attention_panel_bytes(head_dim)};
    for (int i = 0; i < 12; i++)
        place(base, &used, bytes[i], &parts[i]);
    *s = (sdpa_scratch_t){(uint16_t *)parts[0], (float *)parts[1], (float *)parts[2],
        (uint16_t *)parts[3], (float *)parts[4], (float *)parts[5], (float *)parts[6],
        (float *)parts[7], (float *)parts[8], (float *)parts[9], (uint16_t *)parts[10], parts[11],
        false};
    return used;
}

/* The scratch of a unit whose rows begin at `row` of all. */
static sdpa_scratch_t scratch_of(const sdpa_scratch_t *all, size_t row, size_t head_dim)
{
    size_t panels = (head_dim + KERNEL_PANEL - 1) / KERNEL_PANEL;
    sdpa_scratch_t s = *all;
    s.q += row * head_dim;
    s.wide_q += row * head_dim;
    s.out += row * panels * KERNEL_PANEL;
    s.max += row;
    s.sum += row;
    return s;
}

size_t attention_sdpa_scratch_bytes(size_t head_dim, size_t max_heads)
{
    sdpa_scratch_t s;
    size_t most = attention_unit_max_rows(max_heads);
    return lay_out(&s, NULL, size_max(most, ATTENTION_TOGETHER_ROWS), most, head_dim);
}

/* The parameters of the order of one pair of blocks. */
typedef struct block {
    size_t first_key, n_keys; /* of the reference's key block, masked keys included */
    size_t n_queries;         /* rows of the query block */
    size_t end;               /* keys of this block that some row of the unit sees */
    bool is_first;            /* that is computed; none of those before has a key that is seen */
} block_t;

/* Rows of the reference's query block that holds the unit's tokens. */
static size_t query_block_rows(const attention_unit_t *u)
{
    size_t s = u->ref_q_len;
    if (s == 1)
        return size_max(u->packed_rows, 1);
    size_t block = s >= 768 ? 256 : s >= 192 ? 64 : 32;
    size_t first = u->first_position / block * block;
    return size_min(block, s - first);
}

/* Keys that the reference's call has; of several calls of a single row, the last one's. */
static size_t call_keys(const attention_unit_t *u)
{
    return u->ref_q_len == 1 ? u->first_position + u->n_tokens : u->ref_q_len;
}

/* Scores are one chain over the inputs; otherwise they run in lanes. */
static bool scores_chain(size_t n_queries, size_t n_keys)
{
    return n_queries >= 4 && n_keys >= 12;
}

/* Whether some key block's scores run in lanes; the last block is the shortest. */
static bool needs_lanes(const attention_unit_t *u)
{
    return !scores_chain(query_block_rows(u), (call_keys(u) - 1) % KEY_BLOCK + 1);
}

/* Keys of the block up to a row's own. */
static size_t keys_kept(const attention_unit_t *u, const block_t *b, size_t row)
{
    size_t seen = u->first_position + row / u->n_heads + 1;
    return seen <= b->first_key ? 0 : size_min(seen - b->first_key, b->n_keys);
}

/* The dot product amx, whose two chains may be swapped. */
static bool by_amx(const attention_unit_t *u, const block_t *b)
{
    return u->dot == DOT_AMX && b->n_queries >= 4;
}

/* Whether keys and values come from memory. */
static bool is_long(const attention_unit_t *u, const sdpa_scratch_t *s)
{
    return u->first_position >= KEY_BLOCK && !s->cached;
}

/* Whether rows of a long context are faster together, with the next panel asked for in order: with AVX2. Not where
 * panels are copied together, one at a time. */
static bool asks_ahead(const attention_unit_t *u)
{
    return u->window == 0 && u->dropped_keys == 0 &&
           strcmp(u->kernels->isa, isa_name(ISA_AVX2)) == 0;
}

/* Single rows (M = 1) that share loads and conversions. Together they take a few vectors of a panel
 * at a time. A long context comes from memory, which is fastest in order, so there the first row
 * reads the whole panel and the others find it in the cache, or panels are asked for in order. */
static size_t rows_together(const attention_unit_t *u, const sdpa_scratch_t *s, size_t rows)
{
    return !is_long(u, s) || asks_ahead(u) ? rows : 1;
}

/* Part number `part` of n of a panel that is multiplied next, into the second-level cache. */
static void ask_for_part(const char *panel, size_t bytes, size_t part, size_t n)
{
    enum { SECOND_LEVEL = 2 };
    for (size_t i = bytes * part / n; panel != NULL && i < bytes * (part + 1) / n; i += LINE)
        __builtin_prefetch(panel + i, 0, SECOND_LEVEL);
}

/* Keys of the block that the call of a token's rows has. */
static size_t token_keys(const attention_unit_t *u, const block_t *b, size_t row)
{
    return b->n_queries == 1 ? keys_kept(u, b, row) : b->n_keys;
}

/* Scores of a panel's keys in 4 lanes. */
static void score_panel(
    const attention_unit_t *u, sdpa_scratch_t *s, const block_t *b, size_t key, size_t rows)
{
    enum { PART = 16, PARTS = KV_BLOCK / PART };
    const char *panel = attention_keys(u, b->first_key + key), *next = NULL;
    const size_t keys = size_min(KV_BLOCK, b->end - key), n = rows_together(u, s, rows);
    if (!is_long(u, s) || !asks_ahead(u)) {
        for (size_t r = 0; r < rows; r += n)
            u->kernels->sdpa_scores(n, keys, u->head_dim, s->wide_q + r * u->head_dim, panel, 4,
                s->scores + r * KEY_BLOCK + key, KEY_BLOCK);
        return;
    }
    size_t after = b->first_key + key + KV_BLOCK;
    if (after < u->first_position + u->n_tokens)
        next = attention_keys(u, after);
    for (size_t i = 0; i < keys; i += PART) {
        ask_for_part(next, KV_BLOCK * u->head_dim * sizeof(uint16_t), i / PART, PARTS);
        u->kernels->sdpa_scores(rows, size_min(PART, keys - i), u->head_dim, s->wide_q,
            panel + 2 * i * sizeof(uint16_t), 4, s->scores + key + i, KEY_BLOCK);
    }
}

static void compute_scores(
    const attention_unit_t *u, sdpa_scratch_t *s, const block_t *b, size_t rows)
{
    bool chain = scores_chain(b->n_queries, b->n_keys);
    /* Otherwise 4 lanes over the inputs; with 2 or 3 queries, or few keys, the keys beyond the last
     * multiple of 4 take 8. */
    bool all_by_4 = b->n_queries == 1 || b->n_keys == 1;
    size_t by_4 = all_by_4 ? b->n_keys : b->n_keys / 4 * 4;
    for (size_t key = 0; key < b->end; key += KV_BLOCK) {
        if (chain) {
            const void *panel = attention_keys(u, b->first_key + key);
            (by_amx(u, b) ? u->kernels->tile_amx : u->kernels->tile)(rows, s->q, u->head_dim, panel,
                KV_BLOCK, u->head_dim, s->scores + key, KEY_BLOCK, TILE_SET);
            continue;
        }
        score_panel(u, s, b, key, rows);
        if (by_4 < key + KV_BLOCK && by_4 < b->end)
            for (size_t r = 0; r < rows; r++) {
                float last[KV_BLOCK];
                size_t keys = size_min(KV_BLOCK, b->end - key);
                u->kernels->sdpa_scores(1, keys, u->head_dim, s->wide_q + r * u->head_dim,
                    attention_keys(u, b->first_key + key), 8, last, KV_BLOCK);
                size_t from = by_4 > key ? by_4 - key : 0;
                memcpy(s->scores + r * KEY_BLOCK + key + from, last + from,
                    (keys - from) * sizeof *last);
            }
    }
}

static void prefetch_lines(const char *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch(data + i);
}

/* During the first block of keys, prefetches a part of the first keys of the next single row, which
 * other sequences have evicted. All at once they would delay this row's own loads. Values are
 * contiguous, so the hardware prefetches them. */
enum { ASK_PARTS = 3 };
static void prefetch_next(const attention_unit_t *u, const block_t *b, size_t part)
{
    const attention_unit_t *next = u->next;
    if (!b->is_first || next == NULL || next->ref_q_len > 1)
        return;
    size_t d = next->head_dim, pairs = d / 2, end = next->first_position + 1;
    size_t first = next->window != 0 && end > next->window ? end - next->window : 0;
    size_t n_keys = size_min(end, first + PREFETCH_BYTES / (2 * d));
    for (size_t key = first / KV_BLOCK * KV_BLOCK; key < n_keys; key += KV_BLOCK) {
        const char *panel = attention_keys(next, key);
        for (size_t pair = pairs * part / ASK_PARTS; pair < pairs * (part + 1) / ASK_PARTS; pair++)
            prefetch_lines(panel + pair * KV_BLOCK * 4, size_min(KV_BLOCK, n_keys - key) * 4);
    }
}

/* Of a token, keys before its window: minus infinity. Where they are all keys of the block that it
 * could see, also those of earlier blocks are, and nothing is computed: true. */
static bool hide_keys(const attention_unit_t *u, sdpa_scratch_t *s, const block_t *b, size_t first)
{
    size_t kept = keys_kept(u, b, first), end = u->first_position + first / u->n_heads + 1;
    size_t begin = u->window != 0 && end > u->window ? end - u->window : 0;
    size_t n = begin > b->first_key ? begin - b->first_key : 0;
    for (size_t r = first; r < first + u->n_heads; r++) {
        float *scores = s->scores + r * KEY_BLOCK;
        if (n >= kept && n > 0 && b->is_first)
            s->sum[r] = 0;
        if (n >= kept && n > 0)
            memset(s->weights + r * KEY_BLOCK, 0, size_round_up(b->end, 2) * sizeof *s->weights);
        for (size_t key = 0; key < n && n < kept; key++)
            scores[key] = -INFINITY;
    }
    return n >= kept && n > 0;
}

static void compute_weights(
    const attention_unit_t *u, sdpa_scratch_t *s, const block_t *b, size_t rows)
{
    size_t panels = (u->head_dim + KERNEL_PANEL - 1) / KERNEL_PANEL;
    size_t written = size_round_up(b->end, 2), heads = u->n_heads;
    for (size_t first = 0; first < rows; first += heads) { /* of one token */
        if (token_keys(u, b, first) == 0)
            continue;
        if (!b->is_first) {
            memcpy(s->old_max, s->max + first, heads * sizeof *s->max);
            memcpy(s->old_sum, s->sum + first, heads * sizeof *s->sum);
        }
        if (hide_keys(u, s, b, first))
            continue;
        u->kernels->sdpa_weights(order_lanes(u->order), heads, keys_kept(u, b, first),
            token_keys(u, b, first), written, (float)u->scale, s->max + first, s->sum + first,
            s->scores + first * KEY_BLOCK,
            b->n_queries == 1 ? NULL : s->weights + first * KEY_BLOCK, KEY_BLOCK);
        for (size_t h = 0, r = first; !b->is_first && h < heads; h++, r++) {
            float shrink = libm_exp(s->old_max[h] - s->max[r]);
            s->sum[r] = fmaf(shrink, s->old_sum[h], s->sum[r]);
            for (size_t p = 0; p < panels; p++)
                u->kernels->sdpa_scale(
                    KERNEL_PANEL, shrink, s->out + (p * rows + r) * KERNEL_PANEL);
        }
    }
}

/* A chain over keys [begin, end) of the block, begin even, into to. */
static void chain(const attention_unit_t *u, sdpa_scratch_t *s, const block_t *b, size_t rows,
    size_t begin, size_t end, size_t first_output, size_t width, bool go_on, float *to)
{
    for (size_t key = begin; key < end;) {
        size_t next = size_min((key / KV_BLOCK + 1) * KV_BLOCK, size_round_up(end, 2));
        const char *panel = attention_values(u, b->first_key + key, first_output, width, true);
        (by_amx(u, b) ? u->kernels->tile_amx : u->kernels->tile)(rows, s->weights + key, KEY_BLOCK,
            panel + key % KV_BLOCK * width * sizeof(uint16_t), width, next - key, to, KERNEL_PANEL,
            key == begin && !go_on ? TILE_SET : TILE_CHAIN);
        key = next;
    }
}

/* Moves every row's weight of one key into `carry` and leaves zero, or moves it back. */
static void hide_key(sdpa_scratch_t *s, size_t rows, size_t key, bool hide)
{
    for (size_t r = 0; r < rows; r++) {
        uint16_t *weight = &s->weights[r * KEY_BLOCK + (key ^ 1)];
        if (hide)
            s->carry[r] = *weight;
        *weight = hide ? 0 : s->carry[r];
    }
}

/* Four queries or more: leaves, each a chain from +0, added to the output one after another. A leaf
 * may begin or end within a pair of keys; then the other key of the pair counts as zero. */
static void add_leaves(const attention_unit_t *u, sdpa_scratch_t *s, const block_t *b, size_t rows,
    size_t first_output, size_t width, float *out)
{
    size_t leaf = b->n_keys <= 192 ? b->n_keys : b->n_keys < 384 ? b->n_keys / 2 : 192;
    for (size_t begin = 0; begin < b->end; begin += leaf) {
        size_t end = size_min(begin + leaf, b->end);
        bool first = b->is_first && begin == 0;
        bool odd_begin = begin % 2 != 0, odd_end = end % 2 != 0 && end < b->end;
        float *to = first ? out : s->leaf;
        if (odd_end) {
            hide_key(s, rows, end, true);
        } else if (odd_begin) {
            hide_key(s, rows, begin - 1, true);
        }
        chain(u, s, b, rows, begin - odd_begin, end, first_output, width, false, to);
        if (odd_end)
            hide_key(s, rows, end, false);
        else if (odd_begin)
            hide_key(s, rows, begin - 1, false);
        if (!first)
            u->kernels->add(rows * KERNEL_PANEL, s->leaf, out);
    }
}

/* Values of the block's next panel, NULL where there is none. */
static const char *values_after(
    const attention_unit_t *u, const block_t *b, size_t key, size_t first_output, size_t width)
{
    size_t next = key + KV_BLOCK;
    return next < b->end ? attention_values(u, b->first_key + next, first_output, width, true)
                         : NULL;
}

/* Queries that are alone in their calls, each the last of its own, so that it sees all keys of the
 * block: keys in fours, then the rest one by one, the last key first. Values are read once for all
 * of them. */
static void add_single_rows(const attention_unit_t *u, sdpa_scratch_t *s, const block_t *b,
    size_t rows, size_t first_output, size_t width, float *out)
{
    const kernels_t *k = u->kernels;
    size_t heads = u->n_heads, n = rows_together(u, s, heads);
    bool ahead = is_long(u, s) && asks_ahead(u);
    size_t some = ahead ? KV_BLOCK / 2 : KV_BLOCK; /* keys */
    for (size_t key = 0; key < b->end; key += KV_BLOCK) {
        const char *panel = attention_values(u, b->first_key + key, first_output, width, true);
        const char *next = ahead ? values_after(u, b, key, first_output, width) : NULL;
        for (size_t r = 0; r < rows; r += n) {
            size_t fours = token_keys(u, b, r) / 4 * 4;
            for (size_t i = 0; i < KV_BLOCK && key + i < fours; i += some) {
                if (r == 0)
                    ask_for_part(
                        next, KV_BLOCK * width * sizeof(uint16_t), i / some, KV_BLOCK / some);
                k->sdpa_outputs(n, size_min(some, fours - key - i),
                    s->scores + r * KEY_BLOCK + key + i, KEY_BLOCK,
                    panel + i * width * sizeof(uint16_t), width, out + r * KERNEL_PANEL,
                    KERNEL_PANEL);
            }
        }
    }
    for (size_t r = 0; r < rows; r += heads)
        for (size_t keys = token_keys(u, b, r), key = keys; key-- > keys / 4 * 4;)
            k->sdpa_output_key(heads, key % KV_BLOCK,
                s->scores + r * KEY_BLOCK + key / KV_BLOCK * KV_BLOCK, KEY_BLOCK,
                attention_values(u, b->first_key + key, first_output, width, true), width,
                out + r * KERNEL_PANEL, KERNEL_PANEL);
}

/* Where PyTorch's buffer of two or three packed rows is not aligned, their first outputs are summed
 * by eights of keys: four one by one, then four at once. One thread is the reference's. */
static size_t unaligned_outputs(const attention_unit_t *u, const block_t *b)
{
    size_t n = u->packed_rows, keys = size_min(call_keys(u), KEY_BLOCK);
    size_t off = (n == 2 || n == 3) && b->n_keys >= 8 ? n * (keys + 2) % 4 : 0;
    return off > 0 ? 4 - off : 0;
}

static void add_unaligned(const attention_unit_t *u, const sdpa_scratch_t *s, const block_t *b,
    size_t row, size_t output, size_t width, float *sum)
{
    const uint16_t *panel = NULL;
    float x[8];
    for (size_t key = 0; key < b->n_keys; key++) {
        if (key % KV_BLOCK == 0)
            panel = (const void *)attention_values(u, b->first_key + key, 0, width, true);
        float value =
            f32_from_bf16(panel[(key % KV_BLOCK / 2 * width + output) * 2 + (key + 1) % 2]);
        x[key % 8] = f32_from_bf16(s->weights[row * KEY_BLOCK + (key ^ 1)]) * value;
        bool eight = key / 8 * 8 + 8 <= b->n_keys;
        if (!eight || key % 8 < 4)
            *sum += x[key % 8];
        else if (key % 8 == 7)
            *sum += ((x[4] + x[5]) + x[6]) + x[7];
    }
}

/* Two or three queries. */
static void add_few_rows(const attention_unit_t *u, sdpa_scratch_t *s, const block_t *b,
    size_t rows, size_t first_output, size_t width, float *out)
{
    enum { MOST = 3 };
    float sums[MOST][MOST];
    size_t n = first_output == 0 ? unaligned_outputs(u, b) : 0;
    for (size_t i = 0; i < rows * n; i++)
        sums[i / n][i % n] = b->is_first ? 0 : out[i / n * KERNEL_PANEL + i % n];
    chain(u, s, b, rows, 0, b->end, first_output, width, !b->is_first, out);
    for (size_t i = 0; i < rows * n; i++) {
        add_unaligned(u, s, b, i / n, i % n, width, &sums[i / n][i % n]);
        out[i / n * KERNEL_PANEL + i % n] = sums[i / n][i % n];
    }
}

static void compute_outputs(
    const attention_unit_t *u, sdpa_scratch_t *s, const block_t *b, size_t rows)
{
    for (size_t first = 0; first < u->head_dim; first += KERNEL_PANEL) {
        size_t width = size_min(KERNEL_PANEL, kernel_padded_outputs(u->head_dim) - first);
        float *out = s->out + first * rows;
        if (b->n_queries >= 4 && !by_amx(u, b))
            add_leaves(u, s, b, rows, first, width, out);
        else if (b->n_queries > 1)
            add_few_rows(u, s, b, rows, first, width, out);
        else
            add_single_rows(u, s, b, rows, first, width, out);
    }
}

static void begin_rows(const attention_unit_t *u, sdpa_scratch_t *s, size_t rows)
{
    size_t row_elements = u->n_heads * u->head_dim;
    size_t panels = (u->head_dim + KERNEL_PANEL - 1) / KERNEL_PANEL;
    bool single_row = query_block_rows(u) == 1, lanes = needs_lanes(u);
    for (size_t t = 0; t < u->n_tokens; t++) {
        const uint16_t *q = (const uint16_t *)u->q + t * u->q_stride;
        for (size_t i = 0; lanes && i < row_elements; i++)
            s->wide_q[t * row_elements + i] = f32_from_bf16(q[i]);
        if (!single_row)
            memcpy(s->q + t * row_elements, q, row_elements * sizeof *s->q);
    }
    if (single_row) /* all others set outputs at their first block */
        memset(s->out, 0, panels * rows * KERNEL_PANEL * sizeof *s->out);
    else
        row_swap_pairs(rows * u->head_dim, s->q);
    for (size_t r = 0; r < rows; r++)
        s->max[r] = -INFINITY;
}

static void store_rows(const attention_unit_t *u, sdpa_scratch_t *s, size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        uint16_t *to =
            (uint16_t *)u->out + r / u->n_heads * u->out_stride + r % u->n_heads * u->head_dim;
        for (size_t first = 0; first < u->head_dim; first += KERNEL_PANEL)
            u->kernels->sdpa_store(size_min(KERNEL_PANEL, u->head_dim - first),
                s->out + first * rows + r * KERNEL_PANEL, 1.0f / s->sum[r], to + first);
    }
}

/* The first block with a key that the first row sees; later rows see later keys. */
static size_t first_block(const attention_unit_t *u)
{
    size_t end = u->first_position + 1;
    size_t begin = u->window != 0 && end > u->window ? end - u->window : 0;
    return begin / KEY_BLOCK * KEY_BLOCK;
}

/* The keys of one block, if a row of the unit sees some. */
static void compute_block(const attention_unit_t *u, sdpa_scratch_t *s, size_t first)
{
    size_t n_keys = u->first_position + u->n_tokens, rows = u->n_tokens * u->n_heads;
    if (first < first_block(u) || first >= n_keys)
        return;
    const block_t b = {.first_key = first,
        .n_keys = size_min(KEY_BLOCK, call_keys(u) - first),
        .n_queries = query_block_rows(u),
        .end = size_min(KEY_BLOCK, n_keys - first),
        .is_first = first == first_block(u)};
    prefetch_next(u, &b, 0);
    compute_scores(u, s, &b, rows);
    prefetch_next(u, &b, 1);
    compute_weights(u, s, &b, rows);
    prefetch_next(u, &b, 2);
    compute_outputs(u, s, &b, rows);
}

void attention_sdpa(const attention_unit_t *units, size_t n, void *scratch)
{
    sdpa_scratch_t all;
    size_t rows = 0, most = 0, begin = SIZE_MAX, end = 0, head_dim = units->head_dim;
    for (size_t i = 0; i < n; i++) {
        rows += units[i].n_tokens * units[i].n_heads;
        most = size_max(most, units[i].n_tokens * units[i].n_heads);
    }
    lay_out(&all, scratch, rows, most, head_dim);
    for (size_t i = 0, row = 0; i < n; row += units[i].n_tokens * units[i].n_heads, i++) {
        const attention_unit_t u = attention_call(&units[i], all.panel);
        sdpa_scratch_t s = scratch_of(&all, row, head_dim);
        begin = size_min(begin, first_block(&u));
        end = size_max(end, u.first_position + u.n_tokens);
        begin_rows(&u, &s, u.n_tokens * u.n_heads);
    }
    for (size_t first = begin; first < end; first += KEY_BLOCK)
        for (size_t i = 0, row = 0; i < n; row += units[i].n_tokens * units[i].n_heads, i++) {
            const attention_unit_t u = attention_call(&units[i], all.panel);
            sdpa_scratch_t s = scratch_of(&all, row, head_dim);
            s.cached = i > 0;
            compute_block(&u, &s, first);
        }
    for (size_t i = 0, row = 0; i < n; row += units[i].n_tokens * units[i].n_heads, i++) {
        sdpa_scratch_t s = scratch_of(&all, row, head_dim);
        store_rows(&units[i], &s, units[i].n_tokens * units[i].n_heads);
    }
}
