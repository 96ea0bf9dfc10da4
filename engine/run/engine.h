/* The engine as a program sees it: open a model on a group of ranks, submit requests, step, close.
 *
 * Rank 0 of the group is the coordinator: it submits and receives; the other ranks call
 * engine_serve. Every function says Collective or Coordinator. An engine owns model, cache, threads
 * and scheduler; borrows comm. One thread at a time. */
#ifndef CHOIR_RUN_ENGINE_H
#define CHOIR_RUN_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "engine/kernels/kernels.h"
#include "engine/model/config.h"
#include "engine/run/engine_options.h"
#include "engine/run/request.h"
#include "engine/run/sampler.h"
#include "engine/run/scheduler.h"
#include "engine/run/step.h"
#include "sharding/plan.h"

typedef struct engine engine_t;

/* Chosen and measured values; for the closing line, --version and plan. */
typedef struct engine_info {
    const config_t *config;
    const plan_t *plan;
    const char *isa; /* "avx512_bf16" */
    const kernels_t *kernels;
    dtype_t mode;
    order_t order;
    attention_t attention; /* not ATTENTION_AUTO */
    size_t max_batch;
    dot_t dot; /* chosen; DOT_CHAIN except in mode bf16 */
    size_t ranks, threads, kv_tokens, max_context;
    size_t weight_bytes;     /* of this rank, a draft model's included */
    size_t n_weight_sharers; /* ranks of the node that have one copy of them, this one included */
    size_t peak_bytes;       /* of this process: the largest resident set so far */
    uint64_t load_ns, bytes_read;
    /* With engine_options_t.digests_weights: of the weights of the whole model, the same at any number of ranks and of
     * a shard store. Not there of a model whose weights stay quantised, nor with sums across ranks. */
    bool has_weights_digest;
    uint64_t weights_digest;
} engine_info_t;

/* Collective. On failure all ranks return the same status and message. */
int engine_open(engine_t **engine, comm_t *comm, const engine_options_t *options, fail_t *fail);
/* Collective: the coordinator's call ends the others' engine_serve first. */
void engine_close(engine_t *engine);
engine_info_t engine_info(const engine_t *engine);
/* Local, between steps. Runs work(context, thread) on each of engine_info_t.threads threads. */
void engine_parallel(engine_t *engine, void (*work)(void *context, size_t thread), void *context);

/* Tokens that end an answer, by generation_config.json: [CONFIG_MAX_STOP_IDS + 1] written; the number
 * of them. chat_end: the one that also ends a message, or -1. */
size_t engine_stop_ids(const engine_t *engine, int32_t chat_end, int32_t *ids);

typedef enum engine_finish {
    ENGINE_RUNNING,
    ENGINE_STOP,   /* a stop token or stop string */
    ENGINE_LENGTH, /* max_tokens or the KV cache's end */
    ENGINE_CANCELLED
} engine_finish_t;

/* What a step produced for one request. */
typedef struct engine_event {
    uint64_t request; /* as returned by engine_submit */
    bool has_token;
    sampler_choice_t choice; /* when has_token; stop tokens are reported too */
    engine_finish_t finish;  /* ENGINE_RUNNING until the last event of the request */
    /* Whether the token is the first that a step drew for the request: a pass over the weights; and
     * tokens drafted for that step. */
    bool begins_pass;
    size_t n_drafted;
    /* Logits of prompt positions computed in this step: [n_logits, vocab_size], f32 (f64 in f64
     * mode); valid until the next step. first_logits_position is the position of the first. */
    const void *logits;
    size_t n_logits, first_logits_position;
} engine_event_t;

/* Coordinator. FAIL_USAGE or FAIL_LIMIT for a request that can never run (empty, longer than the
 * cache or the model's positions, an id outside of the vocabulary), with figures. */
int engine_check(const engine_t *engine, const request_t *request, fail_t *fail);

/* Coordinator. As engine_check; FAIL_MEMORY. *handle: ascending from 0. */
int engine_submit(engine_t *engine, const request_t *request, uint64_t *handle, fail_t *fail);

/* Coordinator. Ends a request after the current step: at stop strings and when the user interrupts.
 * It yields no further event. */
void engine_cancel(engine_t *engine, uint64_t request);

/* Coordinator. Runs one step of all admitted requests. *n_events events, borrowed until the next
 * call. Returns 1 while there is more work, 0 when all requests have ended, with this step's events
 * or before, negative when ranks failed: then the engine only closes, and engine_serve has returned
 * the same status on the others. */
int engine_step(engine_t *engine, const engine_event_t **events, size_t *n_events, fail_t *fail);

/* Coordinator. The same for a step that the caller has planned: a measurement's. results: [n_entries]
 * written. FAIL_INTERRUPTED when a rank was asked to stop, FAIL_MODEL when logits are NaN or
 * infinite; then the caller calls engine_end. */
int engine_run(
    engine_t *engine, const scheduler_step_t *plan, step_result_t *results, fail_t *fail);

/* Coordinator. Before engine_run, where a model drafts: it runs the step's rows of prompts, and writes the drafts that
 * the plan left open. FAIL_MEMORY. */
int engine_draft(engine_t *engine, const scheduler_step_t *plan, fail_t *fail);

/* Coordinator. Makes the others return from engine_serve with this status and message; before
 * engine_close when the coordinator's own work failed, so that all ranks end with the same
 * status. */
void engine_end(engine_t *engine, const fail_t *fail);

/* The others: runs the coordinator's steps until it ends them or closes. Returns the status that the coordinator
 * ended with. */
int engine_serve(engine_t *engine, fail_t *fail);

/* Any rank, from a signal handler too: asks for the run to end; the coordinator's engine_step
 * returns FAIL_INTERRUPTED at the next step boundary on all ranks. signal: the one that asked,
 * which the coordinator gets too while it waits for input. */
void engine_interrupt(engine_t *engine, int signal);
/* The same without an end: the coordinator only hears of it, with the next step or, where it waits, as by a
 * signal of its own. */
void engine_note_signal(engine_t *engine, int signal);
/* Local. Whether this rank, or on the coordinator any one, was told so. */
bool engine_was_noted(const engine_t *engine);
/* Local. Whether this rank was asked to end; for ranks that have no step to run. */
bool engine_was_interrupted(const engine_t *engine);

typedef struct engine_totals {
    size_t prompt_tokens, generated_tokens;
    size_t reused_tokens; /* of prompts: found in the cache, not counted in prompt_tokens */
    uint64_t prefill_ns, decode_ns; /* time of steps with prompt rows, and of steps without */
    size_t decode_tokens;           /* generated in steps without prompt rows */
    /* Decode entries of steps, a pass over the weights for a sequence each; the tokens that they
     * gave; and tokens drafted for them, and accepted. */
    size_t passes, pass_tokens, drafted_tokens, accepted_tokens;
    uint64_t kv_bytes; /* forward_kv_bytes of the coordinator */
    int64_t saved_ns;  /* by them, against steps without, as far as the run has measured those */
} engine_totals_t;
engine_totals_t engine_totals(const engine_t *engine);

/* Coordinator. Requests, cache and prompts as they are now. */
scheduler_figures_t engine_figures(const engine_t *engine);
/* Coordinator. Where the time of a rank's steps went so far, as it said in the last step. */
rank_times_t engine_rank_times(const engine_t *engine, size_t rank);

#endif
