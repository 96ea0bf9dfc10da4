/* Which tokens of which sequences run in the next step: policy only, no ranks, no clock.
 *
 * Requests are admitted first come, first served, when a slot and enough cache blocks for the
 * prompt and all tokens that may follow are free. So an admitted request always reaches its end and
 * nothing is ever preempted. A step decodes every sequence whose prompt is done and spends up to
 * prefill_chunk rows on prompts, oldest first. Neither batching nor chunking changes a bit of any
 * result (forward.h).
 *
 * Prompts with a common prefix share its cache blocks (prefix.h): one sequence computes them, later
 * ones wait for it, and the blocks stay for later prompts while there is room.
 *
 * Owns copies of the prompts and its arrays; one thread at a time. */
#ifndef CHOIR_RUN_SCHEDULER_H
#define CHOIR_RUN_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "engine/model/order.h"
#include "engine/run/request.h"
#include "engine/run/sampler.h"
#include "engine/run/speculation.h"

typedef struct scheduler scheduler_t;

typedef struct scheduler_options {
    size_t block_tokens;      /* of one cache block */
    size_t n_blocks;          /* of the cache */
    size_t max_batch;         /* sequences running at once */
    size_t prefill_chunk;     /* prompt rows of one step, one-token prompts aside */
    size_t max_prompt_logits; /* prompt rows of one step whose logits are needed */
    /* Steps hold whole prompts, because rows depend on their whole prompt (forward.h): of at most
     * prefill_chunk rows. A prompt with more logits than a step may give runs again for the rest. */
    bool whole_prompts;
    size_t row_bytes;    /* about what a row of prefill_chunk takes on a rank; for messages */
    size_t max_context;  /* tokens of one sequence; fits into the cache */
    bool reuse_prefixes; /* with block_tokens of 64 and its multiples */
    size_t reuse_limit;  /* prompts of more tokens share no blocks; 0: all may */
    dtype_t mode;        /* which prefixes have the same bits */
    order_t order;
    attention_t attention;
    speculation_options_t speculation;
    size_t
        draft_context; /* tokens that a draft model may see of a sequence; with speculation.model */
} scheduler_options_t;

int scheduler_open(scheduler_t **scheduler, const scheduler_options_t *options, fail_t *fail);
/* NULL is allowed. */
void scheduler_close(scheduler_t *scheduler);

/* FAIL_LIMIT when the request could never run, FAIL_USAGE when it is empty. */
int scheduler_check(const scheduler_t *scheduler, const request_t *request, fail_t *fail);

/* As scheduler_check; FAIL_MEMORY. *handle: ascending from 0. */
int scheduler_submit(
    scheduler_t *scheduler, const request_t *request, uint64_t *handle, fail_t *fail);

/* Removes a request, waiting or running; its slot and blocks are free for the next plan. Unknown
 * handles are ignored. Not between scheduler_plan and the last scheduler_advance of its step. */
void scheduler_cancel(scheduler_t *scheduler, uint64_t handle);

/* Tokens of prompts that were found in the cache so far. */
size_t scheduler_reused_tokens(const scheduler_t *scheduler);

typedef struct scheduler_figures {
    size_t n_waiting, n_running;
    size_t n_blocks, n_used_blocks;       /* of the cache; used: held by sequences that run */
    size_t queried_tokens, reused_tokens; /* of prompts admitted so far; found in the cache */
} scheduler_figures_t;
scheduler_figures_t scheduler_figures(const scheduler_t *scheduler);

/* How many prompt rows steps have that also decode. A row at position p of its prompt costs row + position p, those of a
 * step cost budget at most, and are most_rows at most; but there are `least` at least, unless most_rows is 0. Chunks that do not end a prompt are
 * multiples of `multiple` where they have twice as many rows, else of `least`. Where row is 0, costs are not known and do
 * not limit. Budget and most_rows count 1 + (prompts - 1) / answers times, of the prompts that wait and the answers that go
 * on, rounded down. */
