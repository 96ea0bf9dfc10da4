/* Looks at rows of logits on all threads of a rank: best tokens, log-probability of the one that is there,
 * digest. On a replica's leader. Owns its scratch; borrows the engine. */
#ifndef CHOIR_RUN_SCORER_H
#define CHOIR_RUN_SCORER_H

#include <stddef.h>
#include <stdint.h>

#include "engine/run/engine.h"

typedef struct scorer scorer_t;

int scorer_open(scorer_t **scorer, engine_t *engine, fail_t *fail);
/* NULL is allowed. */
void scorer_close(scorer_t *scorer);

/* event: with logits; targets: [event->n_logits] the token behind each of its positions. *choices:
 * [event->n_logits] the most likely token of each, with its digest, the target's log-probability, and
 * the n_top most likely ones; borrowed until the next call. FAIL_MEMORY. */
int scorer_rows(scorer_t *scorer, const engine_event_t *event, const int32_t *targets, size_t n_top,
    const sampler_choice_t **choices, fail_t *fail);

#endif
