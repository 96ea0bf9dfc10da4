/* An engine's struct, for the files that open, step and measure it. */
#ifndef CHOIR_RUN_ENGINE_INTERNAL_H
#define CHOIR_RUN_ENGINE_INTERNAL_H

#include <stdatomic.h>

#include "engine/forward/forward.h"
#include "engine/run/engine.h"
#include "engine/run/load.h"
#include "engine/run/scheduler.h"
#include "engine/run/step.h"

struct engine {
    loaded_t loaded;
    forward_t *forward;
    step_t *step;
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
    double decode_ns,
        prompt_row_ns; /* recent averages: of a step without prompt rows; of a prompt row */
};

#endif
