#include "engine/run/nonfinite.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

/* Fewer logits than this are checked faster by one thread. */
#define FEW_LOGITS ((size_t)8192)

/* ---- Values ---------------------------------------------------------------------------------- */

/* A value is not finite when all bits of its exponent are set. Loops that compilers turn into
 * vectors. */

static bool any_f32(const float *values, size_t n)
{
    uint32_t carried = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        carried |= (bits & 0x7f800000u) + 0x00800000u;
    }
    return carried >> 31 != 0;
}

static bool any_f64(const double *values, size_t n)
{
    uint64_t carried = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        carried |= (bits & UINT64_C(0x7ff0000000000000)) + UINT64_C(0x0010000000000000);
    }
    return carried >> 63 != 0;
}

static bool any_bf16(const uint16_t *values, size_t n)
{
    uint32_t carried = 0;
    for (size_t i = 0; i < n; i++)
        carried |= (values[i] & 0x7f80u) + 0x0080u;
    return carried >> 15 != 0;
}

static bool any(const void *values, dtype_t dtype, size_t n)
{
    return dtype == DTYPE_BF16  ? any_bf16(values, n)
           : dtype == DTYPE_F32 ? any_f32(values, n)
                                : any_f64(values, n);
}

/* ---- Logits ---------------------------------------------------------------------------------- */

typedef struct scan {
    const forward_t *forward;
    dtype_t dtype;
    size_t n_logits, n_columns, n_threads;
    atomic_bool found;
} scan_t;

static void scan_thread(void *context, size_t thread)
{
    scan_t *scan = context;
    team_part_t part = team_part(scan->n_columns, thread, scan->n_threads);
    for (size_t i = 0; i < scan->n_logits; i++) {
        const char *row = forward_logits(scan->forward, i);
        if (any(row + part.begin * dtype_bytes(scan->dtype), scan->dtype, part.end - part.begin))
            atomic_store_explicit(&scan->found, true, memory_order_relaxed);
    }
}

bool nonfinite_logits(const forward_t *forward, const model_t *model, size_t n_logits, team_t *team)
{
    scan_t scan = {.forward = forward,
        .dtype = model->mode == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32,
        .n_logits = n_logits,
        .n_columns = plan_count(model_share(model)->vocab),
        .n_threads = 1};
    if (n_logits * scan.n_columns < FEW_LOGITS) {
        scan_thread(&scan, 0);
    } else {
        scan.n_threads = team_size(team);
        team_run(team, scan_thread, &scan);
    }
    return atomic_load(&scan.found);
}

/* ---- Where they come from -------------------------------------------------------------------- */

/* The first place in the order of computation: (layer, component, rank) as one number. */
typedef struct search {
    const model_t *model;
    _Atomic int64_t first;
} search_t;

static void look(void *context, const tap_part_t *part)
{
    search_t *search = context;
    const model_t *m = search->model;
    dtype_t dtype = m->mode;
    if ((part->component == COMPONENT_LOGITS || component_info(part->component)->wide) &&
        dtype == DTYPE_BF16)
        dtype = DTYPE_F32;
    if (part->component == COMPONENT_ATTN_WEIGHTS) /* attention's output shows them */
        return;
    bool found = false;
    for (size_t r = 0; r < part->n_rows && !found; r++)
        found = any((const char *)part->values + r * part->stride * dtype_bytes(dtype), dtype,
            part->n_columns);
    if (!found)
        return;
    size_t ranks = m->plan.n_ranks, rank = m->rank, layer = part->layer;
    if (component_info(part->component)
            ->exchanged) /* the rank before this one computed it (tap.h) */
        rank = (rank + ranks - 1) % ranks;
    if (part->component >= COMPONENT_FINAL_NORM)
        layer = m->config.num_hidden_layers;
    int64_t place = (int64_t)((layer * COMPONENT_COUNT + part->component) * ranks + rank);
    int64_t before = atomic_load(&search->first);
    while (place < before && !atomic_compare_exchange_weak(&search->first, &before, place))
        ;
}

static int fail_at(const model_t *model, int64_t place, fail_t *fail)
{
    static const char advice[] =
        "weights or activations are NaN or too large; --allow-nonfinite ignores this";
    size_t ranks = model->plan.n_ranks;
    size_t rank = (size_t)place % ranks, at = (size_t)place / ranks;
    size_t layer = at / COMPONENT_COUNT;
    const char *component = component_name((component_t)(at % COMPONENT_COUNT));
    if (place == INT64_MAX)
        return fail_set(fail, FAIL_MODEL,
            "the logits are not finite (in which layer first is not known with --combine reduce): %s",
            advice);
    if (layer == model->config.num_hidden_layers || at % COMPONENT_COUNT == 0)
        return fail_set(fail, FAIL_MODEL,
            "the logits are not finite: the first values that are not are in %s, as rank %zu computes it: %s",
            component, rank, advice);
    return fail_set(fail, FAIL_MODEL,
        "the logits are not finite: the first values that are not are in layer %zu, %s, as rank %zu computes it: %s",
        layer, component, rank, advice);
}

int nonfinite_locate(forward_t *forward, const model_t *model, comm_t *comm,
    const forward_batch_t *batch, fail_t *fail)
{
    search_t search = {.model = model, .first = INT64_MAX};
    const tap_t tap = {.context = &search, .part = look};
    fail_t refused = {0};
    /* Keys and values of the rows are written again as they were. */
    forward_set_tap(forward, &tap, &refused);
    if (comm_agree(comm, &refused) == 0)
        forward_step(forward, batch);
    fail_t none = {0};
    forward_set_tap(forward, NULL, &none);
    return fail_at(model, comm_min(comm, atomic_load(&search.first)), fail);
}
