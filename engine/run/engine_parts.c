#include "engine/run/engine_parts.h"

#include "engine/run/engine_internal.h"

engine_parts_t engine_parts(engine_t *e)
{
    e->serving = false;
    return (engine_parts_t){.comm = e->loaded.comm,
        .team = e->loaded.team,
        .model = &e->loaded.model,
        .cache = &e->loaded.cache,
        .forward = e->forward,
        .step = e->step,
        .isa = e->loaded.isa,
        .limits = e->limits};
}
