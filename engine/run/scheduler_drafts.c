/* Drafts of the scheduler's sequences. */
#include "engine/base/size.h"
#include "engine/run/scheduler_internal.h"

int scheduler_open_draft(const scheduler_t *s, sequence_t *sequence, const request_t *request,
    size_t max_tokens, fail_t *fail)
{
    if (!s->options.speculation.on)
        return 0;
    if (draft_open(&sequence->draft, request->n_prompt + max_tokens, fail) != 0)
        return fail->status;
    draft_push(sequence->draft, request->prompt_ids, request->n_prompt);
    return 0;
}

/* How many tokens a draft model may draft. What is learned of a draft goes by its place. */
static size_t draft_of_model(const scheduler_t *s, sequence_t *sequence, size_t most)
{
    size_t context = s->options.draft_context;
    sequence->match = 1;
    return size_min(most, context - size_min(context, sequence->n_done));
}

/* Drafts for the sequences that decode, as many as speculation finds worth verifying. They take
 * their rows from those of prompts, where there are any at most half of them. */
void scheduler_draft(scheduler_t *s)
{
    size_t n = 0, n_single = 0, n_prompts = 0;
    size_t chunk = size_min(s->limit.most_rows, s->options.prefill_chunk);
    for (size_t i = 0; i < s->n_running; i++) {
        sequence_t *sequence = s->running[i];
        bool single = scheduler_ref_q_len(sequence) == 1;
        n_single += single;
        n_prompts += !single;
        sequence->n_drafts = 0;
        if (!scheduler_decodes(sequence) || sequence->draft == NULL)
            continue;
        /* The last token drawn is never run. */
        size_t most = size_min(
            sequence->max_tokens - sequence->n_generated - 1, (size_t)SPECULATION_MOST_DRAFTS);
        if (s->options.speculation.model)
            most = draft_of_model(s, sequence, most);
        else
            most = draft_propose(sequence->draft, most, sequence->rows + 1, &sequence->match);
        s->candidates[n++] = (speculation_candidate_t){.match = sequence->match, .most = most};
    }
    /* Whole prompts need all rows of a step. */
    if (n == 0 || (s->options.whole_prompts && n_prompts > 0))
        return;
    size_t rows = size_min(n_prompts > 0 ? chunk / 2 : s->options.prefill_chunk,
        speculation_most_rows(&s->options.speculation, s->options.max_batch));
    speculation_choose(&s->speculation, s->candidates, n, n_single, rows, n_prompts > 0);
    n = 0;
    for (size_t i = 0; i < s->n_running; i++)
        if (scheduler_decodes(s->running[i]) && s->running[i]->draft != NULL)
            s->running[i]->n_drafts = s->candidates[n++].n;
}

void scheduler_drop_drafts(scheduler_t *s, scheduler_step_t *step)
{
    for (size_t i = 0; i < step->n_entries; i++) {
        s->entries[i].n_rows -= s->entries[i].n_drafts;
        s->entries[i].n_drafts = 0;
    }
    step->n_rows -= step->n_draft_rows;
    step->n_draft_rows = 0;
}

void scheduler_learn(scheduler_t *s, const scheduler_entry_t *entry, size_t n_accepted)
{
    if (entry->n_drafts > 0)
        speculation_learn(
            &s->speculation, s->by_slot[entry->slot]->match, entry->n_drafts, n_accepted);
}

/* Tokens of the longest draft: so many times the draft model ran. */
static size_t longest_draft(const scheduler_step_t *step)
{
    size_t longest = 0;
    for (size_t i = 0; i < step->n_entries; i++)
        longest = size_max(longest, step->entries[i].n_drafts);
    return longest;
}

int64_t scheduler_time(
    scheduler_t *s, const scheduler_step_t *step, size_t n_tokens, uint64_t draft_ns, uint64_t ns)
{
    if (step->n_prompt_rows > 0)
        return 0;
    speculation_time(&s->speculation, step->n_rows, ns);
    if (s->options.speculation.model)
        speculation_time_drafts(&s->speculation, longest_draft(step), draft_ns);
    size_t n_rows = step->n_rows - step->n_draft_rows;
    double without = speculation_ns(&s->speculation, n_rows) * (double)n_tokens / (double)n_rows;
    return step->n_draft_rows > 0 ? (int64_t)(without - (double)(ns + draft_ns)) : 0;
}
