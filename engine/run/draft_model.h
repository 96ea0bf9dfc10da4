/* A smaller model of the same vocabulary that drafts for an engine's sequences: what it needs to run.
 *
 * It is split over the same ranks, runs on the same threads, and has a KV cache whose blocks have the numbers of the
 * engine's. Owns its model, cache and step; borrows comm, and threads of the engine's model. Its bits decide only what
 * is drafted, so its order is the engine's where that asks for nothing more than rows. One thread at a time. */
#ifndef CHOIR_RUN_DRAFT_MODEL_H
#define CHOIR_RUN_DRAFT_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/forward/forward.h"
#include "engine/run/capacity.h"
#include "engine/run/load.h"
#include "engine/run/scheduler.h"
#include "engine/run/step.h"

/* A sequence, by its slot, on the coordinator. */
typedef struct draft_slot {
    bool used;
    uint64_t handle;
    size_t n_done;             /* tokens that the draft model's cache holds */
    sampler_params_t sampling; /* the sequence's, greedy and without what only reports */
} draft_slot_t;

/* An entry of the engine's step. */
typedef struct draft_progress {
    bool begun;       /* its prompt's rows have run */
    size_t n_drafted; /* tokens */
} draft_progress_t;

typedef struct draft_model {
    loaded_t loaded;
    model_t shape; /* until it is loaded */
    forward_t *forward;
    step_t *step;
    scheduler_options_t limits;
    /* On the coordinator: [max_batch] each, and tokens of a step. */
    draft_slot_t *slots;
    draft_progress_t *progress;
    scheduler_entry_t *entries;
    size_t *of; /* entries of the engine's step */
    step_result_t *results;
    int32_t *ids;
} draft_model_t;

/* All Collective, in this order; a failure is everybody's. draft_model_close in any case. */

/* Opens files and chooses what it computes with, after the engine's own model has: other. Its options name the draft
 * model. FAIL_MEMORY and what load_files gives. */
int draft_model_open(draft_model_t **draft, const loaded_t *other, fail_t *fail);

/* Adds its weights and cache to what the engine needs. */
int draft_model_plan(draft_model_t *draft, capacity_t *capacity, fail_t *fail);

/* Local. Limits of its steps follow from the engine's, whose draft_context is set; adds its buffers. */
void draft_model_limit(draft_model_t *draft, scheduler_options_t *limits, capacity_t *capacity);

/* Loads the weights, after load_check. */
int draft_model_load(draft_model_t *draft, fail_t *fail);

/* NULL is allowed. */
void draft_model_close(draft_model_t *draft);

#endif
