/* A task of choir eval: its JSON file, and its items as token ids.
 *
 * docs/eval.md describes the files. Everything here is the coordinator's work and Local. A task
 * owns the items and everything in them; borrows the tokenizer. */
#ifndef CHOIR_EVAL_EVAL_TASK_H
#define CHOIR_EVAL_EVAL_TASK_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/chat.h"
#include "engine/text/pattern.h"
#include "engine/text/tokenizer.h"

#define EVAL_MAX_PATTERNS 8
#define EVAL_MAX_STOPS 16

typedef enum eval_kind {
    EVAL_GENERATE,  /* an answer is generated and compared with the target */
    EVAL_CHOICE,    /* the likeliest of some continuations is the answer */
    EVAL_PERPLEXITY /* how likely a text is */
} eval_kind_t;

/* How an answer is found in the model's text. */
typedef struct eval_extract {
    const char *name;
    pattern_t *pattern; /* NULL: all of it */
    bool last;          /* the last match counts, not the first */
} eval_extract_t;

/* One forward or generation of an item. */
typedef struct eval_job {
    tokenizer_ids_t ids;
    size_t n_scored; /* of ids, at the end: 0 to generate */
    size_t weight;   /* of a choice: its characters, for the normalised score */
} eval_job_t;

typedef struct eval_item {
    size_t index; /* in the data, from 0 */
    char *id;
    eval_job_t *jobs; /* [n_jobs] one; one a choice */
    size_t n_jobs;
    uint64_t digest;     /* of the ids of all jobs */
    char *target;        /* EVAL_GENERATE */
    size_t answer;       /* EVAL_CHOICE: the right job */
    size_t words, bytes; /* EVAL_PERPLEXITY: of what is scored; words that begin in it */
} eval_item_t;

/* Settings that flags replace. */
typedef struct eval_overrides {
    const char *data; /* NULL: as in the task */
    size_t limit;     /* first items only; 0: all */
    bool has_shots, has_max_tokens;
    size_t shots, max_tokens;
    chat_choice_t chat;
} eval_overrides_t;

typedef struct eval_task {
    json_t *root; /* the file; strings are borrowed from it */
    char path[4096];
    const char *name;
    eval_kind_t kind;
    char data_path[4096], shots_path[4096];
    size_t n_shots;
    size_t max_tokens;
    const char *stops[EVAL_MAX_STOPS];
    size_t n_stops;
    eval_extract_t extracts[EVAL_MAX_PATTERNS];
    size_t n_extracts;
    pattern_t *ignored[EVAL_MAX_PATTERNS];
    size_t n_ignored;
    bool ignore_case, chat;
    size_t window, stride;
    chat_t *template; /* NULL without "chat" */
    uint64_t task_digest, data_digest, shots_digest;
    eval_item_t *items; /* [n_items] in the order of the data */
    size_t n_items;
} eval_task_t;

/* Reads a task, its data and its examples, and encodes every item. given: a path, or the name of
 * a task of configs/tasks. directory: of the model, for its chat template. max_context: tokens that
 * a window of a perplexity task may have at most; 0: not known. FAIL_USAGE for a task that does not
 * exist; FAIL_FORMAT names file, line and field. On failure nothing is kept. */
int eval_task_open(eval_task_t *task, const char *given, const eval_overrides_t *overrides,
    const char *directory, const tokenizer_t *tokenizer, fail_t *fail);
void eval_task_close(eval_task_t *task);

#endif
