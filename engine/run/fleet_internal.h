/* A replica's part of a fleet: requests as bytes in, results as bytes out, an engine between. Internal
 * to engine/run.
 *
 * On the replica's leader alone. A runner owns its jobs; borrows engine and tokenizer. */
#ifndef CHOIR_RUN_FLEET_INTERNAL_H
#define CHOIR_RUN_FLEET_INTERNAL_H

#include "engine/run/fleet.h"

typedef struct runner runner_t;

int runner_open(runner_t **runner, engine_t *engine, const tokenizer_t *tokenizer, fail_t *fail);
/* NULL is allowed. */
void runner_close(runner_t *runner);

/* The bytes of a request: written by the coordinator, read by runner_take. */
size_t runner_request_bytes(const request_t *request);
void runner_write_request(const request_t *request, uint64_t job, char *bytes);

/* Reads it again: pointers go into the bytes, but for stops, which is NULL. *stops: the texts, one
 * after another with their zeros. */
request_t runner_read_request(const char *bytes, uint64_t *job, const char **stops);

/* Begins a request, which arrived at begin_ns. bytes: borrowed for the call. One that the engine
 * refuses gives a result that says so. FAIL_MEMORY. */
int runner_take(runner_t *runner, const char *bytes, uint64_t begin_ns, fail_t *fail);

/* What an engine is asked for a request; the runner handles stop strings. */
request_t runner_engine_request(const request_t *request);

/* Ends a job before the next step, which gives its result: ENGINE_CANCELLED and what there is of it.
 * One that has ended is left alone. */
void runner_cancel(runner_t *runner, uint64_t job);
/* Ends all jobs now, in the order in which they began. FAIL_MEMORY. */
int runner_cancel_all(runner_t *runner, fail_t *fail);
/* Gives such a result for one that has never begun. FAIL_MEMORY. */
int runner_cancel_unbegun(runner_t *runner, uint64_t job, fail_t *fail);

/* Jobs begun that have no result yet. */
size_t runner_n_active(const runner_t *runner);
size_t runner_n_done(const runner_t *runner);

/* One step of the engine. Negative when it failed. */
int runner_step(runner_t *runner, fail_t *fail);

/* Events of the last step, borrowed until the next. */
const fleet_event_t *runner_events(const runner_t *runner, size_t *n_events);

/* Events as bytes, without their logits. runner_read_event takes the next one off; its pointers go
 * into the bytes. */
size_t runner_event_bytes(const fleet_event_t *event);
void runner_write_event(const fleet_event_t *event, char *bytes);
fleet_event_t runner_read_event(const char *bytes);

/* An engine's figures and its ranks' times as bytes, freshly allocated; NULL when out of memory. */
char *runner_write_figures(const engine_t *engine, size_t n_ranks, size_t *n_bytes);
void runner_read_figures(
    const char *bytes, size_t n_ranks, scheduler_figures_t *figures, rank_times_t *times);

/* The next result as bytes, which the caller frees; NULL when there is none. */
char *runner_give(runner_t *runner, size_t *bytes);

/* A result as bytes, freshly allocated; NULL when out of memory or n_bytes is NULL. */
char *runner_write_result(const fleet_result_t *result, size_t *n_bytes);
/* Pointers into bytes. replica is left 0. */
fleet_result_t runner_read_result(const char *bytes);

#endif
