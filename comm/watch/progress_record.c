#include "comm/watch/progress_record.h"

#include "comm/fault.h"
#include "comm/internal.h"
#include "comm/watch/trace_ring.h"

progress_view_t progress_record_view(const progress_record_t *record)
{
    return (progress_view_t){
        .beats = atomic_load_explicit(&record->beats, memory_order_relaxed),
        .step = atomic_load_explicit(&record->step, memory_order_relaxed),
        .layer = (uint32_t)atomic_load_explicit(&record->layer, memory_order_relaxed),
        .phase = (int16_t)atomic_load_explicit(&record->phase, memory_order_relaxed),
        .wait = (int16_t)atomic_load_explicit(&record->wait, memory_order_relaxed),
        .group = atomic_load_explicit(&record->group, memory_order_relaxed),
        .wide = (int16_t)atomic_load_explicit(&record->wide, memory_order_relaxed),
        .signal = (int16_t)atomic_load_explicit(&record->signal, memory_order_relaxed),
    };
}

const char *progress_phase_name(int phase)
{
    static const char *const names[PROGRESS_PHASES] = {"", "the command's own work",
        "opening the model", "loading weights", "receiving the step's entries", "embedding",
        "q, k, v projections", "attention", "o_proj", "MLP", "down_proj", "logits", "sampling"};
    return phase >= 0 && phase < PROGRESS_PHASES ? names[phase] : "?";
}

const char *progress_wait_name(int wait)
{
    static const char *const names[PROGRESS_WAITS] = {"", "gather of activations", "broadcast",
        "barrier", "reduction", "collection", "agreement"};
    return wait >= 0 && wait < PROGRESS_WAITS ? names[wait] : "?";
}

/* Only one thread updates it, so this needs no atomic addition. */
static void beat(progress_record_t *record)
{
    uint_fast64_t beats = atomic_load_explicit(&record->beats, memory_order_relaxed);
    atomic_store_explicit(&record->beats, beats + 1, memory_order_relaxed);
}

void comm_set_phase(const comm_t *comm, progress_phase_t phase, size_t layer)
{
    progress_record_t *record = comm->record;
    trace_record(comm->trace, TRACE_PHASE, (int)phase, layer);
    if (record == NULL)
        return;
    atomic_store_explicit(&record->phase, (int)phase, memory_order_relaxed);
    atomic_store_explicit(&record->layer, (uint_fast32_t)layer, memory_order_relaxed);
    atomic_store_explicit(&record->group, comm->first_rank, memory_order_relaxed);
    beat(record);
}

void comm_report_progress(const comm_t *comm)
{
    if (comm->record != NULL)
        beat(comm->record);
}

void comm_record_signal(const comm_t *comm, int signal)
{
    if (comm->record != NULL)
        atomic_store_explicit(&comm->record->signal, signal, memory_order_relaxed);
}

void comm_record_step(const comm_t *comm)
{
    progress_record_t *record = comm->record;
    trace_record(comm->trace, TRACE_STEP, 0, 0);
    if (record != NULL) {
        uint_fast64_t step = atomic_load_explicit(&record->step, memory_order_relaxed);
        if (step == 0)
            fault_at("step");
        atomic_store_explicit(&record->step, step + 1, memory_order_relaxed);
    }
    comm_set_phase(comm, PROGRESS_ORDER, 0);
}

progress_wait_t progress_enter_wait(const comm_t *comm, progress_wait_t wait)
{
    progress_record_t *record = comm->record;
    trace_record(comm->trace, TRACE_ENTER, (int)wait, 0);
    if (record == NULL)
        return PROGRESS_WAIT_NONE;
    int outer = atomic_load_explicit(&record->wait, memory_order_relaxed);
    if (outer == PROGRESS_WAIT_NONE) {
        bool wide = comm->is_world ||
                    comm->first_rank != atomic_load_explicit(&record->group, memory_order_relaxed);
        atomic_store_explicit(&record->wide, wide, memory_order_relaxed);
        atomic_store_explicit(&record->wait, (int)wait, memory_order_relaxed);
    }
    return (progress_wait_t)outer;
}

void progress_leave_wait(const comm_t *comm, progress_wait_t outer)
{
    progress_record_t *record = comm->record;
    trace_record(comm->trace, TRACE_LEAVE, 0, 0);
    if (record == NULL)
        return;
    atomic_store_explicit(&record->wait, (int)outer, memory_order_relaxed);
    beat(record);
}
