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

/* Sequences of a group that go together at most: as many as leave every thread some, if that is possible. */
static size_t most_together(const forward_t *f, size_t layer)
{
    size_t n_kv = plan_count(model_share(f->model)->kv_heads), threads = active_threads(f);
    if (is_windowed(f, layer)) /* the keys that a row sees begin where its own window does */
        return 1;
    return size_max(1, size_min(ATTENTION_TOGETHER, f->groups.n_grouped * n_kv / threads));
}

/* A walk over the work of a step: sequences that go together, their KV heads, parts of the heads, and of one sequence
 * the last tokens first, since they see most keys. */
typedef struct walk {
    size_t layer, n_kv, n_parts, most;
    size_t group, begin, end; /* where it is: members [begin, end) of a group */
    size_t kv, part;
    size_t first; /* number of the first piece of work there */
} walk_t;

/* The members from begin on that go together; none at the end. */
static void find_members(const forward_t *f, walk_t *w)
{
    const groups_t *g = &f->groups;
    size_t rows = 0;
    if (w->begin == g->n)
        return;
    while (w->begin == g->begins[w->group + 1])
        w->group++;
    size_t n_heads = plan_count(group_heads(f->model, w->kv));
    for (w->end = w->begin; w->end < g->begins[w->group + 1]; w->end++) {
        rows += f->batch->sequences[g->members[w->end]].n_rows * n_heads;
        if (w->end > w->begin && (w->end - w->begin == w->most || rows > ATTENTION_TOGETHER_ROWS))
            break;
    }
}

static walk_t walk_begin(const forward_t *f, size_t layer, size_t n_parts)
{
    walk_t w = {.layer = layer,
        .n_kv = plan_count(model_share(f->model)->kv_heads),
        .n_parts = n_parts,
        .most = most_together(f, layer)};
    find_members(f, &w);
    return w;
}

static void walk_on(const forward_t *f, walk_t *w)
{
    if (++w->part < w->n_parts)
        return;
    w->part = 0;
    if (++w->kv < w->n_kv)
        return;
    w->kv = 0;
    w->begin = w->end;
    find_members(f, w);
}

static const forward_sequence_t *member(const forward_t *f, size_t i)
{
    return &f->batch->sequences[f->groups.members[i]];
}

/* Pieces of work of each of the heads' parts. */
static size_t count_pieces(const forward_t *f, const walk_t *w)
{
    if (w->end - w->begin > 1)
        return 1;
    size_t n_heads = plan_count(group_heads(f->model, w->kv));
    const forward_sequence_t *s = member(f, w->begin);
    return plan_count(unit_blocks(s, unit_tokens(f, w->layer, s, n_heads)));
}

/* The number of parts of a KV head's query heads. They share one reading of its keys and values,
 * unless the step is too small to give every thread a part. */
static size_t head_parts(const forward_t *f, size_t layer)
{
    size_t pieces = 0;
    for (walk_t w = walk_begin(f, layer, 1); w.n_kv > 0 && w.begin < f->groups.n; walk_on(f, &w))
        pieces += count_pieces(f, &w);
    bool even = pieces % active_threads(f) == 0 || pieces >= 4 * active_threads(f);
    return even ? 1 : most_kv_group(f->model);
}

/* What a thread computes before it takes more: units that go together. */
typedef struct piece {
    attention_unit_t units[ATTENTION_TOGETHER];
    size_t n;
    bool wanted;       /* by a row whose logits are needed */
    uint64_t kv_bytes; /* that it reads */
} piece_t;

/* Bytes of the blocks up to a unit's last key, but for those in common with the unit before. */
static uint64_t unit_bytes(const forward_t *f, const attention_unit_t *u, size_t common)
{
    const kv_cache_t *cache = f->cache;
    size_t end = u->first_position + u->n_tokens, first = u->first_position + 1;
    size_t begin = u->window != 0 && first > u->window ? first - u->window : 0;
    size_t n = (end + KV_BLOCK - 1) / KV_BLOCK - begin / KV_BLOCK;
    return (n - size_min(n, common)) * (cache->k_block_bytes + cache->v_block_bytes);
}

static void add_unit(
    const forward_t *f, piece_t *piece, const attention_unit_t *unit, size_t common)
{
    const size_t *before = &f->logit_rows_before[unit->tap_row];
    piece->wanted |= !forward_narrows_at(f, unit->layer) || before[unit->n_tokens] > before[0];
    piece->kv_bytes += unit_bytes(f, unit, piece->n > 0 ? common : 0);
    piece->units[piece->n++] = *unit;
}

/* Moves to the piece of that number; false when there are not so many. */
static bool find_piece(const forward_t *f, walk_t *w, size_t number, piece_t *piece)
{
    for (; w->n_kv > 0 && w->begin < f->groups.n; walk_on(f, w)) {
        plan_range_t group = group_heads(f->model, w->kv);
        team_part_t part = team_part(plan_count(group), w->part, w->n_parts);
        plan_range_t heads = {group.begin + part.begin, group.begin + part.end};
        size_t n = plan_count(heads) > 0 ? count_pieces(f, w) : 0;
        if (number >= w->first + n) {
            w->first += n;
            continue;
        }
        piece->n = piece->kv_bytes = 0;
        piece->wanted = false;
        for (size_t i = w->begin; i < w->end; i++) {
            const forward_sequence_t *s = member(f, i);
            size_t tokens = unit_tokens(f, w->layer, s, plan_count(group));
            size_t at = unit_blocks(s, tokens).end - 1 - (number - w->first);
            size_t from = first_unit(s) + at * tokens;
            const attention_unit_t unit =
                unit_of(f, w->layer, s, w->kv, heads, size_max(from, s->first_position),
                    size_min(from + tokens, s->first_position + s->n_rows));
            add_unit(f, piece, &unit, f->groups.common[i]);
        }
        return true;
    }
    return false;
}

static size_t take_number(forward_t *f)
{
    return atomic_fetch_add(&f->next_unit, 1);
}

static void compute_piece(forward_t *f, size_t thread, const piece_t *piece)
{
    void *scratch = f->threads[thread].attention;
    f->threads[thread].kv_bytes += piece->wanted ? piece->kv_bytes : 0;
    if (piece->wanted && f->sdpa)
        attention_sdpa(piece->units, piece->n, scratch);
    for (size_t i = 0; i < piece->n; i++) {
        const attention_unit_t *unit = &piece->units[i];
        if (piece->wanted && !f->sdpa)
            attention_eager(unit, scratch);
        exchange_rows_written(f, thread, SHARED_ATTENTION, unit->tap_row, unit->n_tokens,
            unit->n_heads, &f->times.attention_ns);
    }
}

void forward_attend(forward_t *f, size_t thread, size_t layer)
{
    walk_t walk = walk_begin(f, layer, head_parts(f, layer));
    piece_t pieces[2], *piece = &pieces[0], *next = &pieces[1];
    size_t number = take_number(f);
    bool found = find_piece(f, &walk, number, piece);
    while (found) {
        /* The piece that this thread gets next, if all take turns; it is taken only after the
         * current one. */
        walk_t ahead = walk;
        size_t expected = number + active_threads(f);
        bool looks = f->sdpa && find_piece(f, &ahead, expected, next);
        if (looks && piece->n == 1)
            piece->units[0].next = &next->units[0];
        compute_piece(f, thread, piece);
        number = take_number(f);
        if (looks && number == expected) {
            piece_t *done = piece;
            piece = next;
            next = done;
            walk = ahead;
        } else {
            found = find_piece(f, &walk, number, piece);
        }
    }
}
