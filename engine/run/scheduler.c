#include "engine/run/scheduler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/run/scheduler_internal.h"

#define GIB 1073741824.0

size_t scheduler_max_rows(const scheduler_options_t *options)
{
    return options->max_batch + options->prefill_chunk;
}

size_t scheduler_max_draws(const scheduler_options_t *options)
{
    return options->max_batch + speculation_most_rows(&options->speculation, options->max_batch);
}

size_t scheduler_max_logits(const scheduler_options_t *options)
{
    return scheduler_max_draws(options) + options->max_prompt_logits;
}

int scheduler_open(scheduler_t **out, const scheduler_options_t *options, fail_t *fail)
{
    assert(options->max_batch > 0 && options->prefill_chunk > 0 && options->max_prompt_logits > 0);
    assert(options->max_context <= options->n_blocks * options->block_tokens);
    *out = NULL;
    scheduler_t *s = calloc(1, sizeof *s);
    if (s != NULL) {
        s->options = *options;
        s->limit =
            (scheduler_limit_t){.most_rows = options->prefill_chunk, .multiple = 1, .least = 1};
        s->running = calloc(options->max_batch, sizeof(sequence_t *));
        s->by_slot = calloc(options->max_batch, sizeof(sequence_t *));
        s->entries = calloc(options->max_batch, sizeof *s->entries);
        s->candidates = calloc(options->max_batch, sizeof *s->candidates);
        speculation_init(&s->speculation, &options->speculation);
        prefix_open(&s->blocks, options->n_blocks, options->block_tokens, fail);
    }
    if (s == NULL || s->running == NULL || s->by_slot == NULL || s->entries == NULL ||
        s->candidates == NULL || s->blocks == NULL) {
        scheduler_close(s);
        return fail_set(fail, FAIL_MEMORY,
            "scheduler: out of memory for %zu sequences and %zu blocks", options->max_batch,
            options->n_blocks);
    }
    *out = s;
    return 0;
}

static void sequence_free(sequence_t *sequence)
{
    draft_close(sequence->draft);
    free(sequence->blocks);
    free(sequence->bias);
    free(sequence);
}

void scheduler_close(scheduler_t *s)
{
    if (s == NULL)
        return;
    for (sequence_t *sequence = s->first, *next; sequence != NULL; sequence = next) {
        next = sequence->next;
        sequence_free(sequence);
    }
    for (size_t i = 0; i < s->n_running; i++)
        sequence_free(s->running[i]);
    free(s->running);
    free(s->by_slot);
    free(s->entries);
    free(s->candidates);
    prefix_close(s->blocks);
    free(s);
}

/* ---- Requests -------------------------------------------------------------------------------- */

int scheduler_check(const scheduler_t *s, const request_t *request, fail_t *fail)
{
    size_t limit = s->options.max_context;
    if (request->n_prompt == 0)
        return fail_set(fail, FAIL_USAGE, "prompt: expected at least one token, found none");
    if (request->n_prompt > limit)
        return fail_set(fail, FAIL_LIMIT,
            "prompt: %zu tokens are more than the %zu that a sequence may have here",
            request->n_prompt, limit);
    if (request->max_tokens > 0 && request->n_prompt == limit)
        return fail_set(fail, FAIL_LIMIT,
            "prompt: its %zu tokens leave no room to generate; a sequence may have %zu here",
            request->n_prompt, limit);
    if (s->options.whole_prompts && request->n_prompt > s->options.prefill_chunk)
        return fail_set(fail, FAIL_LIMIT,
            "prompt: expected at most %zu tokens, found %zu: in this order its experts depend on the whole prompt, which has to fit into one step; --prefill-chunk %zu (%.2f GiB more on each rank) or --order uniform would help",
            s->options.prefill_chunk, request->n_prompt, request->n_prompt,
            (double)(request->n_prompt - s->options.prefill_chunk) * (double)s->options.row_bytes /
                GIB);
    if (request->want_prompt_logits && request->first_prompt_logits >= request->n_prompt)
        return fail_set(fail, FAIL_USAGE,
            "prompt: logits are requested from position %zu, but it has %zu tokens",
            request->first_prompt_logits, request->n_prompt);
    return 0;
}

