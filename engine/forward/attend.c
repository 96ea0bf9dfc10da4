/* Attention of a step: its units of work, and which thread does which. */
#include "engine/base/size.h"
#include "engine/forward/exchange.h"
#include "engine/forward/forward_internal.h"
#include "engine/model/attention.h"

/* Query heads of this rank that read its local KV head. */
static plan_range_t group_heads(const model_t *m, size_t kv)
{
    const plan_share_t *share = model_share(m);
    size_t group = most_kv_group(m), first = (share->kv_heads.begin + kv) * group;
    return (plan_range_t){
        size_max(first, share->heads.begin), size_min(first + group, share->heads.end)};
}

static bool is_windowed(const forward_t *f, size_t layer)
{
    const config_t *c = &f->model->config;
    return c->use_sliding_window && layer >= c->max_window_layers;
}

/* Query tokens [begin, end) of a sequence for some heads of one KV head; positions are those in the
 * sequence. */
static attention_unit_t unit_of(const forward_t *f, size_t layer, const forward_sequence_t *s,
    size_t kv, plan_range_t heads, size_t begin, size_t end)
{
    const model_t *m = f->model;
    const config_t *c = &m->config;
    const activation_t *out = &f->shared[SHARED_ATTENTION];
    size_t e = element(f), row = s->first_row + begin - s->first_position;
    size_t first_local = heads.begin - model_share(m)->heads.begin;
    return (attention_unit_t){.kernels = &m->kernels,
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
        .ref_q_len = s->ref_q_len,
        .window = is_windowed(f, layer) ? c->sliding_window : 0,
        .kv_group = most_kv_group(m),
        .tap = f->tap,
        .tap_row = row,
        .tap_rows = f->rows.n,
        .tap_head = heads.begin,
        .q = f->places[PLACE_Q].data + (row * local_q(m) + first_local * c->head_dim) * e,
        .q_stride = local_q(m),
        .out = activation_at(out, row, heads.begin * c->head_dim),
        .out_stride = out->stride};
}

/* Tokens of a unit at most. Drafted rows of a sequence are calls of their own, each with its own
 * number of keys; sdpa reads keys and values once for several of them, unless a window gives each
 * its own first key. */
static size_t unit_tokens(
    const forward_t *f, size_t layer, const forward_sequence_t *s, size_t n_heads)
{
    bool alone = s->single_row && (!f->sdpa || is_windowed(f, layer));
    return alone ? 1 : attention_unit_tokens(n_heads);
}

/* Where units begin to be counted. Those of a prompt begin at multiples of their size in the
 * sequence, wherever a chunk begins; those of single rows with the first of them. */
static size_t first_unit(const forward_sequence_t *s)
{
    return s->single_row ? s->first_position : 0;
}

/* Token blocks of a sequence that are units of work. */
static plan_range_t unit_blocks(const forward_sequence_t *s, size_t tokens)
{
    size_t begin = s->first_position - first_unit(s), end = begin + s->n_rows;
    return (plan_range_t){begin / tokens, (end + tokens - 1) / tokens};
}

static size_t count_units(const forward_t *f, size_t layer, const forward_sequence_t *s, size_t kv)
{
    size_t n_heads = plan_count(group_heads(f->model, kv));
    return plan_count(unit_blocks(s, unit_tokens(f, layer, s, n_heads)));
}

/* The number of parts of a KV head's query heads. They share one reading of its keys and values,
 * unless the step is too small to give every thread a part. */
static size_t head_parts(const forward_t *f, size_t layer)
{
    size_t n_kv = plan_count(model_share(f->model)->kv_heads), units = 0;
    for (size_t i = 0; i < f->batch->n_sequences; i++)
        for (size_t kv = 0; kv < n_kv; kv++)
            units += count_units(f, layer, &f->batch->sequences[i], kv);
    bool even = units % active_threads(f) == 0 || units >= 4 * active_threads(f);
    return even ? 1 : most_kv_group(f->model);
}

/* A walk over the units of a step: sequences, their KV heads, parts of the heads, and of those the
 * last tokens first, since they see most keys. */
typedef struct walk {
    size_t layer, n_kv, n_parts;
    size_t sequence, kv, part; /* where it is */
    size_t first;              /* number of the first unit there */
} walk_t;

static void walk_on(walk_t *w)
{
    if (++w->part < w->n_parts)
        return;
    w->part = 0;
    if (++w->kv < w->n_kv)
        return;
    w->kv = 0;
    w->sequence++;
}

/* Moves to the unit of that number; false when there are not so many. */
static bool find_unit(const forward_t *f, walk_t *w, size_t number, attention_unit_t *unit)
{
    for (; w->n_kv > 0 && w->sequence < f->batch->n_sequences; walk_on(w)) {
        const forward_sequence_t *s = &f->batch->sequences[w->sequence];
        plan_range_t group = group_heads(f->model, w->kv);
        size_t tokens = unit_tokens(f, w->layer, s, plan_count(group));
        team_part_t part = team_part(plan_count(group), w->part, w->n_parts);
        plan_range_t heads = {group.begin + part.begin, group.begin + part.end};
        plan_range_t blocks = unit_blocks(s, tokens);
        size_t n = plan_count(heads) > 0 ? plan_count(blocks) : 0;
        if (number < w->first + n) {
            size_t at = blocks.end - 1 - (number - w->first), from = first_unit(s) + at * tokens;
            *unit = unit_of(f, w->layer, s, w->kv, heads, size_max(from, s->first_position),
                size_min(from + tokens, s->first_position + s->n_rows));
            return true;
        }
        w->first += n;
    }
    return false;
}

static size_t take_number(forward_t *f)
{
    return atomic_fetch_add(&f->next_unit, 1);
}

void forward_attend(forward_t *f, size_t thread, size_t layer)
{
    walk_t walk = {.layer = layer,
        .n_kv = plan_count(model_share(f->model)->kv_heads),
        .n_parts = head_parts(f, layer)};
    void *scratch = f->threads[thread].attention;
    attention_unit_t units[2], *unit = &units[0], *next = &units[1];
    size_t number = take_number(f);
    bool found = find_unit(f, &walk, number, unit);
    while (found) {
        /* The unit that this thread gets next, if all take turns; it is taken only after the
         * current one. */
        walk_t ahead = walk;
        size_t expected = number + active_threads(f);
        unit->next = f->sdpa && find_unit(f, &ahead, expected, next) ? next : NULL;
        const size_t *logit_rows_before = &f->logit_rows_before[unit->tap_row];
        bool wanted = !forward_narrows_at(f, layer) ||
                      logit_rows_before[unit->n_tokens] > logit_rows_before[0];
        if (wanted && f->sdpa)
            attention_sdpa(unit, scratch);
        else if (wanted)
            attention_eager(unit, scratch);
        exchange_rows_written(f, thread, SHARED_ATTENTION, unit->tap_row, unit->n_tokens,
            unit->n_heads, &f->times.attention_ns);
        number = take_number(f);
        if (unit->next != NULL && number == expected) {
            attention_unit_t *done = unit;
            unit = next;
            next = done;
            walk = ahead;
        } else {
            found = find_unit(f, &walk, number, unit);
        }
    }
}
