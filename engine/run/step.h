/* The protocol of a step: how the coordinator's plan reaches all ranks and what they found comes
 * back.
 *
 * The coordinator (rank 0) broadcasts a fixed header and, by what the header says, a payload:
 *
 *   STEP    rows of a step: entries, then sampling parameters and block tables of newly admitted
 *           sequences, then token ids. All ranks run forward, then what everyone says (interrupted,
 *           not finite) and summaries of the logits go to the coordinator, then the logits of
 *           prompt rows that were asked for.
 *   LOGITS  number of a logits row of the last step: all ranks' parts of it go to the coordinator,
 *           because the summaries could not decide.
 *   END     a status and its message: the others return from step_follow.
 *
 * Every rank keeps what a sequence needs between steps, by slot: block table, sampling parameters,
 * and the tokens seen, for the repetition penalty. Nothing on the way can fail but the
 * coordinator's own work, so no rank is left waiting.
 *
 * Owns its buffers, all allocated at open; borrows comm, team, forward and model. One thread at a
 * time. */
#ifndef CHOIR_RUN_STEP_H
#define CHOIR_RUN_STEP_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/base/team.h"
#include "engine/forward/forward.h"
#include "engine/run/sampler.h"
#include "engine/run/scheduler.h"

typedef struct step step_t;

/* Collective. interrupt: set by a signal handler or another thread of this rank; a step reports it
 * on all ranks. */
int step_open(step_t **step, comm_t *comm, team_t *team, forward_t *forward, const model_t *model,
    const scheduler_options_t *limits, const atomic_bool *interrupt, fail_t *fail);
/* Coordinator. From here on logits that are NaN or infinite do not end the run. */
void step_allow_nonfinite(step_t *step);
/* Local. NULL is allowed. */
void step_close(step_t *step);

/* Bytes that step_open allocates on a rank. */
size_t step_bytes(const model_t *model, const scheduler_options_t *limits);

/* The result of a step for one entry. */
typedef struct step_result {
    sampler_choice_t choice; /* when the entry samples */
    const void *logits;      /* [n_rows - first_logits_row, vocab_size] when it wants prompt logits,
                              * valid until the next step */
} step_result_t;

/* Coordinator; the others are in step_follow. Runs what the scheduler planned.
 * results: [n_entries] written
 * FAIL_INTERRUPTED when a rank was asked to stop, FAIL_MODEL when logits are NaN or infinite; then
 * and on any other failure the caller sends step_end. */
int step_run(step_t *step, const scheduler_step_t *plan, step_result_t *results, fail_t *fail);

/* Coordinator. Makes the others return with this status and message. */
void step_end(step_t *step, const fail_t *fail);

/* Times of the steps so far on this rank, without forward_times, in nanoseconds: summaries and
 * draws; messages; waiting for the coordinator's next message. */
typedef struct step_times {
    uint64_t sampling_ns, exchange_ns, waiting_ns;
} step_times_t;
step_times_t step_times(const step_t *step);

/* The others. Takes part in steps until step_end; returns its status. */
int step_follow(step_t *step, fail_t *fail);

#endif
