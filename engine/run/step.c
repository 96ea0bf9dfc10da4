#include "engine/run/step.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "comm/watch/progress_record.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/nonfinite.h"

enum { MESSAGE_STEP, MESSAGE_LOGITS, MESSAGE_NONFINITE, MESSAGE_END };

/* What a rank sends of a step besides its summaries. */
enum { SAYS_INTERRUPTED = 1, SAYS_NONFINITE = 2 };

/* The head of every message. Ranks run the same program on machines of one kind, so structs are
 * sent as they are. */
typedef struct header {
    uint32_t kind;
    int32_t status;             /* END */
    uint32_t n_entries, n_rows; /* STEP */
    uint32_t logits_row;        /* LOGITS */
    uint32_t payload_bytes;     /* STEP and END */
} header_t;

enum { ENTRY_ADMITTED = 1, ENTRY_SAMPLES = 2, ENTRY_PROMPT_LOGITS = 4, ENTRY_LONE = 8 };

typedef struct wire_entry {
    uint32_t slot, n_rows, first_position, ref_q_len;
    uint32_t n_blocks;         /* in the payload: only when admitted */
    uint32_t first_logits_row; /* of its rows: from here on with prompt logits */
    uint32_t flags;
} wire_entry_t;

typedef struct slot {
    sampler_params_t params;
    int32_t *blocks; /* [blocks of max_context] */
    uint8_t *seen;   /* a bit for each token of the vocabulary */
} slot_t;

/* An entry's row of logits in the step, and the offset of its summary in what this rank sends. */
typedef struct placed {
    size_t sample, prompt;
    size_t summary;
} placed_t;

/* All arrays, in one allocation. */
typedef struct layout {
    size_t payload, slots, blocks, seen, sequences, logits_rows, placed, counts, starts, n_rows,
        summaries;
    size_t mine, all, row, prompt_logits;
    size_t bytes;
} layout_t;

struct step {
    comm_t *comm;
    team_t *team;
    forward_t *forward;
    const model_t *model;
    scheduler_options_t limits;
    const atomic_bool *interrupt;
    bool is_f64;
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
    forward_batch_t batch;
    size_t *counts;         /* [n_ranks] bytes to gather */
    size_t *starts;         /* [n_ranks] where a rank's next summary begins in `all` */
    size_t *n_rows;         /* [n_ranks] rows of the vocabulary */
    const void **summaries; /* [n_ranks] */
    char *mine, *all;       /* gathered: an int64_t of the rank's flags, then summaries */
    char *row;              /* on the coordinator: [vocab_size] logits */
    char *prompt_logits;    /* on the coordinator: [max_prompt_logits, vocab_size] */
    bool allow_nonfinite, warned;
    uint64_t mark_ns;
    step_times_t times;
};

/* Charges the time since the last mark. */
static void book(step_t *s, uint64_t *kind)
{
    uint64_t now = clock_ns();
    *kind += now - s->mark_ns;
    s->mark_ns = now;
}

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

static size_t payload_capacity(const scheduler_options_t *limits)
{
    /* Sequences may share blocks, so their tables can name more than there are. */
    size_t tables = limits->max_batch * blocks_per_slot(limits);
    size_t steps = limits->max_batch * (sizeof(wire_entry_t) + sizeof(sampler_params_t)) +
                   (tables + scheduler_max_rows(limits)) * sizeof(int32_t);
    return size_max(steps, FAIL_MESSAGE_BYTES);
}