typedef struct scheduler_limit {
    double budget, row, position; /* of any one unit */
    size_t most_rows, multiple, least;
} scheduler_limit_t;
/* Other steps, and all until it is called, have prefill_chunk rows. */
void scheduler_limit(scheduler_t *scheduler, const scheduler_limit_t *limit);

/* Requests that have not ended. */
size_t scheduler_pending(const scheduler_t *scheduler);

/* The rows of one sequence in a step. Pointers are the scheduler's, valid until the entry is
 * advanced. */
typedef struct scheduler_entry {
    uint64_t handle;
    size_t slot;   /* 0 .. max_batch - 1: names the sequence while it runs */
    bool admitted; /* first entry of this sequence: the slot is its own from now on */
    const int32_t
        *blocks; /* [n_blocks] cache blocks of the whole sequence, the same in all its entries */
    size_t n_blocks;
    const int32_t *token_ids; /* [n_rows] */
    size_t n_rows;
    size_t n_drafts; /* of a decode step's rows: the last ones, tokens that are guessed */
    /* For a model that drafts: the sequence's tokens before first_position, and where its drafts go, in
     * token_ids. NULL: none drafts. */
    const int32_t *text;
    int32_t *drafts;
    size_t first_position;
    size_t ref_q_len; /* the prompt's length, or 1 for a decode step (forward.h) */
    bool decode;
    const sampler_params_t *sampling;
    const sampler_bias_t *bias; /* [sampling->n_bias] */
    bool samples;       /* the next token is drawn from its last row, or from each decode row */
    bool prompt_logits; /* the logits of n_logits_rows rows are needed, from first_logits_row on */
    size_t first_logits_row, n_logits_rows;
    bool again; /* all of its rows run again, for the logits of others */
} scheduler_entry_t;

typedef struct scheduler_step {
    const scheduler_entry_t *entries; /* those of ref_q_len 1 first */
    size_t n_entries, n_single_rows;
    size_t n_rows, n_draft_rows, n_prompt_rows, n_prompt_logits;
    size_t prompt_positions; /* of all prompt rows in their prompts, summed */
} scheduler_step_t;

/* The next step; n_entries is 0 when nothing is pending. Every entry must be advanced before the
 * next plan. */
scheduler_step_t scheduler_plan(scheduler_t *scheduler);

/* Takes the drafts out of a step that was planned. */
void scheduler_drop_drafts(scheduler_t *scheduler, scheduler_step_t *step);

typedef enum scheduler_end {
    SCHEDULER_GOES_ON,
    SCHEDULER_STOPPED, /* by a stop token */
    SCHEDULER_FULL     /* max_tokens or max_context reached */
} scheduler_end_t;

/* The rows of an entry have run; token is what was drawn when it samples. An end frees slot and
 * blocks. With drafts that were right it is called again for each of them, with the token drawn
 * after it, unless the request has ended. */
scheduler_end_t scheduler_advance(
    scheduler_t *scheduler, const scheduler_entry_t *entry, int32_t token);

/* For drafts to come: the first n_accepted of the entry's were right. Before it is advanced. */
void scheduler_learn(scheduler_t *scheduler, const scheduler_entry_t *entry, size_t n_accepted);
/* The same: a step took so long, after drafting did. What it saved if it gave n_tokens: in nanoseconds,
 * against steps without drafts, whose time is known from earlier ones; 0 with rows of prompts. */
int64_t scheduler_time(scheduler_t *scheduler, const scheduler_step_t *step, size_t n_tokens,
    uint64_t draft_ns, uint64_t ns);

/* Limits of any step: the most rows, the most rows of logits (draws included), and of these the
 * draws. */
size_t scheduler_max_rows(const scheduler_options_t *options);
size_t scheduler_max_logits(const scheduler_options_t *options);
size_t scheduler_max_draws(const scheduler_options_t *options);

#endif
