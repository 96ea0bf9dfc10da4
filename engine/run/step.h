/* The messages of a step: how the coordinator's plan reaches all ranks, and what they found comes
 * back. engine.c runs it.
 *
 * The coordinator (rank 0) broadcasts a fixed header and, by what the header says, a payload:
 *
 *   RUN        rows of a step: entries, then sampling parameters and block tables of newly admitted
 *              sequences, then token ids. All ranks run forward, then each rank's flags
 *              (interrupted, not finite) and summaries of the logits go to the coordinator, then the
 *              logits of prompt rows that were asked for.
 *   LOGITS     number of a logits row of the last step: all ranks' parts of it go to the
 *              coordinator, because the summaries could not decide.
 *   NONFINITE  all ranks look for the first value of the last step that is not finite.
 *   END        a status and its message: the others return from engine_serve.
 *
 * Every rank keeps what a sequence needs between steps, by slot: block table, sampling parameters,
 * and the tokens seen, for the repetition penalty. Nothing on the way can fail but the
 * coordinator's own work, so no rank is left waiting.
 *
 * Owns its buffers, all allocated at open; borrows comm, team, forward and model. One thread at a
 * time. */
#ifndef CHOIR_RUN_STEP_H
#define CHOIR_RUN_STEP_H

#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/base/team.h"
#include "engine/forward/forward.h"
#include "engine/run/sampler.h"
#include "engine/run/scheduler.h"

typedef struct step step_t;

/* Collective. */
int step_open(step_t **step, comm_t *comm, team_t *team, forward_t *forward, const model_t *model,
    const scheduler_options_t *limits, fail_t *fail);
/* Local. NULL is allowed. */
void step_close(step_t *step);

/* Bytes that step_open allocates on a rank. */
size_t step_bytes(const model_t *model, const scheduler_options_t *limits);

/* The result of a step for one entry. */
typedef struct step_result {
    /* When the entry samples: the tokens drawn, which are those that steps without drafts would
     * draw. With drafts, after each one that was right another is drawn. Valid until the next
     * step. */
    const sampler_choice_t *choices; /* [n_choices] */
    size_t n_choices;
    const void *logits; /* [n_logits_rows, vocab_size] when it wants prompt logits,
                              * valid until the next step */
} step_result_t;

/* Times of the steps so far on this rank, without forward_times, in nanoseconds: summaries and
 * draws; messages; waiting for the coordinator's next message. */
typedef struct step_times {
    uint64_t sampling_ns, exchange_ns, waiting_ns;
} step_times_t;
step_times_t step_times(const step_t *step);

/* Where the time of a rank's steps went so far, in nanoseconds: its own work, summaries and draws
 * included; messages and what they wait for; waiting for the coordinator's next message. */
typedef struct rank_times {
    uint64_t compute_ns, exchange_ns, waiting_ns;
} rank_times_t;
/* Coordinator. As the rank said in the last step. */
rank_times_t step_rank_times(const step_t *step, size_t rank);

#endif
