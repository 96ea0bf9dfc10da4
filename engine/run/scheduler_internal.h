/* A scheduler's struct, for the files that plan steps and draft for them. Internal to engine/run. */
#ifndef CHOIR_RUN_SCHEDULER_INTERNAL_H
#define CHOIR_RUN_SCHEDULER_INTERNAL_H

#include "engine/run/draft.h"
#include "engine/run/prefix.h"
#include "engine/run/scheduler.h"

/* A request from submission to end. */
typedef struct sequence {
    struct sequence *next; /* in the queue */
    uint64_t handle;
    size_t n_prompt, max_tokens, n_stop_ids;
    bool want_prompt_logits;
    size_t first_prompt_logits;
    sampler_params_t sampling;
    size_t slot;
    bool begun;         /* an entry of it has run */
    size_t n_shared;    /* blocks at its beginning that it shares with earlier sequences */
    size_t n_done;      /* tokens whose rows have run, or were found in the cache */
    size_t n_generated; /* tokens drawn */
    int32_t rows[1 + SPECULATION_MOST_DRAFTS]; /* the last token drawn, and drafted ones */
    size_t n_drafts, match;                    /* of the step that is planned */
    draft_t *draft;                            /* NULL: none */
    int32_t *blocks;                           /* [n_blocks] */
    size_t n_blocks;
    sampler_bias_t *bias; /* [sampling.n_bias] */
    int32_t ids[];        /* prompt_ids, then stop_ids */
} sequence_t;

struct scheduler {
    scheduler_options_t options;
    sequence_t *first, *last; /* waiting */
    size_t n_waiting, n_running;
    sequence_t **running; /* [max_batch] in order of admission */
    sequence_t **by_slot; /* [max_batch] */
    prefix_t *blocks;
    size_t queried_tokens, reused_tokens;
    scheduler_limit_t limit;             /* of steps that also decode */
    scheduler_entry_t *entries;          /* [max_batch] */
    speculation_candidate_t *candidates; /* [max_batch] */
    speculation_t speculation;
    uint64_t next_handle;
};

static inline bool scheduler_decodes(const sequence_t *sequence)
{
    return sequence->n_done >= sequence->n_prompt;
}

static inline size_t scheduler_ref_q_len(const sequence_t *sequence)
{
    return scheduler_decodes(sequence) ? 1 : sequence->n_prompt;
}

/* scheduler_drafts.c. The text that a request's drafts come from, where there are any; max_tokens: as
 * cut. FAIL_MEMORY. */
int scheduler_open_draft(const scheduler_t *scheduler, sequence_t *sequence,
    const request_t *request, size_t max_tokens, fail_t *fail);
/* Chooses n_drafts of every sequence that decodes. */
void scheduler_draft(scheduler_t *scheduler);

#endif
