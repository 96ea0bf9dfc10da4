/* A step's buffers, for the files that fill them (step.c) and run it (engine.c). Internal to
 * engine/run. */
#ifndef CHOIR_RUN_STEP_INTERNAL_H
#define CHOIR_RUN_STEP_INTERNAL_H

#include <stdbool.h>

#include "engine/base/clock.h"
#include "engine/run/step.h"

enum { STEP_RUN, STEP_LOGITS, STEP_NONFINITE, STEP_END };

/* What a rank sends of a step besides its summaries. */
enum { RANK_INTERRUPTED = 1, RANK_NONFINITE = 2, RANK_NOTED = 4 };

/* What every rank sends of a step before its summaries. */
typedef struct rank_report {
    int64_t flags;
    rank_times_t times;
} rank_report_t;

/* The head of every message. Ranks run the same program on machines of one kind, so structs are
 * sent as they are. */
typedef struct step_header {
    uint32_t kind;
    uint32_t drafts;            /* STEP and LOGITS: of the model that drafts */
    int32_t status;             /* END */
    uint32_t n_entries, n_rows; /* STEP */
    uint32_t logits_row;        /* LOGITS */
    uint32_t payload_bytes;     /* STEP and END */
} step_header_t;

enum {
    ENTRY_ADMITTED = 1,
    ENTRY_SAMPLES = 2,
    ENTRY_PROMPT_LOGITS = 4,
    ENTRY_SINGLE_ROW = 8,
    ENTRY_DECODE = 16
};

typedef struct wire_entry {
    uint32_t slot, n_rows, first_position, ref_q_len;
    uint32_t n_drafts;                        /* of the rows: the last ones */
    uint32_t n_blocks;                        /* in the payload: only when admitted */
    uint32_t first_logits_row, n_logits_rows; /* of its rows, with prompt logits */
    uint32_t flags;
} wire_entry_t;

typedef struct slot {
    sampler_params_t params;
    int32_t *blocks;            /* [blocks of max_context] */
    uint8_t *seen;              /* a bit for each token of the vocabulary */
    sampler_adjust_t *adjusted; /* [n_adjusted] */
    size_t n_adjusted;
    size_t n_taken; /* positions whose tokens are in these */
    /* Tokens drafted in the sequence's last step, and the position of the first; and with some of
     * them, in a step with drafts: */
    int32_t drafts[SPECULATION_MOST_DRAFTS];
    size_t n_drafts, first_draft;
    uint8_t *seen_with_drafts;
    sampler_adjust_t *adjusted_with_drafts; /* [n_with_drafts] */
    size_t n_with_drafts;
} slot_t;

/* An entry's rows of logits in the step: the first sample of its own, the first of its prompt. */
typedef struct placed {
    size_t first_sample, prompt;
} placed_t;

/* A row of the step that a token is drawn from. */
typedef struct sample {
    size_t entry, logits_row;
    size_t n_drafts; /* drafted tokens before it */
    size_t summary;  /* offset of its summary in what this rank sends */
} sample_t;

struct step {
    comm_t *comm;
    team_t *team;
    forward_t *forward;
    const model_t *model;
    scheduler_options_t limits;
    bool is_f64;
    bool drafts; /* of a model that drafts */
    size_t vocab_size, n_ranks, logit_bytes;
    size_t blocks_per_slot, seen_bytes, payload_capacity;
    plan_range_t vocab; /* this rank's rows */
    char *memory;
    size_t memory_bytes;
    /* The current step, in memory. */
    char *payload;
    wire_entry_t *entries; /* in payload */
    size_t n_entries;
    slot_t *slots;
    forward_sequence_t *sequences;
    forward_logits_row_t *logits_rows;
    placed_t *placed;
    sample_t *samples; /* [n_samples], entry by entry */
    size_t n_samples;
    forward_batch_t batch;
    size_t *counts;            /* [n_ranks] bytes to gather */
    size_t *starts;            /* [n_ranks] where a rank's next summary begins in `all` */
    size_t *n_rows;            /* [n_ranks] rows of the vocabulary */
    const void **summaries;    /* [n_ranks] */
    char *mine, *all;          /* gathered: the rank's report, then summaries */
    rank_times_t *rank_times;  /* on the coordinator: [n_ranks] */
    char *row;                 /* on the coordinator: [vocab_size] logits */
    char *prompt_logits;       /* on the coordinator: [max_prompt_logits, vocab_size] */
    sampler_choice_t *choices; /* on the coordinator: [draws of a step at most] */
    uint64_t mark_ns;
    step_times_t times;
};

static inline const sampler_params_t *step_params(const step_t *s, size_t i)
{
    return &s->slots[s->entries[i].slot].params;
}

static inline bool step_has_flag(const step_t *s, size_t i, uint32_t flag)
{
    return (s->entries[i].flags & flag) != 0;
}

/* Rows of entry i that tokens are drawn from. */
static inline size_t step_n_samples(const step_t *s, size_t i)
{
    return step_has_flag(s, i, ENTRY_SAMPLES) ? 1 + s->entries[i].n_drafts : 0;
}

/* Whether scores follow the tokens so far. */
static inline bool step_follows_tokens(const sampler_params_t *params)
{
    return sampler_needs_seen(params) || sampler_needs_counts(params);
}

/* step_tokens.c. A new sequence's parameters and biases; what follows them. */
const char *step_read_sampling(step_t *step, slot_t *slot, const char *at);
/* The tokens of an entry: ids [n_rows]. */
void step_take_tokens(slot_t *slot, const wire_entry_t *entry, const int32_t *ids);
/* What the tokens before a sample do to the scores of rows from first_row on. False when it is
 * nothing. Valid until the next call for the entry. */
bool step_tokens(
    const step_t *step, const sample_t *sample, size_t first_row, sampler_tokens_t *tokens);

/* Charges the time since the last mark. */
static inline void step_charge(step_t *s, uint64_t *kind)
{
    uint64_t now = clock_ns();
    *kind += now - s->mark_ns;
    s->mark_ns = now;
}

/* Coordinator. Writes what the scheduler planned into the payload. */
step_header_t step_write(step_t *step, const scheduler_step_t *plan);
/* Every rank. Updates the slots by the payload, and lists the step's sequences and rows of logits
 * as a batch. */
void step_read(step_t *step, const step_header_t *header);

/* Collective, after forward: flags of all ranks (with these of this one) and summaries of all sampled
 * rows to the coordinator. */
void step_gather_summaries(step_t *step, int64_t flags);
/* Collective. Logits of prompt rows that were asked for, to the coordinator. */
void step_gather_prompt_logits(step_t *step);
/* Collective. One row of logits, whole, to the coordinator. all: [vocab_size] there */
void step_gather_row(step_t *step, size_t logits_row, char *all);

/* Coordinator, after step_gather_summaries. Finds each rank's part: starts[r] becomes the offset of
 * its first summary. The flags of all ranks together. */
int64_t step_find_starts(step_t *step);

#endif
