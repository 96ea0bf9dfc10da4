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
#include "engine/text/tokenizer.h"

typedef struct fleet fleet_t;

typedef struct fleet_options {
    engine_options_t engine; /* of every replica */
    size_t n_replicas;       /* divides the number of ranks */
    bool own_weights;        /* else replicas on a node have one copy of each share of weights */
    comm_path_t path;
    const tokenizer_t *tokenizer; /* on leaders, for stop strings; elsewhere NULL is allowed */
} fleet_options_t;

/* Whether this rank will lead a replica, and so needs a tokenizer. */
bool fleet_leads(const comm_t *comm, size_t n_replicas);

/* Collective. FAIL_USAGE when the mesh does not fit the ranks; else as engine_open, on all ranks
 * alike. */
int fleet_open(fleet_t **fleet, comm_t *comm, const fleet_options_t *options, fail_t *fail);

/* Collective, after fleet_end on the coordinator and fleet_serve on the others. NULL is allowed. */
void fleet_close(fleet_t *fleet);

/* The engine of this rank's replica; for its info and for signals. */
engine_t *fleet_engine(fleet_t *fleet);

/* What to compute. Either log-probabilities of the last n_scored ids, each given all before it, as
 * one plain forward gives them; or, when n_scored is 0, a continuation of the ids, as generate()
 * gives it. */
typedef struct fleet_job {
    const int32_t *ids; /* [n_ids], copied */
    size_t n_ids;
    size_t n_scored;         /* less than n_ids */
    size_t max_tokens;       /* to generate; cut to what the context leaves */
    const int32_t *stop_ids; /* [n_stop_ids], copied */
    size_t n_stop_ids;
    const char *const *stops; /* [n_stops] texts that end the answer, copied */
    size_t n_stops;
    sampler_params_t sampling; /* for generation; log-probabilities and digest come anyway */
} fleet_job_t;

typedef struct fleet_result {
    uint64_t job;        /* as returned by fleet_submit */
    int status;          /* 0, or why the job could not run: FAIL_LIMIT, FAIL_USAGE */
    const char *message; /* of the failure; "" otherwise */
    engine_finish_t finish;
    /* Generated: the tokens, with the one that ended the answer, and their log-probabilities.
     * Scored: the most likely token at each place, and the log-probability of the one that is
     * there. */
    const int32_t *tokens;  /* [n_tokens] */
    const double *logprobs; /* [n_tokens] */
    size_t n_tokens;
    uint64_t digest; /* of all logits that tokens were drawn from or scored with, in order */
    size_t replica;
    uint64_t first_ns, total_ns; /* from its arrival at the replica to its first token, its end */
} fleet_result_t;

/* Coordinator. Queues a job. *handle: ascending from 0. FAIL_MEMORY, FAIL_LIMIT. */
int fleet_submit(fleet_t *fleet, const fleet_job_t *job, uint64_t *handle, fail_t *fail);

/* Coordinator. Hands out jobs, runs one step of its own replica, and collects what has ended:
 * *n_results results, borrowed until the next call. Waits up to about a millisecond when there is
 * nothing to do. Returns 1 while jobs are under way, 0 when none is, negative when a rank failed:
 * then fleet_end is the only call left. */
int fleet_step(fleet_t *fleet, const fleet_result_t **results, size_t *n_results, fail_t *fail);

/* Coordinator. Jobs submitted whose results have not been returned. */
size_t fleet_pending(const fleet_t *fleet);

/* What a replica did. */
typedef struct fleet_stats {
    size_t n_jobs;
    engine_totals_t totals;
    uint64_t idle_ns;                    /* without a job, between opening and the end */
    uint64_t tail_ns;                    /* the last stretch of it: waiting for the others to end */
    size_t weight_bytes, weight_sharers; /* of its leader, as in engine_info_t */
    size_t peak_bytes; /* the largest resident set of its leader, shared weights included */
} fleet_stats_t;

/* Coordinator. Ends the others' fleet_serve with this status and message, without waiting for jobs
 * that are under way, and collects their stats. Once. */
void fleet_end(fleet_t *fleet, const fail_t *fail);

/* Coordinator, after fleet_end: [n_replicas]. */
const fleet_stats_t *fleet_stats(const fleet_t *fleet);

/* The others: takes part until fleet_end. Returns its status. */
int fleet_serve(fleet_t *fleet, fail_t *fail);

#endif
