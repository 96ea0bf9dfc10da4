/* How an answer is drawn and where it ends, as a JSON object says: a request of choir worker, or a
 * line of --prompts. Pure functions. */
#ifndef CHOIR_LAUNCH_REQUEST_FIELDS_H
#define CHOIR_LAUNCH_REQUEST_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"
#include "engine/run/sampler.h"
#include "launch/args.h"

typedef struct request_fields {
    sampler_params_t sampling;
    size_t max_tokens;
    bool ignore_eos;
    args_strings_t stops; /* texts that end the answer; borrowed from flags or object */
} request_fields_t;

/* The fields' names; for json_check_keys. */
#define REQUEST_FIELDS 10
extern const char *const request_field_names[REQUEST_FIELDS];

/* Takes what the object says; what it does not say stays. name: what messages call it. A seed of
 * the object's own draws as a run of that one prompt with --seed does. FAIL_FORMAT, FAIL_USAGE. */
int request_fields_read(json_t *object, const char *name, request_fields_t *fields, fail_t *fail);

/* Bytes of a JSON line that asks something of a model, at most: far more than a sequence of
 * n_tokens takes in any writing, and room for documents that are scored in windows. */
size_t request_line_bytes(size_t n_tokens);

#endif
