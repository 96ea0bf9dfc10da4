/* A model opened for a command: the engine with its options, signals, progress and closing line. */
#ifndef CHOIR_LAUNCH_SESSION_H
#define CHOIR_LAUNCH_SESSION_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/progress.h"
#include "engine/run/engine.h"
#include "launch/command.h"
#include "launch/request_fields.h"

typedef struct session {
    invocation_t *invocation;
    engine_t *engine;
    bool coordinates; /* this rank is the coordinator */
} session_t;

/* What the flags say about an engine. Arguments as for session_open. */
engine_options_t session_engine_options(
    const options_t *options, const char *directory, size_t n_sequences, size_t logits_rows);

/* The bar of loading, shown by the coordinator of all ranks: into *options, which it has to
 * outlive. To be closed when the engine is open. */
void session_show_loading(
    progress_t *progress, const invocation_t *invocation, engine_options_t *options);

/* Warns, with --sample, of what the checkpoint would draw with and Choir does not have. session_open
 * does so by itself. */
void session_warn_sampling(const session_t *session);

/* Collective. Opens the model in `directory`. n_sequences: how many will want to run at once;
 * logits_rows: prompt positions of a step whose logits will be asked for. On failure session_close
 * is still to be called. */
int session_open(session_t *session, invocation_t *invocation, const char *directory,
    size_t n_sequences, size_t logits_rows, fail_t *fail);

/* Collective. The coordinator passes how its work ended; the others come from engine_serve with its
 * status. Closes the engine, agrees, and tells speed and memory when all went well. */
int session_close(session_t *session, fail_t *fail);

/* Sampling as the flags ask for it. request: number of the prompt in the input. FAIL_MODEL when
 * --sample uses a value of the checkpoint that nothing can be drawn with. */
sampler_params_t session_sampling(const session_t *session, uint64_t request, fail_t *fail);

/* Sampling and the end of an answer as the flags ask for them, and over that what `line` says, a
 * line of --prompts or NULL. request: as above. FAIL_FORMAT, FAIL_USAGE. */
int session_answer(const session_t *session, uint64_t request, json_t *line,
    request_fields_t *fields, fail_t *fail);

/* Tokens that end an answer unless --ignore-eos: [CONFIG_MAX_STOP_IDS + 1] written; the number of
 * them. ignore_eos: none. chat_end: the token that ends a message, or -1. */
size_t session_stop_ids(const session_t *session, bool ignore_eos, int32_t chat_end, int32_t *ids);

#endif
