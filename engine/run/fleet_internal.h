/* A replica's part of a fleet: jobs as bytes in, results as bytes out, an engine between. Internal
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

/* The bytes of a job: written by the coordinator, read by runner_take. */
size_t runner_job_bytes(const fleet_job_t *job);
void runner_write_job(const fleet_job_t *job, uint64_t handle, char *bytes);

/* Begins a job. bytes: borrowed for the call. A job that the engine refuses gives a result that
 * says so. FAIL_MEMORY. */
int runner_take(runner_t *runner, const char *bytes, size_t n_bytes, fail_t *fail);

/* Jobs begun whose results are not there yet. */
size_t runner_n_active(const runner_t *runner);
size_t runner_n_done(const runner_t *runner);

/* One step of the engine. Negative when it failed. */
int runner_step(runner_t *runner, fail_t *fail);

/* The next result as bytes, which the caller frees; NULL when there is none. */
char *runner_give(runner_t *runner, size_t *bytes);

/* Pointers into bytes. replica is left 0. */
fleet_result_t runner_read_result(const char *bytes);

#endif
