#include "engine/model/attention_window.h"

#include <string.h>

attention_unit_t attention_call(const attention_unit_t *unit, void *panel)
{
    attention_unit_t call = *unit;
    size_t n_keys = unit->first_position + 1;
    call.panel = panel;
    if (unit->kernels->mode != DTYPE_BF16 || unit->order == ORDER_UNIFORM || unit->window == 0 ||
        unit->ref_q_len > 1 || n_keys < unit->window)
        return call;
    call.dropped_keys = n_keys - unit->window;
    call.first_position = unit->window - 1;
    call.window = 0;
    call.packed_rows = unit->kv_group;
    return call;
}

/* A panel lies in a block from slot `shift` on and, up to there, in the next one. */
typedef struct cut {
    size_t block, shift;
    size_t n_keys; /* of the sequence from the block's beginning on */
} cut_t;

static cut_t cut_of(const attention_unit_t *u, size_t key)
{
    size_t from = key / KV_BLOCK * KV_BLOCK + u->dropped_keys, block = from / KV_BLOCK;
    size_t end = u->dropped_keys + u->first_position + u->n_tokens;
    return (cut_t){block, from % KV_BLOCK, size_min(end - block * KV_BLOCK, 2 * KV_BLOCK)};
}

static const char *k_block(const attention_unit_t *u, size_t block)
{
    return kv_cache_k(u->cache, u->layer, u->kv_head, (size_t)u->blocks[block]);
}

static const char *v_block(const attention_unit_t *u, size_t block)
{
    return kv_cache_v(u->cache, u->layer, u->kv_head, (size_t)u->blocks[block]);
}

const char *attention_keys(const attention_unit_t *u, size_t key)
{
    cut_t cut = cut_of(u, key);
    const uint32_t *a = (const void *)k_block(u, cut.block), *b = NULL;
    if (cut.shift == 0)
        return (const char *)a;
    if (cut.n_keys > KV_BLOCK)
        b = (const void *)k_block(u, cut.block + 1);
    uint32_t *to = u->panel;
    size_t n_first = KV_BLOCK - cut.shift;
    for (size_t pair = 0; pair < (u->head_dim + 1) / 2; pair++, to += KV_BLOCK, a += KV_BLOCK) {
        memcpy(to, a + cut.shift, n_first * sizeof *to);
        if (b != NULL)
            memcpy(to + n_first, b + pair * KV_BLOCK, cut.shift * sizeof *to);
        else
            memset(to + n_first, 0, cut.shift * sizeof *to);
    }
    return u->panel;
}

/* Pairs of keys of which the first is the second of one pair and the second the first of the next. */
static void join_pairs(
    size_t width, bool swapped, const uint32_t *a, const uint32_t *b, uint32_t *to)
{
    for (size_t i = 0; i < width; i++)
        to[i] = swapped ? a[i] << 16 | b[i] >> 16 : a[i] >> 16 | b[i] << 16;
}

const char *attention_values(
    const attention_unit_t *u, size_t key, size_t first_output, size_t width, bool swapped)
{
    static const uint32_t none[KERNEL_PANEL] = {0};
    cut_t cut = cut_of(u, key);
    size_t offset = first_output * KV_BLOCK * sizeof(uint16_t);
    const uint32_t *a = (const void *)(v_block(u, cut.block) + offset), *b = NULL;
    if (cut.shift == 0)
        return (const char *)a;
    if (cut.n_keys > KV_BLOCK)
        b = (const void *)(v_block(u, cut.block + 1) + offset);
    uint32_t *to = u->panel;
    /* Those behind have no key yet, and count as zero. */
    size_t n_pairs = (cut.n_keys + 1) / 2;
    for (size_t i = 0; i < KV_BLOCK / 2; i++, to += width) {
        size_t pair = cut.shift / 2 + i;
        const uint32_t *rows[2];
        for (size_t j = 0; j < 2; j++)
            rows[j] = pair + j >= n_pairs       ? none
                      : pair + j < KV_BLOCK / 2 ? a + (pair + j) * width
                                                : b + (pair + j - KV_BLOCK / 2) * width;
        if (cut.shift % 2 == 0)
            memcpy(to, rows[0], width * sizeof *to);
        else
            join_pairs(width, swapped, rows[0], rows[1], to);
    }
    return u->panel;
}
