/* The forward pass of a small random model on one rank, for tests; and the same model computed
 * plainly in double precision. */
#ifndef CHOIR_TESTS_FORWARD_FIXTURE_H
#define CHOIR_TESTS_FORWARD_FIXTURE_H

#include "engine/forward/forward.h"
#include "engine/model/model_source.h"

enum { FORWARD_MAX_CONTEXT = 160, FORWARD_MAX_ROWS = 200, FORWARD_MAX_PROMPTS = 4 };

/* How a model is run. */
typedef struct forward_case {
    dtype_t mode;
    order_t order;
    attention_t attention;
    dot_t dot;
    isa_t isa;
    size_t threads;
    plan_combine_t combine;
    bool packed; /* weights */
} forward_case_t;

/* What a rank has to run steps with. */
typedef struct forward_rank {
    team_t *team;
    model_t model;
    kv_cache_t cache;
    forward_t *forward;
} forward_rank_t;

/* Collective. comm: NULL for one rank alone. limits: only the max_ fields are read. */
int forward_rank_open(forward_rank_t *rank, comm_t *comm, const config_t *config,
    const model_source_t *source, const forward_case_t *c, const forward_options_t *limits,
    size_t n_blocks, fail_t *fail);
void forward_rank_close(forward_rank_t *rank);

/* How far a prompt is, with the tokens that are fed one by one after it. */
typedef struct forward_progress {
    size_t n_prompt, n_all, done;
    const int32_t *blocks;
} forward_progress_t;

/* The next rows of a prompt, at most `chunk` of them, if they are of the class asked for. */
bool forward_next_rows(const forward_progress_t *at, size_t chunk, bool single_row,
    size_t first_row, forward_sequence_t *rows);

/* A prompt and the tokens that follow it one by one. */
typedef struct forward_prompt {
    size_t n_prompt, n_all;
    int32_t ids[FORWARD_MAX_CONTEXT];
    /* Progress. */
    size_t done;
    int32_t blocks[(FORWARD_MAX_CONTEXT + KV_BLOCK - 1) / KV_BLOCK];
    char *logits; /* [n_all, vocabulary] accumulator: of every token whose logits are asked for */
} forward_prompt_t;

typedef struct forward_fixture {
    forward_case_t c;
    config_t config;
    forward_rank_t rank;
    forward_prompt_t prompts[FORWARD_MAX_PROMPTS];
    size_t n_prompts;
    bool (*wants)(size_t token); /* NULL: logits of all */
} forward_fixture_t;

/* One layer; sizes that are no multiple of a panel; head_dim 16. */
extern const config_t forward_small;

/* The cache's memory is NaN before, as an earlier sequence may leave it. Ends the program where it
 * fails. */
void forward_fixture_open(forward_fixture_t *f, const forward_case_t *c, const config_t *config);
void forward_fixture_close(forward_fixture_t *f);
/* Adds a prompt of random tokens, and n_fed after it. */
void forward_fixture_add(forward_fixture_t *f, size_t n_prompt, size_t n_fed);

/* Runs prompts [begin, end) to their ends, in one batch: prompts `chunk` tokens at a time. */
void forward_fixture_run(forward_fixture_t *f, size_t begin, size_t end, size_t chunk);

/* Bytes of a prompt's logits. */
size_t forward_fixture_bytes(const forward_fixture_t *f, size_t prompt);
/* The largest difference of a prompt's logits from those in double precision. */
double forward_fixture_error(const forward_fixture_t *f, size_t prompt);

#endif
