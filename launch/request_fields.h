/* Sampling and the end of an answer, from flags or a JSON object: a request of choir worker, or a
 * line of --prompts. Pure functions. */
#ifndef CHOIR_LAUNCH_REQUEST_FIELDS_H
#define CHOIR_LAUNCH_REQUEST_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"
#include "engine/model/config.h"
#include "engine/run/engine.h"
#include "engine/run/request.h"
#include "engine/text/tokenizer.h"
#include "launch/args.h"
#include "launch/flags.h"

typedef struct request_fields {
    sampler_params_t sampling;
    size_t max_tokens;
    bool ignore_eos;
    args_strings_t stops; /* texts that end the answer; borrowed from flags or object */
    sampler_bias_t bias[SAMPLER_MAX_BIAS];
    size_t n_bias;
} request_fields_t;

/* The fields' names; for json_check_keys. */
#define REQUEST_FIELDS 13
extern const char *const request_field_names[REQUEST_FIELDS];

/* FAIL_USAGE for a --stop without text. */
int request_flags_check(const answer_flags_t *flags, fail_t *fail);

/* What the flags say; with --sample what no flag gives, the checkpoint's generation_config.json
 * does. number: of the prompt in the input. FAIL_MODEL when that has a value that nothing can be
 * drawn with. */
int request_fields_of_flags(const answer_flags_t *flags, const args_given_t *given,
    const config_generation_t *generation, uint64_t number, request_fields_t *fields, fail_t *fail);

/* Takes the object's fields; others keep their value. name: for messages. A seed of the object
 * draws as a run of that one prompt with --seed does. FAIL_FORMAT, FAIL_USAGE. */
int request_fields_read(json_t *object, const char *name, request_fields_t *fields, fail_t *fail);

/* A request with these fields, which borrows them. chat_end: as for engine_stop_ids, which fills
 * stop_ids, [CONFIG_MAX_STOP_IDS + 1]. */
request_t request_of_fields(const request_fields_t *fields, const tokenizer_ids_t *prompt,
    const engine_t *engine, int32_t chat_end, int32_t *stop_ids);

/* Bytes of a JSON line that asks something of a model, at most: far more than a sequence of
 * n_tokens takes in any writing, and room for documents that are scored in windows. */
size_t request_line_bytes(size_t n_tokens);

#endif
