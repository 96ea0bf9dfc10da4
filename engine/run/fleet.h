/* Many jobs over a mesh of ranks: D replicas of a model, each split over T ranks.
 *
 * Rank r belongs to replica r / T; a replica's first rank leads it, and rank 0, the coordinator,
 * also submits jobs and receives results. Jobs go out one by one, as replicas have room, in the
 * order of submission. A job's result depends on the job alone, bit for bit: not on the mesh, nor
 * on the jobs beside it (docs/numerics.md). Every function says Collective or Coordinator. A fleet
 * owns the replicas' groups and engines; borrows comm and tokenizer. One thread at a time. */
#ifndef CHOIR_RUN_FLEET_H
#define CHOIR_RUN_FLEET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/run/engine.h"
#include "engine/run/replica.h"
#include "engine/run/request.h"
#include "engine/text/tokenizer.h"

typedef struct fleet fleet_t;

typedef struct fleet_options {
    replica_options_t replica;
    const tokenizer_t *tokenizer; /* on leaders, for text and stop strings; NULL: none */
    bool
        follows_prefixes; /* jobs go to the replica that has their prompt's beginning, if it has room */
} fleet_options_t;

/* Whether this rank leads a replica, and so needs a tokenizer. */
bool fleet_leads(const comm_t *comm, size_t n_replicas);

/* Collective. FAIL_USAGE when the mesh does not fit the ranks; else as engine_open, on all ranks
 * alike. */
int fleet_open(fleet_t **fleet, comm_t *comm, const fleet_options_t *options, fail_t *fail);

/* Collective, after fleet_end on the coordinator and fleet_serve on the others. NULL is allowed. */
void fleet_close(fleet_t *fleet);

/* The engine of this rank's replica; for its info and for signals. */
engine_t *fleet_engine(fleet_t *fleet);
size_t fleet_n_replicas(const fleet_t *fleet);

/* A token of an answer, or logits of prompt positions. */
typedef struct fleet_event {
    uint64_t job;
    const sampler_choice_t *choice; /* NULL: no token */
    const char *text; /* [text_bytes] what the answer's text grows by; may be nothing */
    size_t text_bytes;
    /* [n_logits, vocab_size], f32 (f64 in f64 mode), for want_prompt_logits and jobs of the
     * coordinator's own replica: with one replica, all. */
    const void *logits;
    size_t n_logits, first_logits_position;
} fleet_event_t;

typedef struct fleet_result {
    uint64_t job;        /* as returned by fleet_submit */
    int status;          /* 0, or why the job could not run: FAIL_LIMIT, FAIL_USAGE */
    const char *message; /* of the failure; "" otherwise */
    engine_finish_t finish;
    /* Generated: the tokens, with the one that ended the answer, and their log-probabilities, if
     * asked for. Scored: the most likely token at each place, and the log-probability of the one
     * that is there. */
    const int32_t *tokens;  /* [n_tokens] */
    const double *logprobs; /* [n_tokens] */
    const sampler_choice_t
        *choices; /* [n_tokens] for requests with n_logprobs, also scored ones; else NULL */
    size_t n_tokens;
    size_t n_passes, n_drafted; /* steps that tokens were drawn in; tokens drafted for them */
    const char *text; /* [text_bytes] of what was generated, before the stop string, with a zero
                       * behind it; NULL without a tokenizer */
    size_t text_bytes;
    uint64_t digest; /* of all logits that tokens were drawn from or scored with, in order, if asked
                      * for */
    size_t replica;
    uint64_t first_ns, total_ns; /* to its first token, to its end: from its submission with one
                                  * replica, else from its arrival at the replica */
} fleet_result_t;

/* Coordinator. Why a request could never run, as an engine says it: FAIL_USAGE, FAIL_LIMIT. One
 * that is submitted anyway gets that as its result. */
int fleet_check(const fleet_t *fleet, const request_t *request, fail_t *fail);

/* Coordinator. Queues a request. *job: a handle, ascending from 0. FAIL_MEMORY, FAIL_LIMIT. */
int fleet_submit(fleet_t *fleet, const request_t *request, uint64_t *job, fail_t *fail);

/* Coordinator. Ends a job at the next step: its result, which still comes, is
 * ENGINE_CANCELLED with what there is of it. One that has ended is left alone. FAIL_MEMORY. */
int fleet_cancel(fleet_t *fleet, uint64_t job, fail_t *fail);

/* Coordinator. Assigns jobs, runs one step of its own replica, and collects results: *n_results of
 * them, borrowed until the next call. Waits up to about a millisecond when there is nothing to do.
 * Returns 1 while jobs are running, 0 when none is, negative when a rank failed: then fleet_partial
 * and fleet_end are the only calls allowed. */
int fleet_step(fleet_t *fleet, const fleet_result_t **results, size_t *n_results, fail_t *fail);

/* Coordinator. Tokens of requests that stream, and logits, as told in the last fleet_step; borrowed
 * like results. The last token of an answer comes with its result alone, as does what is left of
 * the text: it begins with all that events have told. */
const fleet_event_t *fleet_events(const fleet_t *fleet, size_t *n_events);

/* Coordinator. The bytes that a result of the last fleet_step points into, which the caller frees:
 * so it lasts longer. */
char *fleet_keep(fleet_t *fleet, const fleet_result_t *result);

/* Coordinator, after a fleet_step that failed. What there is of the jobs of its own replica, as
 * results; borrowed likewise. */
int fleet_partial(fleet_t *fleet, const fleet_result_t **results, size_t *n_results, fail_t *fail);

/* Coordinator. A replica's requests, cache and prompts, and where the time of a rank's steps went: of the
 * coordinator's replica as of the last step, of others as they last told, some times a second. */
scheduler_figures_t fleet_figures(const fleet_t *fleet, size_t replica);
rank_times_t fleet_rank_times(const fleet_t *fleet, size_t rank);

/* Coordinator. Jobs submitted whose results have not been returned. */
size_t fleet_pending(const fleet_t *fleet);

/* Figures of a replica. */
typedef struct fleet_stats {
    size_t n_jobs;
    engine_totals_t totals;
    uint64_t idle_ns;                      /* without a job, between opening and the end */
    uint64_t tail_ns;                      /* the last part of it: waiting for the others to end */
    size_t weight_bytes, n_weight_sharers; /* of its leader, as in engine_info_t */
    size_t peak_bytes; /* the largest resident set of its leader, shared weights included */
} fleet_stats_t;

/* Coordinator. Ends the others' fleet_serve with this status and message, without waiting for
 * running jobs, and collects their stats. Once. */
void fleet_end(fleet_t *fleet, const fail_t *fail);

/* Coordinator, after fleet_end: [n_replicas]. */
const fleet_stats_t *fleet_stats(const fleet_t *fleet);

/* The others: takes part until fleet_end. Returns its status. */
int fleet_serve(fleet_t *fleet, fail_t *fail);

#endif