int scheduler_submit(scheduler_t *s, const request_t *request, uint64_t *handle, fail_t *fail)
{
    if (scheduler_check(s, request, fail) != 0)
        return fail->status;
    size_t n_ids = request->n_prompt + request->n_stop_ids;
    sequence_t *sequence = calloc(1, sizeof *sequence + n_ids * sizeof(int32_t));
    size_t max_tokens = size_min(request->max_tokens, s->options.max_context - request->n_prompt);
    /* The last token drawn is never run. */
    size_t n_cached = request->n_prompt + (max_tokens > 0 ? max_tokens - 1 : 0);
    size_t n_blocks = size_round_up(n_cached, s->options.block_tokens) / s->options.block_tokens;
    int32_t *blocks = calloc(n_blocks, sizeof *blocks);
    sampler_bias_t *bias = calloc(request->n_bias + 1, sizeof *bias);
    if (sequence == NULL || blocks == NULL || bias == NULL) {
        free(sequence);
        free(blocks);
        free(bias);
        return fail_set(fail, FAIL_MEMORY, "request: out of memory for %zu tokens", n_ids);
    }
    if (max_tokens > 1 && scheduler_open_draft(s, sequence, request, max_tokens, fail) != 0) {
        free(sequence);
        free(blocks);
        free(bias);
        return fail->status;
    }
    sequence->handle = s->next_handle++;
    sequence->n_prompt = request->n_prompt;
    sequence->n_stop_ids = request->n_stop_ids;
    sequence->max_tokens = max_tokens;
    sequence->want_prompt_logits = request->want_prompt_logits;
    sequence->first_prompt_logits = request->first_prompt_logits;
    sequence->sampling = request->sampling;
    sequence->sampling.n_bias = (uint32_t)request->n_bias;
    sequence->bias = bias;
    sequence->blocks = blocks;
    if (request->n_bias > 0)
        memcpy(bias, request->bias, request->n_bias * sizeof *bias);
    sequence->n_blocks = n_blocks;
    memcpy(sequence->ids, request->prompt_ids, request->n_prompt * sizeof(int32_t));
    if (request->n_stop_ids > 0)
        memcpy(sequence->ids + request->n_prompt, request->stop_ids,
            request->n_stop_ids * sizeof(int32_t));
    if (s->last != NULL)
        s->last->next = sequence;
    else
        s->first = sequence;
    s->last = sequence;
    s->n_waiting++;
    *handle = sequence->handle;
    return 0;
}

static void release(scheduler_t *s, size_t index)
{
    sequence_t *sequence = s->running[index];
    for (size_t i = sequence->n_blocks; i-- > 0;) {
        int32_t block = sequence->blocks[i];
        /* Sequences that wait for a block whose owner has ended compute it themselves. */
        if (prefix_owner(s->blocks, block) == sequence->handle)
            prefix_set_owner(s->blocks, block, PREFIX_NOBODY);
        prefix_release(s->blocks, block);
    }
    s->by_slot[sequence->slot] = NULL;
    s->n_running--;
    memmove(
        &s->running[index], &s->running[index + 1], (s->n_running - index) * sizeof(sequence_t *));
    sequence_free(sequence);
}

static size_t running_index(const scheduler_t *s, uint64_t handle)
{
    size_t i = 0;
    while (i < s->n_running && s->running[i]->handle != handle)
        i++;
    return i;
}

void scheduler_cancel(scheduler_t *s, uint64_t handle)
{
    size_t index = running_index(s, handle);
    if (index < s->n_running) {
        release(s, index);
        return;
    }
    sequence_t *before = NULL;
    for (sequence_t *sequence = s->first; sequence != NULL; sequence = sequence->next) {
        if (sequence->handle == handle) {
            if (before == NULL)
                s->first = sequence->next;
            else
                before->next = sequence->next;
            if (s->last == sequence)
                s->last = before;
            s->n_waiting--;
            sequence_free(sequence);
            return;
        }
        before = sequence;
    }
}

size_t scheduler_reused_tokens(const scheduler_t *s)
{
    return s->reused_tokens;
}

scheduler_figures_t scheduler_figures(const scheduler_t *s)
{
    return (scheduler_figures_t){.n_waiting = s->n_waiting,
        .n_running = s->n_running,
        .n_blocks = s->options.n_blocks,
        .n_used_blocks = s->options.n_blocks - prefix_available(s->blocks),
        .queried_tokens = s->queried_tokens,
        .reused_tokens = s->reused_tokens};
}

void scheduler_limit(scheduler_t *s, const scheduler_limit_t *limit)
{
    s->limit = *limit;
    s->limit.multiple = size_max(limit->multiple, 1);
    s->limit.least = size_max(limit->least, 1);
    if (limit->most_rows > 0)
        s->limit.most_rows = size_max(limit->most_rows, s->limit.least);
}

