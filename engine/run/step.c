#include "engine/run/step.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/nonfinite.h"
#include "engine/run/step_internal.h"

/* All arrays, in one allocation. */
typedef struct layout {
    size_t payload, slots, blocks, seen, adjusted, sequences, logits_rows, placed, counts, starts,
        n_rows, summaries;
    size_t mine, all, row, prompt_logits, rank_times;
    size_t samples, choices, draft_seen, draft_adjusted;
    size_t bytes;
} layout_t;

/* ---- Memory ---------------------------------------------------------------------------------- */

static size_t reserve(layout_t *layout, size_t n, size_t bytes)
{
    size_t offset = layout->bytes;
    layout->bytes += size_round_up(n * bytes, 64);
    return offset;
}

/* The largest summary that any parameters give. */
static size_t most_summary_bytes(size_t n_rows)
{
    sampler_params_t most = {
        .temperature = 1, .n_logprobs = SAMPLER_MAX_LOGPROBS, .want_logprob = 1};
    return sampler_summary_bytes(&most, n_rows);
}

static size_t blocks_per_slot(const scheduler_options_t *limits)
{
    return size_round_up(limits->max_context, limits->block_tokens) / limits->block_tokens;
}

/* Tokens of a sequence that may be adjusted: those with a bias, and all that it generates. */
static size_t most_adjusted(const model_t *model, const scheduler_options_t *limits)
{
    return SAMPLER_MAX_BIAS + size_min(limits->max_context, model->plan.model.vocab_size);
}

static size_t payload_capacity(const scheduler_options_t *limits)
{
    /* Sequences may share blocks, so their tables can name more than there are. */
    size_t tables = limits->max_batch * blocks_per_slot(limits);
    size_t steps = limits->max_batch * (sizeof(wire_entry_t) + sizeof(sampler_params_t) +
                                           SAMPLER_MAX_BIAS * sizeof(sampler_bias_t)) +
                   (tables + scheduler_max_rows(limits)) * sizeof(int32_t);
    return size_max(steps, FAIL_MESSAGE_BYTES);
}

static layout_t layout_of(const model_t *model, const scheduler_options_t *limits)
{
    layout_t layout = {0};
    const plan_t *plan = &model->plan;
    size_t batch = limits->max_batch, vocab = plan->model.vocab_size, all = 0;
    size_t draws = scheduler_max_draws(limits);
    size_t logit_bytes = model->mode == DTYPE_F64 ? sizeof(double) : sizeof(float);
    size_t mine =
        sizeof(rank_report_t) + draws * most_summary_bytes(plan_count(model_share(model)->vocab));
    bool coordinates = model->rank == 0;
    for (size_t r = 0; r < plan->n_ranks && coordinates; r++)
        all +=
            sizeof(rank_report_t) + draws * most_summary_bytes(plan_count(plan->shares[r].vocab));
    layout.payload = reserve(&layout, payload_capacity(limits), 1);
    layout.slots = reserve(&layout, batch, sizeof(slot_t));
    layout.blocks = reserve(&layout, batch * blocks_per_slot(limits), sizeof(int32_t));
    layout.seen = reserve(&layout, batch, vocab / 8 + 1);
    layout.adjusted =
        reserve(&layout, batch * most_adjusted(model, limits), sizeof(sampler_adjust_t));
    layout.sequences = reserve(&layout, batch, sizeof(forward_sequence_t));
    layout.logits_rows =
        reserve(&layout, scheduler_max_logits(limits), sizeof(forward_logits_row_t));
    layout.placed = reserve(&layout, batch, sizeof(placed_t));
    layout.samples = reserve(&layout, draws, sizeof(sample_t));
    layout.draft_seen = reserve(&layout, draws > batch ? batch : 0, vocab / 8 + 1);
    layout.draft_adjusted = reserve(&layout,
        draws > batch ? batch * most_adjusted(model, limits) : 0, sizeof(sampler_adjust_t));
    layout.choices = reserve(&layout, coordinates ? draws : 0, sizeof(sampler_choice_t));
    layout.counts = reserve(&layout, plan->n_ranks, sizeof(size_t));
    layout.starts = reserve(&layout, plan->n_ranks, sizeof(size_t));
    layout.n_rows = reserve(&layout, plan->n_ranks, sizeof(size_t));
    layout.summaries = reserve(&layout, plan->n_ranks, sizeof(void *));
    layout.mine = reserve(&layout, mine, 1);
    layout.all = reserve(&layout, all, 1);
    layout.row = reserve(&layout, coordinates ? vocab : 0, logit_bytes);
    layout.rank_times = reserve(&layout, coordinates ? plan->n_ranks : 0, sizeof(rank_times_t));
    layout.prompt_logits =
        reserve(&layout, coordinates ? limits->max_prompt_logits * vocab : 0, logit_bytes);
    return layout;
}

