/* An engine's struct, for the files that open, step and measure it. */
#ifndef CHOIR_RUN_ENGINE_INTERNAL_H
#define CHOIR_RUN_ENGINE_INTERNAL_H

#include <stdatomic.h>

#include "engine/forward/forward.h"
#include "engine/run/draft_model.h"
#include "engine/run/engine.h"
#include "engine/run/load.h"
#include "engine/run/pace.h"
#include "engine/run/scheduler.h"
#include "engine/run/step.h"

struct engine {
    loaded_t loaded;
    forward_t *forward;
    step_t *step;
    draft_model_t *draft;   /* NULL: none drafts */
    scheduler_t *scheduler; /* on the coordinator */
    scheduler_options_t limits;
    engine_event_t *events; /* [scheduler_max_draws] */
    step_result_t *results; /* [max_batch] */
    bool serving;           /* the others are in engine_serve, or will be */
    bool warned;            /* of logits that are not finite */
    bool nonfinite_drafts;  /* the last step had some, and drafts, and gave no results */
    atomic_bool interrupted, noted;
    size_t kv_tokens;
    bool chunk_given; /* the user chose prefill_chunk */
    engine_totals_t totals;
    pace_t pace;
};

/* engine.c. Coordinator. Runs a plan's rows on all ranks, of the engine's model or of the one that drafts; flags of all ranks. */
int64_t engine_run_rows(engine_t *engine, step_t *step, const scheduler_step_t *plan);
/* Coordinator, after that. Draws of the rows: results [n_entries]. FAIL_MEMORY. */
int engine_draw(step_t *step, step_result_t *results, fail_t *fail);

#endif