size_t scheduler_pending(const scheduler_t *s)
{
    return s->n_waiting + s->n_running;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static uint32_t class_of(const scheduler_t *s, const sequence_t *sequence, size_t block)
{
    const scheduler_options_t *o = &s->options;
    return prefix_class(
        o->mode, o->order, o->attention, (block + 1) * o->block_tokens, sequence->n_prompt);
}

static bool may_share(const scheduler_t *s, const sequence_t *sequence)
{
    size_t limit = s->options.reuse_limit;
    return s->options.reuse_prefixes && (limit == 0 || sequence->n_prompt <= limit);
}

/* Blocks that the sequence could take over: whole blocks of its prompt, before the rows that it has
 * to run itself. The penalty's list of tokens seen is made from rows that run, so with one all run.
 */
static size_t most_shared(const scheduler_t *s, const sequence_t *sequence)
{
    size_t end = sequence->n_prompt - 1;
    if (!may_share(s, sequence) || sampler_needs_seen(&sequence->sampling))
        return 0;
    if (sequence->want_prompt_logits)
        end = size_min(end, sequence->first_prompt_logits);
    return end / s->options.block_tokens;
}

/* Holds the blocks that are there already. */
static void share_blocks(scheduler_t *s, sequence_t *sequence)
{
    size_t most = most_shared(s, sequence), tokens = s->options.block_tokens;
    int32_t before = PREFIX_NONE;
    for (size_t n = 0; n < most; n++) {
        int32_t block =
            prefix_find(s->blocks, before, sequence->ids + n * tokens, class_of(s, sequence, n));
        if (block == PREFIX_NONE)
            break;
        prefix_hold(s->blocks, block);
        sequence->blocks[n] = before = block;
        sequence->n_shared = n + 1;
    }
}

/* Takes the rest of the blocks, and makes those of the prompt known. */
static void take_blocks(scheduler_t *s, sequence_t *sequence)
{
    size_t tokens = s->options.block_tokens;
    bool known = may_share(s, sequence);
    for (size_t i = sequence->n_shared; i < sequence->n_blocks; i++) {
        int32_t block = sequence->blocks[i] = prefix_take(s->blocks);
        int32_t before = i == 0 ? PREFIX_NONE : sequence->blocks[i - 1];
        const int32_t *ids = sequence->ids + i * tokens;
        known = known && (i + 1) * tokens <= sequence->n_prompt &&
                prefix_find(s->blocks, before, ids, class_of(s, sequence, i)) == PREFIX_NONE;
        if (known)
            prefix_register(
                s->blocks, block, before, ids, class_of(s, sequence, i), sequence->handle);
    }
}

/* All of a sequence's blocks, or none. */
static bool get_blocks(scheduler_t *s, sequence_t *sequence)
{
    share_blocks(s, sequence);
    if (sequence->n_blocks - sequence->n_shared <= prefix_available(s->blocks)) {
        take_blocks(s, sequence);
        return true;
    }
    while (sequence->n_shared > 0)
        prefix_release(s->blocks, sequence->blocks[--sequence->n_shared]);
    return false;
}

/* Moves waiting requests into free slots, in order, while they fit. */
static void admit(scheduler_t *s)
{
    while (s->first != NULL && s->n_running < s->options.max_batch && get_blocks(s, s->first)) {
        sequence_t *sequence = s->first;
        s->first = sequence->next;
        if (s->first == NULL)
            s->last = NULL;
        sequence->next = NULL;
        s->n_waiting--;
        while (s->by_slot[sequence->slot] != NULL)
            sequence->slot++;
        s->by_slot[sequence->slot] = sequence;
        s->queried_tokens += sequence->n_prompt;
        s->running[s->n_running++] = sequence;
    }
}

/* The number of next rows before the first one whose logits are needed. */
static size_t rows_before_logits(const sequence_t *sequence)
{
    size_t first = sequence->first_prompt_logits;
    return first > sequence->n_done ? first - sequence->n_done : 0;
}

/* n_logits: the most that the step may still give */
static scheduler_entry_t entry_of(sequence_t *sequence, size_t n_rows, size_t n_logits)
{
    bool decode = scheduler_decodes(sequence);
    bool reaches_end = sequence->n_done + n_rows >= sequence->n_prompt;
    bool logits = !decode && sequence->want_prompt_logits && n_rows > rows_before_logits(sequence);
    size_t wanted = logits ? n_rows - rows_before_logits(sequence) : 0;
    bool again = wanted > n_logits;
    return (scheduler_entry_t){
        .handle = sequence->handle,
        .slot = sequence->slot,
        .admitted = !sequence->begun,
        .blocks = sequence->blocks,
        .n_blocks = sequence->n_blocks,
        .token_ids = decode ? sequence->rows : sequence->ids + sequence->n_done,
        .n_rows = n_rows,
        .n_drafts = decode ? n_rows - 1 : 0,
        .text = decode && sequence->draft != NULL ? draft_text(sequence->draft) : NULL,
        .drafts = sequence->rows + 1,
        .first_position = sequence->n_done,
        .ref_q_len = scheduler_ref_q_len(sequence),
        .decode = decode,
        .sampling = &sequence->sampling,
        .bias = sequence->bias,
        .samples = reaches_end && sequence->max_tokens > 0 && !again,
        .prompt_logits = logits,
        .first_logits_row = logits ? rows_before_logits(sequence) : 0,
        .n_logits_rows = size_min(wanted, n_logits),
        .again = again,
    };
}

/* What a step may still use. */
typedef struct budget {
    size_t rows, logits;
    bool limited; /* by costs: it decodes */
    bool begun;   /* it has rows of a prompt that count */
    double cost;
} budget_t;

/* Skips shared blocks that are ready. The next row of the prompt that is not. */
static void pass_shared(scheduler_t *s, sequence_t *sequence)
{
    size_t tokens = s->options.block_tokens;
    while (sequence->n_done < sequence->n_shared * tokens && sequence->n_done % tokens == 0 &&
           prefix_is_ready(s->blocks, sequence->blocks[sequence->n_done / tokens])) {
        sequence->n_done += tokens;
        s->reused_tokens += tokens;
    }
}

/* Rows of the prompt that the sequence computes next itself: none while another one computes
 * them. */
static size_t own_rows(scheduler_t *s, sequence_t *sequence)
{
    size_t tokens = s->options.block_tokens, end = sequence->n_done;
    pass_shared(s, sequence);
    for (end = sequence->n_done; end < sequence->n_shared * tokens;
         end = (end / tokens + 1) * tokens) {
        int32_t block = sequence->blocks[end / tokens];
        if (prefix_owner(s->blocks, block) == PREFIX_NOBODY)
            prefix_set_owner(s->blocks, block, sequence->handle);
        if (prefix_owner(s->blocks, block) != sequence->handle || prefix_is_ready(s->blocks, block))
            return end - sequence->n_done;
    }
    return sequence->n_prompt - sequence->n_done;
}

static double cost_of(const scheduler_limit_t *limit, size_t position, size_t rows)
{
    double n = (double)rows, p = (double)position;
    return n * limit->row + (n * p + n * (n - 1) / 2) * limit->position;
}

/* Of so many rows of a prompt from this position on, those that a step may have. */
static size_t limit_rows(
    const scheduler_limit_t *limit, size_t position, size_t rows, const budget_t *budget)
{
    double cost = fmax(budget->cost, 0);
    if (limit->row <= 0 || cost_of(limit, position, rows) <= cost)
        return rows;
    /* The n of (position / 2) n^2 + b n = cost. */
    double b = limit->row + limit->position * ((double)position - 0.5);
    double most = 2 * cost / (b + sqrt(b * b + 2 * limit->position * cost));
    size_t n = (size_t)most, unit = n >= 2 * limit->multiple ? limit->multiple : limit->least;
    size_t whole = n / unit * unit;
    return size_min(rows, budget->begun ? whole : size_max(whole, limit->least));
}

static size_t affordable_rows(scheduler_t *s, sequence_t *sequence, const budget_t *budget)
{
    /* One-token prompts do not count, so that many of them cannot delay a longer one. */
    if (scheduler_decodes(sequence))
        return 1 + sequence->n_drafts;
    size_t rows = 1;
    if (scheduler_ref_q_len(sequence) > 1) {
        rows = size_min(own_rows(s, sequence), budget->rows);
        if (budget->limited)
            rows = limit_rows(&s->limit, sequence->n_done, rows, budget);
    }
    if (s->options.whole_prompts) {
        bool waits = sequence->want_prompt_logits && budget->logits == 0;
        return rows == sequence->n_prompt && !waits ? rows : 0;
    }
    return sequence->want_prompt_logits
               ? size_min(rows, rows_before_logits(sequence) + budget->logits)
               : rows;
}

static void add_entry(
    scheduler_t *s, scheduler_step_t *step, budget_t *budget, sequence_t *sequence, size_t n_rows)
{
    scheduler_entry_t *entry = &s->entries[step->n_entries++];
    *entry = entry_of(sequence, n_rows, budget->logits);
    step->n_rows += n_rows;
    step->n_single_rows += entry->ref_q_len == 1;
    step->n_draft_rows += entry->n_drafts;
    budget->rows -= size_min(budget->rows, entry->n_drafts);
    budget->cost -= (double)entry->n_drafts * s->limit.row;
    if (entry->decode)
        return;
    step->n_prompt_rows += n_rows;
    step->prompt_positions += n_rows * entry->first_position + n_rows * (n_rows - 1) / 2;
    if (entry->ref_q_len > 1) {
        budget->begun = true;
        budget->rows -= n_rows;
        budget->cost -= cost_of(&s->limit, entry->first_position, n_rows);
    }
    if (entry->prompt_logits) {
        step->n_prompt_logits += entry->n_logits_rows;
        budget->logits -= entry->n_logits_rows;
    }
}

static size_t count_decoding(const scheduler_t *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_running; i++)
        n += scheduler_decodes(s->running[i]);
    return n;
}

