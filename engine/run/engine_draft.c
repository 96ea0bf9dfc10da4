/* Drafts of a smaller model. It runs a prompt's rows in the step in which the engine's model runs them, so that blocks
 * of keys and values hold the same tokens in both caches. A token is drafted by a step of its own, of all sequences that
 * draft so many. It is the likeliest one at any temperature: that equals the model's draw more often than a draw with
 * the same random number would, whose tokens are ordered by another model's probabilities (bench/LOG.md). */
#include <string.h>

#include "engine/base/size.h"
#include "engine/run/engine_internal.h"
#include "engine/run/step_internal.h"

/* A step of the draft model that is made. */
typedef struct round {
    scheduler_step_t step;
    size_t rows_left; /* of the most rows, without prompts' */
} round_t;

/* The draft model's view of an entry's sequence, which may be new. */
static draft_slot_t *slot_of(draft_model_t *d, const scheduler_entry_t *entry)
{
    draft_slot_t *slot = &d->slots[entry->slot];
    if (!slot->used || slot->handle != entry->handle) {
        *slot = (draft_slot_t){.handle = entry->handle, .sampling = *entry->sampling};
        slot->sampling.n_logprobs = slot->sampling.want_logprob = slot->sampling.want_digest = 0;
        slot->sampling.temperature = 0;
    }
    /* Blocks that a prompt shares are whole in both caches; of drafts only those that were right count. */
    slot->n_done = entry->decode && slot->used ? size_min(slot->n_done, entry->first_position)
                                               : entry->first_position;
    return slot;
}

/* Adds n rows of the plan's entry i, from a position on. */
static void add_rows(
    engine_t *e, round_t *round, const scheduler_step_t *plan, size_t i, size_t n, bool samples)
{
    draft_model_t *d = e->draft;
    const scheduler_entry_t *entry = &plan->entries[i];
    draft_slot_t *slot = &d->slots[entry->slot];
    scheduler_step_t *step = &round->step;
    size_t vocab_size = d->loaded.config.vocab_size, blocks = d->limits.block_tokens;
    int32_t *ids = d->ids + step->n_rows;
    for (size_t r = 0; r < n; r++) {
        size_t at = slot->n_done + r, first = entry->first_position;
        int32_t id = at < first ? entry->text[at] : entry->token_ids[at - first];
        ids[r] = (size_t)id < vocab_size ? id : 0;
    }
    scheduler_entry_t *own = &d->entries[step->n_entries];
    *own = *entry;
    own->admitted = !slot->used;
    own->n_blocks =
        size_min(entry->n_blocks, size_round_up(d->limits.max_context, blocks) / blocks);
    own->token_ids = ids;
    own->n_rows = n;
    own->n_drafts = 0;
    own->first_position = slot->n_done;
    own->sampling = &slot->sampling;
    own->samples = samples;
    own->prompt_logits = false;
    d->of[step->n_entries++] = i;
    step->n_rows += n;
    step->n_single_rows += entry->ref_q_len == 1;
    step->n_prompt_rows += entry->decode ? 0 : n;
    slot->used = true;
    slot->n_done += n;
}

/* Rows of a prompt, where the draft model has positions for them. */
static void add_prompt(engine_t *e, round_t *round, const scheduler_step_t *plan, size_t i)
{
    draft_model_t *d = e->draft;
    const scheduler_entry_t *entry = &plan->entries[i];
    size_t context = d->limits.max_context, begin = entry->first_position;
    if (d->progress[i].begun || entry->again || begin >= context)
        return;
    d->progress[i].begun = true;
    slot_of(d, entry);
    add_rows(e, round, plan, i, size_min(entry->n_rows, context - begin), false);
}

/* Rows behind which the next token of a draft is drawn: the one drafted before, or those that the draft model has not
 * seen, as many as there is room for. */
static void add_draft(engine_t *e, round_t *round, const scheduler_step_t *plan, size_t i)
{
    draft_model_t *d = e->draft;
    const scheduler_entry_t *entry = &plan->entries[i];
    size_t n_drafted = d->progress[i].n_drafted;
    if (n_drafted == entry->n_drafts)
        return;
    const draft_slot_t *slot = n_drafted == 0 ? slot_of(d, entry) : &d->slots[entry->slot];
    size_t end = entry->first_position + n_drafted + 1, missing = end - slot->n_done;
    size_t n = size_min(missing, round->rows_left);
    if (n == 0)
        return;
    round->rows_left -= n;
    add_rows(e, round, plan, i, n, n == missing);
}

static void make_round(engine_t *e, round_t *round, const scheduler_step_t *plan)
{
    draft_model_t *d = e->draft;
    *round = (round_t){.step = {.entries = d->entries},
        .rows_left = scheduler_max_rows(&d->limits) - plan->n_prompt_rows};
    for (size_t i = 0; i < plan->n_entries; i++)
        if (plan->entries[i].decode)
            add_draft(e, round, plan, i);
        else
            add_prompt(e, round, plan, i);
}

static void keep_drafts(engine_t *e, const round_t *round, const scheduler_step_t *plan)
{
    draft_model_t *d = e->draft;
    for (size_t i = 0; i < round->step.n_entries; i++) {
        if (!d->entries[i].samples)
            continue;
        int32_t token = d->results[i].choices[0].token;
        /* The other model has no such token: a draft that is wrong. */
        token = (size_t)token < e->loaded.config.vocab_size ? token : 0;
        plan->entries[d->of[i]].drafts[d->progress[d->of[i]].n_drafted++] = token;
    }
}

int engine_draft(engine_t *e, const scheduler_step_t *plan, fail_t *fail)
{
    draft_model_t *d = e->draft;
    round_t round;
    memset(d->progress, 0, plan->n_entries * sizeof *d->progress);
    for (make_round(e, &round, plan); round.step.n_entries > 0; make_round(e, &round, plan)) {
        engine_run_rows(e, d->step, &round.step);
        if (engine_draw(d->step, d->results, fail) != 0)
            break;
        keep_drafts(e, &round, plan);
    }
    return fail->status;
}