size_t step_bytes(const model_t *model, const scheduler_options_t *limits)
{
    return layout_of(model, limits).bytes;
}

static void place_buffers(step_t *s, const layout_t *layout)
{
    s->payload = s->memory + layout->payload;
    s->slots = (slot_t *)(s->memory + layout->slots);
    s->sequences = (forward_sequence_t *)(s->memory + layout->sequences);
    s->logits_rows = (forward_logits_row_t *)(s->memory + layout->logits_rows);
    s->placed = (placed_t *)(s->memory + layout->placed);
    s->samples = (sample_t *)(s->memory + layout->samples);
    s->choices = (sampler_choice_t *)(s->memory + layout->choices);
    s->counts = (size_t *)(s->memory + layout->counts);
    s->starts = (size_t *)(s->memory + layout->starts);
    s->n_rows = (size_t *)(s->memory + layout->n_rows);
    s->summaries = (const void **)(s->memory + layout->summaries);
    s->mine = s->memory + layout->mine;
    s->all = s->memory + layout->all;
    s->row = s->memory + layout->row;
    s->prompt_logits = s->memory + layout->prompt_logits;
    s->rank_times = (rank_times_t *)(s->memory + layout->rank_times);
    for (size_t i = 0; i < s->limits.max_batch; i++) {
        s->slots[i].blocks = (int32_t *)(s->memory + layout->blocks) + i * s->blocks_per_slot;
        s->slots[i].seen = (uint8_t *)(s->memory + layout->seen) + i * s->seen_bytes;
        s->slots[i].adjusted = (sampler_adjust_t *)(s->memory + layout->adjusted) +
                               i * most_adjusted(s->model, &s->limits);
        s->slots[i].seen_with_drafts =
            (uint8_t *)(s->memory + layout->draft_seen) + i * s->seen_bytes;
        s->slots[i].adjusted_with_drafts =
            (sampler_adjust_t *)(s->memory + layout->draft_adjusted) +
            i * most_adjusted(s->model, &s->limits);
    }
    for (size_t r = 0; r < s->n_ranks; r++)
        s->n_rows[r] = plan_count(s->model->plan.shares[r].vocab);
}

int step_open(step_t **out, comm_t *comm, team_t *team, forward_t *forward, const model_t *model,
    const scheduler_options_t *limits, fail_t *fail)
{
    *out = NULL;
    layout_t layout = layout_of(model, limits);
    step_t *s = calloc(1, sizeof *s);
    char *memory = memory_alloc(layout.bytes, "buffers of a step", fail);
    if (s == NULL)
        fail_set(fail, FAIL_MEMORY, "step: out of memory");
    if (comm_agree(comm, fail) != 0) {
        free(s);
        memory_free(memory, layout.bytes);
        return fail->status;
    }
    s->comm = comm;
    s->team = team;
    s->forward = forward;
    s->model = model;
    s->limits = *limits;
    s->is_f64 = model->mode == DTYPE_F64;
    s->logit_bytes = s->is_f64 ? sizeof(double) : sizeof(float);
    s->vocab_size = model->plan.model.vocab_size;
    s->n_ranks = model->plan.n_ranks;
    s->vocab = model_share(model)->vocab;
    s->blocks_per_slot = blocks_per_slot(limits);
    s->seen_bytes = s->vocab_size / 8 + 1;
    s->payload_capacity = payload_capacity(limits);
    s->memory = memory;
    s->memory_bytes = layout.bytes;
    place_buffers(s, &layout);
    *out = s;
    return 0;
}

void step_close(step_t *s)
{
    if (s == NULL)
        return;
    memory_free(s->memory, s->memory_bytes);
    free(s);
}

/* ---- Payload --------------------------------------------------------------------------------- */

/* data may be NULL where there are no bytes. */
static char *append(char *at, const void *data, size_t bytes)
{
    if (bytes > 0)
        memcpy(at, data, bytes);
    return at + bytes;
}

static wire_entry_t wire_entry(const scheduler_entry_t *entry)
{
    return (wire_entry_t){
        .slot = (uint32_t)entry->slot,
        .n_rows = (uint32_t)entry->n_rows,
        .first_position = (uint32_t)entry->first_position,
        .ref_q_len = (uint32_t)entry->ref_q_len,
        .n_drafts = (uint32_t)entry->n_drafts,
        .n_blocks = entry->admitted ? (uint32_t)entry->n_blocks : 0,
        .first_logits_row = (uint32_t)entry->first_logits_row,
        .n_logits_rows = (uint32_t)entry->n_logits_rows,
        .flags = (entry->admitted ? ENTRY_ADMITTED : 0) | (entry->samples ? ENTRY_SAMPLES : 0) |
                 (entry->prompt_logits ? ENTRY_PROMPT_LOGITS : 0) |
                 (entry->ref_q_len == 1 ? ENTRY_SINGLE_ROW : 0) |
                 (entry->decode ? ENTRY_DECODE : 0),
    };
}