/* How many times the limit a step may use: more where more prompts wait than answers go on, which then hold up the
 * many. A single prompt never changes it. */
static size_t times_limit(size_t n_decoding, size_t n_prompts)
{
    return 1 + (n_prompts > 1 ? (n_prompts - 1) / n_decoding : 0);
}

scheduler_step_t scheduler_plan(scheduler_t *s)
{
    scheduler_step_t step = {.entries = s->entries};
    admit(s);
    scheduler_draft(s);
    const size_t n_decoding = count_decoding(s);
    const bool cuts = n_decoding > 0 && !s->options.whole_prompts;
    const size_t times = cuts ? times_limit(n_decoding, s->n_running - n_decoding) : 1;
    budget_t budget = {.rows = s->options.prefill_chunk,
        .logits = s->options.max_prompt_logits,
        .limited = cuts,
        .cost = (double)times * s->limit.budget};
    if (cuts)
        budget.rows = size_min(budget.rows, times * s->limit.most_rows);
    for (int single_row = 1; single_row >= 0; single_row--)
        for (size_t i = 0; i < s->n_running; i++) {
            sequence_t *sequence = s->running[i];
            size_t n_rows = affordable_rows(s, sequence, &budget);
            if ((scheduler_ref_q_len(sequence) == 1) == (single_row == 1) && n_rows > 0)
                add_entry(s, &step, &budget, sequence, n_rows);
        }
    return step;
}

