/* logit_bias of a request as JSON: {"ID": BIAS, ...}. A pure function. */
#ifndef CHOIR_RUN_LOGIT_BIAS_H
#define CHOIR_RUN_LOGIT_BIAS_H

#include <jansson.h>

#include "engine/base/status.h"
#include "engine/run/sampler.h"

/* The object's member logit_bias, if it is there. name: for messages. bias: [SAMPLER_MAX_BIAS], *n of them written.
 * FAIL_FORMAT. */
int logit_bias_read(
    json_t *object, const char *name, sampler_bias_t *bias, size_t *n, fail_t *fail);

#endif
