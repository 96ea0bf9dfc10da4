/* The parts of an engine, for measurements that drive steps by themselves
 * (engine/measure/bench.h). */
#ifndef CHOIR_RUN_ENGINE_PARTS_H
#define CHOIR_RUN_ENGINE_PARTS_H

#include "engine/base/team.h"
#include "engine/forward/forward.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/run/engine.h"
#include "engine/run/scheduler.h"
#include "engine/run/step.h"

typedef struct engine_parts {
    comm_t *comm;
    team_t *team;
    const model_t *model;
    kv_cache_t *cache;
    forward_t *forward;
    step_t *step;
    isa_t isa;
    scheduler_options_t limits;
} engine_parts_t;

/* Local. Borrowed from the engine, whose close ends nothing from now on. Steps run this way need all
 * ranks: the coordinator in engine_run, then engine_end; the others in engine_serve, which may begin
 * again after that. */
engine_parts_t engine_parts(engine_t *engine);

#endif