static bool is_stop(const sequence_t *sequence, int32_t token)
{
    for (size_t i = 0; i < sequence->n_stop_ids; i++)
        if (sequence->ids[sequence->n_prompt + i] == token)
            return true;
    return false;
}

scheduler_end_t scheduler_advance(scheduler_t *s, const scheduler_entry_t *entry, int32_t token)
{
    sequence_t *sequence = s->by_slot[entry->slot];
    assert(sequence != NULL && sequence->handle == entry->handle);
    scheduler_end_t end = SCHEDULER_GOES_ON;
    size_t tokens = s->options.block_tokens, first = sequence->n_done / tokens;
    sequence->begun = true;
    if (entry->again) {
        sequence->first_prompt_logits = entry->first_logits_row + entry->n_logits_rows;
        return SCHEDULER_GOES_ON;
    }
    sequence->n_done += entry->n_rows - entry->n_drafts;
    for (size_t i = first; (i + 1) * tokens <= size_min(sequence->n_done, sequence->n_prompt); i++)
        prefix_set_ready(s->blocks, sequence->blocks[i]);
    if (entry->samples) {
        sequence->rows[0] = token;
        sequence->n_generated++;
        if (sequence->draft != NULL)
            draft_push(sequence->draft, &token, 1);
        if (is_stop(sequence, token))
            end = SCHEDULER_STOPPED;
    }
    if (end == SCHEDULER_GOES_ON && sequence->n_done >= sequence->n_prompt &&
        sequence->n_generated >= sequence->max_tokens)
        end = SCHEDULER_FULL;
    if (end != SCHEDULER_GOES_ON)
        release(s, running_index(s, entry->handle));
    return end;
}