step_header_t step_write(step_t *s, const scheduler_step_t *plan)
{
    wire_entry_t *entries = (wire_entry_t *)s->payload;
    char *at = s->payload + plan->n_entries * sizeof *entries;
    for (size_t i = 0; i < plan->n_entries; i++) {
        entries[i] = wire_entry(&plan->entries[i]);
        if (!plan->entries[i].admitted)
            continue;
        at = append(at, plan->entries[i].sampling, sizeof(sampler_params_t));
        at = append(
            at, plan->entries[i].bias, plan->entries[i].sampling->n_bias * sizeof(sampler_bias_t));
    }
    for (size_t i = 0; i < plan->n_entries; i++)
        if (plan->entries[i].admitted)
            at = append(at, plan->entries[i].blocks, plan->entries[i].n_blocks * sizeof(int32_t));
    for (size_t i = 0; i < plan->n_entries; i++)
        at = append(at, plan->entries[i].token_ids, plan->entries[i].n_rows * sizeof(int32_t));
    assert((size_t)(at - s->payload) <= s->payload_capacity);
    return (step_header_t){.kind = STEP_RUN,
        .drafts = s->drafts,
        .n_entries = (uint32_t)plan->n_entries,
        .n_rows = (uint32_t)plan->n_rows,
        .payload_bytes = (uint32_t)(at - s->payload)};
}

/* Updates the slots by the payload and lists the step's sequences. */
static void read_payload(step_t *s, const step_header_t *header)
{
    s->entries = (wire_entry_t *)s->payload;
    s->n_entries = header->n_entries;
    const char *at = s->payload + s->n_entries * sizeof *s->entries;
    for (size_t i = 0; i < s->n_entries; i++) {
        if (step_has_flag(s, i, ENTRY_ADMITTED))
            at = step_read_sampling(s, &s->slots[s->entries[i].slot], at);
    }
    for (size_t i = 0; i < s->n_entries; i++) {
        size_t bytes = s->entries[i].n_blocks * sizeof(int32_t);
        memcpy(s->slots[s->entries[i].slot].blocks, at, bytes);
        at += bytes;
    }
    const int32_t *token_ids = (const int32_t *)at;
    size_t row = 0;
    for (size_t i = 0; i < s->n_entries; i++) {
        const wire_entry_t *entry = &s->entries[i];
        slot_t *slot = &s->slots[entry->slot];
        s->sequences[i] = (forward_sequence_t){.first_row = row,
            .n_rows = entry->n_rows,
            .first_position = entry->first_position,
            .ref_q_len = entry->ref_q_len,
            .single_row = step_has_flag(s, i, ENTRY_SINGLE_ROW),
            .blocks = slot->blocks};
        step_take_tokens(slot, entry, token_ids + row);
        row += entry->n_rows;
    }
    s->batch = (forward_batch_t){.n_rows = row,
        .n_sequences = s->n_entries,
        .token_ids = token_ids,
        .sequences = s->sequences,
        .logits_rows = s->logits_rows};
}

static size_t add_logits_row(step_t *s, size_t row, bool single_row)
{
    s->logits_rows[s->batch.n_logits] = (forward_logits_row_t){row, single_row};
    return s->batch.n_logits++;
}

/* Adds entry i's draws: of its last row, and of those before it that drafts follow. */
static void place_samples(step_t *s, size_t i)
{
    const forward_sequence_t *sequence = &s->sequences[i];
    size_t n = step_n_samples(s, i), first = sequence->first_row + sequence->n_rows - n;
    s->placed[i].first_sample = s->n_samples;
    for (size_t k = 0; k < n; k++)
        s->samples[s->n_samples++] =
            (sample_t){.entry = i, .logits_row = add_logits_row(s, first + k, true), .n_drafts = k};
}

/* Rows that tokens are drawn from are alone in the call of generate(), which computes no other
 * logits. Prompt logits are those of a plain forward of the whole prompt; for a prompt of one
 * token, both are the same row. */
static void place_logits(step_t *s)
{
    s->n_samples = 0;
    for (size_t i = 0; i < s->n_entries; i++) {
        const forward_sequence_t *sequence = &s->sequences[i];
        bool wanted = sequence->single_row && step_has_flag(s, i, ENTRY_PROMPT_LOGITS);
        s->placed[i].prompt = s->batch.n_logits;
        place_samples(s, i);
        if (wanted && !step_has_flag(s, i, ENTRY_SAMPLES))
            add_logits_row(s, sequence->first_row + sequence->n_rows - 1, true);
    }
    for (size_t i = 0; i < s->n_entries; i++) {
        const forward_sequence_t *sequence = &s->sequences[i];
        if (sequence->single_row || !step_has_flag(s, i, ENTRY_PROMPT_LOGITS))
            continue;
        s->placed[i].prompt = s->batch.n_logits;
        for (size_t r = 0; r < s->entries[i].n_logits_rows; r++)
            add_logits_row(s, sequence->first_row + s->entries[i].first_logits_row + r, false);
    }
}

