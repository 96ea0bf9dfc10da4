/* The tokens that a sequence has so far, as penalties ask for them, on every rank. Ranks see the
 * tokens of the rows that run. Those of drafts are only guesses: for the rows after them they count
 * for the step alone; from the next step on they count where that begins behind them, so that they
 * were right. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/run/step_internal.h"

static void see(uint8_t *seen, int32_t id)
{
    seen[id / 8] |= (uint8_t)(1u << (id % 8));
}

const char *step_read_sampling(step_t *s, slot_t *slot, const char *at)
{
    memcpy(&slot->params, at, sizeof slot->params);
    memset(slot->seen, 0, s->seen_bytes);
    slot->n_adjusted = slot->n_drafts = slot->n_taken = 0;
    at += sizeof slot->params;
    for (size_t i = 0; i < slot->params.n_bias; i++) {
        sampler_bias_t bias;
        memcpy(&bias, at, sizeof bias);
        sampler_add_bias(slot->adjusted, &slot->n_adjusted, &bias);
        at += sizeof bias;
    }
    return at;
}

/* A token at its position, unless it was taken before: by a step that runs again. */
static void take_token(slot_t *slot, int32_t id, size_t position, bool generated)
{
    if (position < slot->n_taken)
        return;
    slot->n_taken = position + 1;
    if (sampler_needs_seen(&slot->params))
        see(slot->seen, id);
    if (sampler_needs_counts(&slot->params) && generated)
        sampler_count(slot->adjusted, &slot->n_adjusted, id);
}

void step_take_tokens(slot_t *slot, const wire_entry_t *entry, const int32_t *ids)
{
    size_t n_given = entry->n_rows - entry->n_drafts;
    for (size_t i = 0; i < slot->n_drafts && slot->first_draft + i < entry->first_position; i++)
        take_token(slot, slot->drafts[i], slot->first_draft + i, true);
    for (size_t i = 0; i < n_given; i++)
        take_token(slot, ids[i], entry->first_position + i, (entry->flags & ENTRY_DECODE) != 0);
    memcpy(slot->drafts, ids + n_given, entry->n_drafts * sizeof *ids);
    slot->n_drafts = entry->n_drafts;
    slot->first_draft = entry->first_position + n_given;
}

/* The same with drafted tokens, aside. */
static void take_drafts(const step_t *s, slot_t *slot, size_t n)
{
    slot->n_with_drafts = slot->n_adjusted;
    memcpy(slot->seen_with_drafts, slot->seen, s->seen_bytes);
    memcpy(slot->adjusted_with_drafts, slot->adjusted, slot->n_adjusted * sizeof *slot->adjusted);
    for (size_t i = 0; i < n; i++) {
        see(slot->seen_with_drafts, slot->drafts[i]);
        if (sampler_needs_counts(&slot->params))
            sampler_count(slot->adjusted_with_drafts, &slot->n_with_drafts, slot->drafts[i]);
    }
}

bool step_tokens(
    const step_t *s, const sample_t *sample, size_t first_row, sampler_tokens_t *tokens)
{
    slot_t *slot = &s->slots[s->entries[sample->entry].slot];
    bool needs_seen = sampler_needs_seen(&slot->params);
    bool aside = sample->n_drafts > 0 && step_follows_tokens(&slot->params);
    if (aside)
        take_drafts(s, slot, sample->n_drafts);
    const uint8_t *seen = aside ? slot->seen_with_drafts : slot->seen;
    *tokens = (sampler_tokens_t){.seen = needs_seen ? seen + first_row / 8 : NULL,
        .adjusted = aside ? slot->adjusted_with_drafts : slot->adjusted,
        .n_adjusted = aside ? slot->n_with_drafts : slot->n_adjusted};
    return needs_seen || tokens->n_adjusted > 0;
}