static layout_t layout_of(const model_t *model, const scheduler_options_t *limits)
{
    layout_t layout = {0};
    const plan_t *plan = &model->plan;
    size_t batch = limits->max_batch, vocab = plan->model.vocab_size, all = 0;
    size_t logit_bytes = model->mode == DTYPE_F64 ? sizeof(double) : sizeof(float);
    size_t mine =
        sizeof(int64_t) + batch * most_summary_bytes(plan_count(model_share(model)->vocab));
    bool coordinates = model->rank == 0;
    for (size_t r = 0; r < plan->n_ranks && coordinates; r++)
        all += sizeof(int64_t) + batch * most_summary_bytes(plan_count(plan->shares[r].vocab));
    layout.payload = reserve(&layout, payload_capacity(limits), 1);
    layout.slots = reserve(&layout, batch, sizeof(slot_t));
    layout.blocks = reserve(&layout, batch * blocks_per_slot(limits), sizeof(int32_t));
    layout.seen = reserve(&layout, batch, vocab / 8 + 1);
    layout.sequences = reserve(&layout, batch, sizeof(forward_sequence_t));
    layout.logits_rows =
        reserve(&layout, scheduler_max_logits(limits), sizeof(forward_logits_row_t));
    layout.placed = reserve(&layout, batch, sizeof(placed_t));
    layout.counts = reserve(&layout, plan->n_ranks, sizeof(size_t));
    layout.starts = reserve(&layout, plan->n_ranks, sizeof(size_t));
    layout.n_rows = reserve(&layout, plan->n_ranks, sizeof(size_t));
    layout.summaries = reserve(&layout, plan->n_ranks, sizeof(void *));
    layout.mine = reserve(&layout, mine, 1);
    layout.all = reserve(&layout, all, 1);
    layout.row = reserve(&layout, coordinates ? vocab : 0, logit_bytes);
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
    s->counts = (size_t *)(s->memory + layout->counts);
    s->starts = (size_t *)(s->memory + layout->starts);
    s->n_rows = (size_t *)(s->memory + layout->n_rows);
    s->summaries = (const void **)(s->memory + layout->summaries);
    s->mine = s->memory + layout->mine;
    s->all = s->memory + layout->all;
    s->row = s->memory + layout->row;
    s->prompt_logits = s->memory + layout->prompt_logits;
    for (size_t i = 0; i < s->limits.max_batch; i++) {
        s->slots[i].blocks = (int32_t *)(s->memory + layout->blocks) + i * s->blocks_per_slot;
        s->slots[i].seen = (uint8_t *)(s->memory + layout->seen) + i * s->seen_bytes;
    }
    for (size_t r = 0; r < s->n_ranks; r++)
        s->n_rows[r] = plan_count(s->model->plan.shares[r].vocab);
}

int step_open(step_t **out, comm_t *comm, team_t *team, forward_t *forward, const model_t *model,
    const scheduler_options_t *limits, const atomic_bool *interrupt, fail_t *fail)
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
    s->interrupt = interrupt;
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

void step_allow_nonfinite(step_t *s)
{
    s->allow_nonfinite = true;
}

void step_close(step_t *s)
{
    if (s == NULL)
        return;
    memory_free(s->memory, s->memory_bytes);
    free(s);
}

/* ---- Payload --------------------------------------------------------------------------------- */

static char *append(char *at, const void *data, size_t bytes)
{
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
        .n_blocks = entry->admitted ? (uint32_t)entry->n_blocks : 0,
        .first_logits_row = (uint32_t)entry->first_logits_row,
        .flags = (entry->admitted ? ENTRY_ADMITTED : 0) | (entry->samples ? ENTRY_SAMPLES : 0) |
                 (entry->prompt_logits ? ENTRY_PROMPT_LOGITS : 0) |
                 (entry->ref_q_len == 1 ? ENTRY_LONE : 0),
    };
}

static header_t write_payload(step_t *s, const scheduler_step_t *plan)
{
    wire_entry_t *entries = (wire_entry_t *)s->payload;
    char *at = s->payload + plan->n_entries * sizeof *entries;
    for (size_t i = 0; i < plan->n_entries; i++) {
        entries[i] = wire_entry(&plan->entries[i]);
        if (plan->entries[i].admitted)
            at = append(at, plan->entries[i].sampling, sizeof(sampler_params_t));
    }
    for (size_t i = 0; i < plan->n_entries; i++)
        if (plan->entries[i].admitted)
            at = append(at, plan->entries[i].blocks, plan->entries[i].n_blocks * sizeof(int32_t));
    for (size_t i = 0; i < plan->n_entries; i++)
        at = append(at, plan->entries[i].token_ids, plan->entries[i].n_rows * sizeof(int32_t));
    assert((size_t)(at - s->payload) <= s->payload_capacity);
    return (header_t){.kind = MESSAGE_STEP,
        .n_entries = (uint32_t)plan->n_entries,
        .n_rows = (uint32_t)plan->n_rows,
        .payload_bytes = (uint32_t)(at - s->payload)};
}

