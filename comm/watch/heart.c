#include "comm/watch/heart.h"

#include "comm/fault.h"
#include "comm/internal.h"
#include "comm/watch/trace_ring.h"

heart_view_t heart_look(const heart_t *heart)
{
    return (heart_view_t){
        .beats = atomic_load_explicit(&heart->beats, memory_order_relaxed),
        .step = atomic_load_explicit(&heart->step, memory_order_relaxed),
        .layer = (uint32_t)atomic_load_explicit(&heart->layer, memory_order_relaxed),
        .phase = (int16_t)atomic_load_explicit(&heart->phase, memory_order_relaxed),
        .wait = (int16_t)atomic_load_explicit(&heart->wait, memory_order_relaxed),
        .group = atomic_load_explicit(&heart->group, memory_order_relaxed),
        .wide = (int16_t)atomic_load_explicit(&heart->wide, memory_order_relaxed),
        .signal = (int16_t)atomic_load_explicit(&heart->signal, memory_order_relaxed),
    };
}

const char *heart_phase_name(int phase)
{
    static const char *const names[HEART_PHASES] = {"", "the command's own work",
        "opening the model", "loading weights", "receiving the step's entries", "embedding",
        "q, k, v projections", "attention", "o_proj", "MLP", "down_proj", "logits", "sampling"};
    return phase >= 0 && phase < HEART_PHASES ? names[phase] : "?";
}

const char *heart_wait_name(int wait)
{
    static const char *const names[HEART_WAITS] = {"", "gather of activations", "broadcast",
        "barrier", "reduction", "collection", "agreement"};
    return wait >= 0 && wait < HEART_WAITS ? names[wait] : "?";
}

/* Only one thread updates it, so this needs no atomic addition. */
static void beat(heart_t *heart)
{
    uint_fast64_t beats = atomic_load_explicit(&heart->beats, memory_order_relaxed);
    atomic_store_explicit(&heart->beats, beats + 1, memory_order_relaxed);
}

void comm_mark(const comm_t *comm, heart_phase_t phase, size_t layer)
{
    heart_t *heart = comm->heart;
    trace_record(comm->trace, TRACE_PHASE, (int)phase, layer);
    if (heart == NULL)
        return;
    atomic_store_explicit(&heart->phase, (int)phase, memory_order_relaxed);
    atomic_store_explicit(&heart->layer, (uint_fast32_t)layer, memory_order_relaxed);
    atomic_store_explicit(&heart->group, comm->first_rank, memory_order_relaxed);
    beat(heart);
}

void comm_beat(const comm_t *comm)
{
    if (comm->heart != NULL)
        beat(comm->heart);
}

void comm_mark_signal(const comm_t *comm, int signal)
{
    if (comm->heart != NULL)
        atomic_store_explicit(&comm->heart->signal, signal, memory_order_relaxed);
}

void comm_mark_step(const comm_t *comm)
{
    heart_t *heart = comm->heart;
    trace_record(comm->trace, TRACE_STEP, 0, 0);
    if (heart != NULL) {
        uint_fast64_t step = atomic_load_explicit(&heart->step, memory_order_relaxed);
        if (step == 0)
            fault_at("step");
        atomic_store_explicit(&heart->step, step + 1, memory_order_relaxed);
    }
    comm_mark(comm, HEART_ORDER, 0);
}

heart_wait_t heart_enter(const comm_t *comm, heart_wait_t wait)
{
    heart_t *heart = comm->heart;
    trace_record(comm->trace, TRACE_ENTER, (int)wait, 0);
    if (heart == NULL)
        return HEART_WAIT_NONE;
    int outer = atomic_load_explicit(&heart->wait, memory_order_relaxed);
    if (outer == HEART_WAIT_NONE) {
        bool wide = comm->is_world ||
                    comm->first_rank != atomic_load_explicit(&heart->group, memory_order_relaxed);
        atomic_store_explicit(&heart->wide, wide, memory_order_relaxed);
        atomic_store_explicit(&heart->wait, (int)wait, memory_order_relaxed);
    }
    return (heart_wait_t)outer;
}

void heart_leave(const comm_t *comm, heart_wait_t outer)
{
    heart_t *heart = comm->heart;
    trace_record(comm->trace, TRACE_LEAVE, 0, 0);
    if (heart == NULL)
        return;
    atomic_store_explicit(&heart->wait, (int)outer, memory_order_relaxed);
    beat(heart);
}
