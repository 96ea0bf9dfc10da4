/* Requests of choir worker: a JSON line to jobs of the fleet, their results to a JSON line.
 *
 * docs/eval.md describes the lines. The coordinator's work, Local. */
#ifndef CHOIR_LAUNCH_WORKER_REQUEST_H
#define CHOIR_LAUNCH_WORKER_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/text/chat.h"
#include "launch/mesh.h"
#include "launch/worker_line.h"

/* A request from its line to its answer. */
typedef struct worker_request {
    json_t *id; /* as it came; null when there was none */
    worker_op_t op;
    json_t *document;    /* the line */
    tokenizer_ids_t ids; /* of the prompt, or of all windows' text */
    size_t n_context;    /* WORKER_LOGLIKELIHOOD: ids before the continuation */
    size_t n_jobs, n_done;
    /* Collected from results. */
    double logprob;
    bool greedy;
    size_t n_tokens;
    uint64_t digest;
    json_t *answer; /* when it is there */
} worker_request_t;

typedef struct worker {
    mesh_t *mesh;
    const char *directory;
    const chat_choice_t *template;
    chat_t *chat;              /* NULL until it is asked for */
    worker_request_t **by_job; /* [n_jobs]: whose job a handle is;
                                * NULL once its result is there */
    size_t n_jobs, capacity;
} worker_t;

/* Takes a line and submits its jobs. *request: new, the caller's until worker_request_free. One
 * without jobs has its answer at once: also one that is malformed, whose answer tells so, with the
 * line's id as far as that can be read. FAIL_MEMORY only. number: of the line, for messages.
 * unreadable: why the line cannot be taken, of which `line` is the beginning; NULL for one that
 * can.
 */
int worker_request_open(worker_t *worker, const char *line, size_t bytes, size_t number,
    const fail_t *unreadable, worker_request_t **request, fail_t *fail);
/* Takes a job's result; the last one makes the answer. */
void worker_request_take(worker_request_t *request, const fleet_result_t *result);
void worker_request_free(worker_request_t *request);

/* The worker's first line. A new reference. */
json_t *worker_info(const worker_t *worker);

#endif