void step_read(step_t *s, const step_header_t *header)
{
    read_payload(s, header);
    place_logits(s);
}

/* ---- Gathering ------------------------------------------------------------------------------- */

/* Bytes that each rank sends in gather_summaries. */
static void count_summaries(step_t *s)
{
    for (size_t r = 0; r < s->n_ranks; r++) {
        s->counts[r] = sizeof(rank_report_t);
        for (size_t i = 0; i < s->n_samples; i++)
            s->counts[r] +=
                sampler_summary_bytes(step_params(s, s->samples[i].entry), s->n_rows[r]);
    }
}

static void summarise(step_t *s, const sample_t *sample)
{
    sampler_tokens_t tokens;
    bool matter = step_tokens(s, sample, s->vocab.begin, &tokens);
    sampler_summarise(&s->model->kernels, step_params(s, sample->entry),
        forward_logits(s->forward, sample->logits_row), s->is_f64, s->vocab.begin,
        plan_count(s->vocab), matter ? &tokens : NULL, s->mine + sample->summary);
}

/* Rows are assigned to threads in turn; those of an entry whose scores follow its tokens to one. */
static void summarise_thread(void *context, size_t thread)
{
    step_t *s = context;
    for (size_t i = 0; i < s->n_samples; i++) {
        size_t entry = s->samples[i].entry;
        size_t turn = step_follows_tokens(step_params(s, entry)) ? entry : i;
        if (turn % team_active(s->team) == thread)
            summarise(s, &s->samples[i]);
    }
}

static rank_times_t times_of(const step_t *s)
{
    forward_times_t f = forward_times(s->forward);
    return (rank_times_t){.compute_ns = f.matrix_ns + f.attention_ns + f.elementwise_ns +
                                        f.waiting_ns + s->times.sampling_ns,
        .exchange_ns = f.exchange_ns + s->times.exchange_ns,
        .waiting_ns = s->times.waiting_ns};
}

void step_gather_summaries(step_t *s, int64_t flags)
{
    rank_report_t report = {.flags = flags, .times = times_of(s)};
    if (nonfinite_logits(s->forward, s->model, s->batch.n_logits, s->team))
        report.flags |= RANK_NONFINITE;
    memcpy(s->mine, &report, sizeof report);
    size_t offset = sizeof report, n_local = plan_count(s->vocab);
    for (size_t i = 0; i < s->n_samples; i++) {
        s->samples[i].summary = offset;
        offset += sampler_summary_bytes(step_params(s, s->samples[i].entry), n_local);
    }
    if (n_local > 0 && s->n_samples == 1)
        summarise(s, &s->samples[0]);
    else if (n_local > 0 && s->n_samples > 0)
        team_run_active(s->team, summarise_thread, s);
    count_summaries(s);
    step_charge(s, &s->times.sampling_ns);
    comm_gatherv_root(s->comm, s->mine, s->counts, s->all);
}

void step_gather_row(step_t *s, size_t logits_row, char *all)
{
    for (size_t r = 0; r < s->n_ranks; r++)
        s->counts[r] = s->n_rows[r] * s->logit_bytes;
    comm_gatherv_root(s->comm, forward_logits(s->forward, logits_row), s->counts, all);
}

void step_gather_prompt_logits(step_t *s)
{
    char *at = s->prompt_logits;
    for (size_t i = 0; i < s->n_entries; i++) {
        if (!step_has_flag(s, i, ENTRY_PROMPT_LOGITS))
            continue;
        for (size_t r = 0; r < s->entries[i].n_logits_rows; r++) {
            step_gather_row(s, s->placed[i].prompt + r, at);
            at += s->vocab_size * s->logit_bytes;
        }
    }
}

int64_t step_find_starts(step_t *s)
{
    int64_t flags = 0;
    size_t offset = 0;
    count_summaries(s);
    for (size_t r = 0; r < s->n_ranks; r++) {
        rank_report_t report;
        memcpy(&report, s->all + offset, sizeof report);
        flags |= report.flags;
        s->rank_times[r] = report.times;
        s->starts[r] = offset + sizeof report;
        offset += s->counts[r];
    }
    return flags;
}

rank_times_t step_rank_times(const step_t *s, size_t rank)
{
    return s->rank_times[rank];
}

step_times_t step_times(const step_t *s)
{
    return s->times;
}
