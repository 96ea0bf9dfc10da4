/* Attention of a step: its units of work, and which thread does which. */
#include "engine/base/size.h"
#include "engine/model/attention.h"
#include "engine/model/forward_internal.h"

/* Query heads of this rank that read its local KV head. */
static plan_range_t group_heads(const model_t *m, size_t kv)
{
    const plan_share_t *share = model_share(m);
    size_t group = most_kv_group(m), first = (share->kv_heads.begin + kv) * group;
    return (plan_range_t){
        size_max(first, share->heads.begin), size_min(first + group, share->heads.end)};
}

/* Query tokens [begin, end) of a sequence for some heads of one KV head; positions are those in the
 * sequence. */
static void attend_unit(forward_t *f, size_t thread, size_t layer, const forward_sequence_t *s,
    size_t kv, plan_range_t heads, size_t begin, size_t end)
{
    const model_t *m = f->model;
    const config_t *c = &m->config;
    size_t e = element(f), row = s->first_row + begin - s->first_position;
    size_t first_local = heads.begin - model_share(m)->heads.begin;
    bool windowed = c->use_sliding_window && layer >= c->max_window_layers;
    attention_unit_t unit = {.kernels = &m->kernels,
        .order = f->options.order,
        .dot = f->options.dot,
        .total_heads = c->num_attention_heads,
        .head_dim = c->head_dim,
        .scale = f->scale,
        .cache = f->cache,
        .layer = layer,
        .kv_head = kv,
        .blocks = s->blocks,
        .first_position = begin,
        .n_tokens = end - begin,
        .n_heads = plan_count(heads),
        .call_tokens = s->call_tokens,
        .window = windowed ? c->sliding_window : 0,
        .tap = f->tap,
        .tap_row = row,
        .tap_rows = f->batch->n_rows,
        .tap_head = heads.begin,
        .q = f->q + (row * local_q(m) + first_local * c->head_dim) * e,
        .q_stride = local_q(m),
        .out = shared_row(f, SHARED_ATTENTION, row) + heads.begin * c->head_dim * e,
        .out_stride = f->strides[SHARED_ATTENTION]};
    if (f->sdpa)
        attention_sdpa(&unit, f->threads[thread].attention);
    else
        attention_eager(&unit, f->threads[thread].attention);
}

/* Token blocks of a sequence that are units of work. Units begin at multiples of their size in the
 * sequence, wherever a chunk begins. */
static plan_range_t unit_blocks(const forward_sequence_t *s, size_t unit_tokens)
{
    size_t end = s->first_position + s->n_rows;
    return (plan_range_t){s->first_position / unit_tokens, (end + unit_tokens - 1) / unit_tokens};
}

/* Into how many parts the heads of a KV head are cut. They share one reading of its keys and
 * values, unless the step is too small to give every thread a part. */
static size_t head_parts(const forward_t *f)
{
    size_t n_kv = plan_count(model_share(f->model)->kv_heads), units = 0;
    for (size_t i = 0; i < f->batch->n_sequences; i++)
        for (size_t kv = 0; kv < n_kv; kv++)
            units += plan_count(unit_blocks(&f->batch->sequences[i],
                attention_unit_tokens(plan_count(group_heads(f->model, kv)))));
    bool even = units % f->n_threads == 0 || units >= 4 * f->n_threads;
    return even ? 1 : most_kv_group(f->model);
}

/* The units of one sequence, one KV head and some of its heads, the last tokens first, since they
 * see most keys. *next is the unit this thread works on next, of which `first` is the first here.
 * Returns the number of units. */
static size_t attend_heads(forward_t *f, size_t thread, size_t layer, const forward_sequence_t *s,
    size_t kv, plan_range_t heads, size_t unit_tokens, size_t first, size_t *next)
{
    plan_range_t blocks = unit_blocks(s, unit_tokens);
    size_t n = plan_count(blocks);
    for (; *next < first + n; *next = atomic_fetch_add(&f->next_unit, 1)) {
        size_t at = blocks.end - 1 - (*next - first);
        attend_unit(f, thread, layer, s, kv, heads, size_max(at * unit_tokens, s->first_position),
            size_min((at + 1) * unit_tokens, s->first_position + s->n_rows));
    }
    return n;
}

void forward_attend(forward_t *f, size_t thread, size_t layer)
{
    size_t n_kv = plan_count(model_share(f->model)->kv_heads), parts = head_parts(f);
    size_t next = atomic_fetch_add(&f->next_unit, 1), unit = 0;
    for (size_t i = 0; i < f->batch->n_sequences; i++)
        for (size_t kv = 0; kv < n_kv; kv++) {
            plan_range_t group = group_heads(f->model, kv);
            size_t tokens = attention_unit_tokens(plan_count(group));
            for (size_t part = 0; part < parts; part++) {
                team_part_t mine = team_part(plan_count(group), part, parts);
                plan_range_t heads = {group.begin + mine.begin, group.begin + mine.end};
                if (plan_count(heads) > 0)
                    unit += attend_heads(
                        f, thread, layer, &f->batch->sequences[i], kv, heads, tokens, unit, &next);
            }
        }
}