static const sampler_params_t *params_of(const step_t *s, size_t i)
{
    return &s->slots[s->entries[i].slot].params;
}

static bool has_flag(const step_t *s, size_t i, uint32_t flag)
{
    return (s->entries[i].flags & flag) != 0;
}

static void see_tokens(slot_t *slot, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        slot->seen[ids[i] / 8] |= (uint8_t)(1u << (ids[i] % 8));
}

/* Updates the slots by the payload and lists the step's sequences. */
static void read_payload(step_t *s, const header_t *header)
{
    s->entries = (wire_entry_t *)s->payload;
    s->n_entries = header->n_entries;
    const char *at = s->payload + s->n_entries * sizeof *s->entries;
    for (size_t i = 0; i < s->n_entries; i++) {
        slot_t *slot = &s->slots[s->entries[i].slot];
        if (!has_flag(s, i, ENTRY_ADMITTED))
            continue;
        memcpy(&slot->params, at, sizeof slot->params);
        memset(slot->seen, 0, s->seen_bytes);
        at += sizeof slot->params;
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
            .single_row = has_flag(s, i, ENTRY_LONE),
            .blocks = slot->blocks};
        if (sampler_needs_seen(&slot->params))
            see_tokens(slot, token_ids + row, entry->n_rows);
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

/* Rows that tokens are drawn from are alone in the call of generate(), which computes no other
 * logits. Prompt logits are those of a plain forward of the whole prompt; for a prompt of one
 * token, both are the same row. */
static void place_logits(step_t *s)
{
    for (size_t i = 0; i < s->n_entries; i++) {
        const forward_sequence_t *sequence = &s->sequences[i];
        bool wanted = sequence->single_row && has_flag(s, i, ENTRY_PROMPT_LOGITS);
        if (has_flag(s, i, ENTRY_SAMPLES) || wanted)
            s->placed[i].sample = s->placed[i].prompt =
                add_logits_row(s, sequence->first_row + sequence->n_rows - 1, true);
    }
    for (size_t i = 0; i < s->n_entries; i++) {
        const forward_sequence_t *sequence = &s->sequences[i];
        if (sequence->single_row || !has_flag(s, i, ENTRY_PROMPT_LOGITS))
            continue;
        s->placed[i].prompt = s->batch.n_logits;
        for (size_t r = s->entries[i].first_logits_row; r < sequence->n_rows; r++)
            add_logits_row(s, sequence->first_row + r, false);
    }
}

/* ---- Gathering ------------------------------------------------------------------------------- */

static const uint8_t *seen_of(const step_t *s, size_t i)
{
    const slot_t *slot = &s->slots[s->entries[i].slot];
    return sampler_needs_seen(&slot->params) ? slot->seen : NULL;
}

/* Bytes that each rank sends in gather_summaries. */
static void count_summaries(step_t *s)
{
    for (size_t r = 0; r < s->n_ranks; r++) {
        s->counts[r] = sizeof(int64_t);
        for (size_t i = 0; i < s->n_entries; i++)
            if (has_flag(s, i, ENTRY_SAMPLES))
                s->counts[r] += sampler_summary_bytes(params_of(s, i), s->n_rows[r]);
    }
}

static void summarise(step_t *s, size_t i)
{
    const uint8_t *seen = seen_of(s, i);
    sampler_summarise(&s->model->kernels, params_of(s, i),
        forward_logits(s->forward, s->placed[i].sample), s->is_f64, s->vocab.begin,
        plan_count(s->vocab), seen != NULL ? seen + s->vocab.begin / 8 : NULL,
        s->mine + s->placed[i].summary);
}

/* Sequences are assigned to threads in turn. */
static void summarise_thread(void *context, size_t thread)
{
    step_t *s = context;
    for (size_t i = thread; i < s->n_entries; i += team_active(s->team))
        if (has_flag(s, i, ENTRY_SAMPLES))
            summarise(s, i);
}

/* Flags of all ranks, and summaries of all sampled rows, to the coordinator. */
static void gather_summaries(step_t *s)
{
    int64_t says = atomic_load(s->interrupt) ? SAYS_INTERRUPTED : 0;
    if (nonfinite_logits(s->forward, s->model, s->batch.n_logits, s->team))
        says |= SAYS_NONFINITE;
    memcpy(s->mine, &says, sizeof says);
    size_t offset = sizeof says, n_local = plan_count(s->vocab);
    for (size_t i = 0; i < s->n_entries; i++) {
        s->placed[i].summary = offset;
        if (has_flag(s, i, ENTRY_SAMPLES))
            offset += sampler_summary_bytes(params_of(s, i), n_local);
    }
    if (n_local > 0 && s->n_entries == 1)
        summarise_thread(s, 0);
    else if (n_local > 0)
        team_run_active(s->team, summarise_thread, s);
    count_summaries(s);
    book(s, &s->times.sampling_ns);
    comm_gatherv_root(s->comm, s->mine, s->counts, s->all);
}

/* One row of logits, whole, to the coordinator. */
static void gather_row(step_t *s, size_t logits_row, char *all)
{
    for (size_t r = 0; r < s->n_ranks; r++)
        s->counts[r] = s->n_rows[r] * s->logit_bytes;
    comm_gatherv_root(s->comm, forward_logits(s->forward, logits_row), s->counts, all);
}

static void gather_prompt_logits(step_t *s)
{
    char *at = s->prompt_logits;
    for (size_t i = 0; i < s->n_entries; i++) {
        if (!has_flag(s, i, ENTRY_PROMPT_LOGITS))
            continue;
        size_t n_logits = s->sequences[i].n_rows - s->entries[i].first_logits_row;
        for (size_t r = 0; r < n_logits; r++) {
            gather_row(s, s->placed[i].prompt + r, at);
            at += s->vocab_size * s->logit_bytes;
        }
    }
}

/* The common part of all ranks, once the header is known. */
static void take_step(step_t *s, const header_t *header)
{
    comm_bcast(s->comm, s->payload, header->payload_bytes);
    read_payload(s, header);
    place_logits(s);
    book(s, &s->times.exchange_ns);
    comm_follow_load(s->comm);
    forward_step(s->forward, &s->batch);
    comm_set_phase(s->comm, PROGRESS_SAMPLE, 0);
    s->mark_ns = clock_ns(); /* forward_times has the step itself */
    gather_summaries(s);
    gather_prompt_logits(s);
    book(s, &s->times.exchange_ns);
}

/* ---- Coordinator ----------------------------------------------------------------------------- */

/* Finds each rank's part of what was gathered: starts[r] becomes the offset of its first summary.
 * What any rank says. */
static int64_t find_starts(step_t *s)
{
    int64_t says = 0;
    size_t offset = 0;
    count_summaries(s);
    for (size_t r = 0; r < s->n_ranks; r++) {
        int64_t rank_says;
        memcpy(&rank_says, s->all + offset, sizeof rank_says);
        says |= rank_says;
        s->starts[r] = offset + sizeof rank_says;
        offset += s->counts[r];
    }
    return says;
}

static int fail_nonfinite(step_t *s, fail_t *fail)
{
    header_t header = {.kind = MESSAGE_NONFINITE};
    comm_bcast_idle(s->comm, &header, sizeof header);
    return nonfinite_locate(s->forward, s->model, s->comm, &s->batch, fail);
}

static void pick_from_all(
    step_t *s, size_t i, uint64_t position, step_result_t *result, fail_t *fail)
{
    header_t header = {.kind = MESSAGE_LOGITS, .logits_row = (uint32_t)s->placed[i].sample};
    comm_bcast_idle(s->comm, &header, sizeof header);
    gather_row(s, s->placed[i].sample, s->row);
    sampler_pick_full(&s->model->kernels, params_of(s, i), s->row, s->is_f64, s->vocab_size,
        seen_of(s, i), position, &result->choice, fail);
}

/* Draws for entry i, whose summaries stand at starts, and moves those on. */
static void pick(step_t *s, size_t i, step_result_t *result, fail_t *fail)
{
    const sampler_params_t *params = params_of(s, i);
    uint64_t position = s->entries[i].first_position + s->entries[i].n_rows;
    for (size_t r = 0; r < s->n_ranks; r++) {
        s->summaries[r] = s->all + s->starts[r];
        s->starts[r] += sampler_summary_bytes(params, s->n_rows[r]);
    }
    if (!sampler_pick(params, s->summaries, s->n_rows, s->n_ranks, position, &result->choice))
        pick_from_all(s, i, position, result, fail);
}

/* The results of the step for each entry. */
static void take_results(step_t *s, step_result_t *results, fail_t *fail)
{
    const char *logits = s->prompt_logits;
    for (size_t i = 0; i < s->n_entries; i++) {
        results[i] = (step_result_t){0};
        if (has_flag(s, i, ENTRY_PROMPT_LOGITS)) {
            results[i].logits = logits;
            size_t n_logits = s->entries[i].n_rows - s->entries[i].first_logits_row;
            logits += n_logits * s->vocab_size * s->logit_bytes;
        }
        if (has_flag(s, i, ENTRY_SAMPLES))
            pick(s, i, &results[i], fail);
    }
}

int step_run(step_t *s, const scheduler_step_t *plan, step_result_t *results, fail_t *fail)
{
    if (atomic_load(s->interrupt))
        return fail_set(fail, FAIL_INTERRUPTED, "interrupted");
    s->mark_ns = clock_ns();
    comm_record_step(s->comm);
    header_t header = write_payload(s, plan);
    comm_bcast_idle(s->comm, &header, sizeof header);
    take_step(s, &header);
    int64_t says = find_starts(s);
    if ((says & SAYS_INTERRUPTED) != 0)
        fail_set(fail, FAIL_INTERRUPTED, "interrupted");
    else if ((says & SAYS_NONFINITE) != 0 && !s->allow_nonfinite)
        fail_nonfinite(s, fail);
    else
        take_results(s, results, fail);
    if (says == SAYS_NONFINITE && fail->status == 0 && !s->warned) {
        s->warned = true;
        log_write(LOG_WARN, "logits are not finite; NaN counts as the least likely");
    }
    comm_set_phase(s->comm, PROGRESS_IDLE, 0);
    book(s, &s->times.sampling_ns);
    return fail->status;
}

void step_end(step_t *s, const fail_t *fail)
{
    header_t header = {
        .kind = MESSAGE_END, .status = fail->status, .payload_bytes = FAIL_MESSAGE_BYTES};
    memcpy(s->payload, fail->message, FAIL_MESSAGE_BYTES);
    comm_bcast_idle(s->comm, &header, sizeof header);
    comm_bcast(s->comm, s->payload, header.payload_bytes);
}

/* ---- The others ------------------------------------------------------------------------------ */

int step_follow(step_t *s, fail_t *fail)
{
    s->mark_ns = clock_ns();
    for (;;) {
        header_t header;
        comm_bcast_idle(s->comm, &header, sizeof header);
        book(s, &s->times.waiting_ns);
        if (header.kind == MESSAGE_STEP) {
            comm_record_step(s->comm);
            take_step(s, &header);
            comm_set_phase(s->comm, PROGRESS_IDLE, 0);
        } else if (header.kind == MESSAGE_LOGITS) {
            gather_row(s, header.logits_row, NULL);
            book(s, &s->times.exchange_ns);
        } else if (header.kind == MESSAGE_NONFINITE) {
            fail_t told_by_coordinator = {0};
            nonfinite_locate(s->forward, s->model, s->comm, &s->batch, &told_by_coordinator);
        } else {
            comm_bcast(s->comm, s->payload, header.payload_bytes);
            s->payload[FAIL_MESSAGE_BYTES - 1] = 0;
            return header.status == 0 ? 0 : fail_set(fail, header.status, "%s", s->payload);
        }
    }
}

step_times_t step_times(const step_t *s)
{
    return s->times;
}
