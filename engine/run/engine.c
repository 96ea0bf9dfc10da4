#include "engine/run/engine.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "comm/fault.h"
#include "comm/watch/progress_record.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/size.h"
#include "engine/run/engine_internal.h"
#include "engine/run/nonfinite.h"
#include "engine/run/step_internal.h"

/* ---- Requests -------------------------------------------------------------------------------- */

static int check_bias(const engine_t *e, const request_t *request, fail_t *fail)
{
    size_t vocab_size = e->loaded.config.vocab_size;
    if (request->n_bias > SAMPLER_MAX_BIAS)
        return fail_set(fail, FAIL_USAGE, "logit_bias: expected at most %d tokens, found %zu",
            SAMPLER_MAX_BIAS, request->n_bias);
    for (size_t i = 0; i < request->n_bias; i++) {
        const sampler_bias_t *bias = &request->bias[i];
        if (bias->token < 0 || (size_t)bias->token >= vocab_size ||
            !(bias->bias >= -100 && bias->bias <= 100))
            return fail_set(fail, FAIL_USAGE,
                "logit_bias: expected -100 to 100 for ids from 0 to %zu, found %g for %d",
                vocab_size - 1, (double)bias->bias, bias->token);
    }
    return 0;
}

int engine_check(const engine_t *e, const request_t *request, fail_t *fail)
{
    size_t vocab_size = e->loaded.config.vocab_size;
    for (size_t i = 0; i < request->n_prompt; i++)
        if (request->prompt_ids[i] < 0 || (size_t)request->prompt_ids[i] >= vocab_size)
            return fail_set(fail, FAIL_USAGE,
                "prompt: token %zu: expected an id from 0 to %zu, found %d", i, vocab_size - 1,
                request->prompt_ids[i]);
    if (sampler_check(&request->sampling, fail) != 0 || check_bias(e, request, fail) != 0)
        return fail->status;
    return scheduler_check(e->scheduler, request, fail);
}

int engine_submit(engine_t *e, const request_t *request, uint64_t *handle, fail_t *fail)
{
    if (engine_check(e, request, fail) != 0)
        return fail->status;
    return scheduler_submit(e->scheduler, request, handle, fail);
}

void engine_cancel(engine_t *e, uint64_t request)
{
    scheduler_cancel(e->scheduler, request);
}

void engine_interrupt(engine_t *e, int signal)
{
    atomic_store(&e->interrupted, true);
    comm_record_signal(e->loaded.comm, signal);
}

void engine_note_signal(engine_t *e, int signal)
{
    atomic_store(&e->noted, true);
    comm_record_signal(e->loaded.comm, signal);
}

bool engine_was_noted(const engine_t *e)
{
    return atomic_load(&e->noted);
}

bool engine_was_interrupted(const engine_t *e)
{
    return atomic_load(&e->interrupted);
}

engine_totals_t engine_totals(const engine_t *e)
{
    return e->totals;
}

scheduler_figures_t engine_figures(const engine_t *e)
{
    return scheduler_figures(e->scheduler);
}

rank_times_t engine_rank_times(const engine_t *e, size_t rank)
{
    return step_rank_times(e->step, rank);
}

/* ---- A step on all ranks --------------------------------------------------------------------- */

/* The common part of all ranks, once the header is known. */
static void take_step(engine_t *e, step_t *s, const step_header_t *header)
{
    comm_bcast(s->comm, s->payload, header->payload_bytes);
    step_read(s, header);
    step_charge(s, &s->times.exchange_ns);
    comm_follow_load(s->comm);
    if (s->drafts)
        fault_at("draft");
    else if (s->n_samples > s->n_entries)
        fault_at("verify");
    forward_step(s->forward, &s->batch);
    comm_set_phase(s->comm, PROGRESS_SAMPLE, 0);
    s->mark_ns = clock_ns(); /* forward_times has the step itself */
    step_gather_summaries(s, (atomic_load(&e->interrupted) ? RANK_INTERRUPTED : 0) |
                                 (atomic_load(&e->noted) ? RANK_NOTED : 0));
    step_gather_prompt_logits(s);
    step_charge(s, &s->times.exchange_ns);
}

static int fail_nonfinite(step_t *s, fail_t *fail)
{
    step_header_t header = {.kind = STEP_NONFINITE};
    comm_bcast_idle(s->comm, &header, sizeof header);
    return nonfinite_locate(s->forward, s->model, s->comm, &s->batch, fail);
}

static void pick_from_all(
    step_t *s, const sample_t *sample, uint64_t position, sampler_choice_t *choice, fail_t *fail)
{
    const step_header_t logits = {
        .kind = STEP_LOGITS, .drafts = s->drafts, .logits_row = (uint32_t)sample->logits_row};
    step_header_t header = logits;
    comm_bcast_idle(s->comm, &header, sizeof header);
    step_gather_row(s, sample->logits_row, s->row);
    sampler_tokens_t tokens;
    bool matter = step_tokens(s, sample, 0, &tokens);
    sampler_pick_full(&s->model->kernels, step_params(s, sample->entry), s->row, s->is_f64,
        s->vocab_size, matter ? &tokens : NULL, position, choice, fail);
}

/* Draws from a row whose summaries stand at starts. */
static void pick(
    step_t *s, const sample_t *sample, uint64_t position, sampler_choice_t *choice, fail_t *fail)
{
    for (size_t r = 0; r < s->n_ranks; r++)
        s->summaries[r] = s->all + s->starts[r];
    if (!sampler_pick(
            step_params(s, sample->entry), s->summaries, s->n_rows, s->n_ranks, position, choice))
        pick_from_all(s, sample, position, choice, fail);
}

/* Draws of entry i: the first, and one more after each draft that equals what was drawn. Moves
 * starts on. */
static void take_draws(step_t *s, size_t i, step_result_t *result, fail_t *fail)
{
    const forward_sequence_t *sequence = &s->sequences[i];
    const sample_t *samples = &s->samples[s->placed[i].first_sample];
    size_t n = step_n_samples(s, i), first = sequence->n_rows - n;
    sampler_choice_t *choices = &s->choices[s->placed[i].first_sample];
    result->choices = choices;
    for (size_t k = 0; k < n; k++) {
        /* The token that this row computes is the draft for the draw before it. */
        const int32_t *token = &s->batch.token_ids[sequence->first_row + first + k];
        if (result->n_choices == k && (k == 0 || choices[k - 1].token == *token)) {
            pick(s, &samples[k], sequence->first_position + first + k + 1, &choices[k], fail);
            result->n_choices++;
        }
        for (size_t r = 0; r < s->n_ranks; r++)
            s->starts[r] += sampler_summary_bytes(step_params(s, i), s->n_rows[r]);
    }
}

int engine_draw(step_t *s, step_result_t *results, fail_t *fail)
{
    const char *logits = s->prompt_logits;
    for (size_t i = 0; i < s->n_entries; i++) {
        results[i] = (step_result_t){0};
        if (step_has_flag(s, i, ENTRY_PROMPT_LOGITS)) {
            results[i].logits = logits;
            logits += s->entries[i].n_logits_rows * s->vocab_size * s->logit_bytes;
        }
        take_draws(s, i, &results[i], fail);
    }
    return fail->status;
}

int64_t engine_run_rows(engine_t *e, step_t *s, const scheduler_step_t *plan)
{
    s->mark_ns = clock_ns();
    comm_record_step(s->comm);
    step_header_t header = step_write(s, plan);
    comm_bcast_idle(s->comm, &header, sizeof header);
    take_step(e, s, &header);
    return step_find_starts(s);
}

int engine_run(engine_t *e, const scheduler_step_t *plan, step_result_t *results, fail_t *fail)
{
    step_t *s = e->step;
    e->serving = true;
    if (atomic_load(&e->interrupted))
        return fail_set(fail, FAIL_INTERRUPTED, "interrupted");
    int64_t flags = engine_run_rows(e, s, plan);
    e->nonfinite_drafts = (flags & RANK_NONFINITE) != 0 && plan->n_draft_rows > 0;
    if ((flags & RANK_NOTED) != 0)
        atomic_store(&e->noted, true);
    if ((flags & RANK_INTERRUPTED) != 0)
        fail_set(fail, FAIL_INTERRUPTED, "interrupted");
    else if (e->nonfinite_drafts)
        flags = 0;
    else if ((flags & RANK_NONFINITE) != 0 && !e->loaded.options.allow_nonfinite)
        fail_nonfinite(s, fail);
    else
        engine_draw(s, results, fail);
    if ((flags & ~RANK_NOTED) == RANK_NONFINITE && fail->status == 0 && !e->warned) {
        e->warned = true;
        log_write(LOG_WARN, "logits are not finite; NaN counts as the least likely");
    }
    comm_set_phase(s->comm, PROGRESS_IDLE, 0);
    step_charge(s, &s->times.sampling_ns);
    return fail->status;
}

void engine_end(engine_t *e, const fail_t *fail)
{
    step_t *s = e->step;
    /* Once: the other ranks have returned afterwards. */
    if (!e->serving)
        return;
    e->serving = false;
    step_header_t header = {
        .kind = STEP_END, .status = fail->status, .payload_bytes = FAIL_MESSAGE_BYTES};
    memcpy(s->payload, fail->message, FAIL_MESSAGE_BYTES);
    comm_bcast_idle(s->comm, &header, sizeof header);
    comm_bcast(s->comm, s->payload, header.payload_bytes);
}

/* ---- The scheduler's steps ------------------------------------------------------------------- */

static engine_finish_t finish_of(scheduler_end_t end)
{
    switch (end) {
    case SCHEDULER_STOPPED:
        return ENGINE_STOP;
    case SCHEDULER_FULL:
        return ENGINE_LENGTH;
    default:
        return ENGINE_RUNNING;
    }
}

static void count_step(engine_t *e, const scheduler_step_t *step, uint64_t ns)
{
    engine_totals_t *totals = &e->totals;
    *(step->n_prompt_rows > 0 ? &totals->prefill_ns : &totals->decode_ns) += ns;
    totals->prompt_tokens += step->n_prompt_rows;
    totals->reused_tokens = scheduler_reused_tokens(e->scheduler);
    totals->kv_bytes = forward_kv_bytes(e->forward);
}

/* Learns what steps take, and limits the prompt rows of those to come. */
static void set_pace(engine_t *e, const scheduler_step_t *step, uint64_t ns)
{
    double ratio = e->loaded.options.max_step_ratio;
    if (ratio <= 1)
        return;
    pace_learn(&e->pace, step, (double)ns);
    scheduler_limit_t limit = pace_limit(&e->pace, ratio);
    scheduler_limit(e->scheduler, &limit);
}

/* Counts what drafts gave an entry that goes on with n_taken of its draws. */
static void count_drafts(engine_t *e, const scheduler_entry_t *entry, size_t n_taken)
{
    e->totals.passes += entry->decode;
    e->totals.pass_tokens += entry->decode ? n_taken : 0;
    e->totals.drafted_tokens += entry->n_drafts;
    e->totals.accepted_tokens += entry->n_drafts > 0 ? n_taken - 1 : 0;
}

/* Events of an entry's draws, one after another until the request ends; *n_events of them. */
static void take_draws_of(engine_t *e, const scheduler_entry_t *entry, engine_event_t event,
    const step_result_t *result, size_t *n_events)
{
    size_t n_taken = 0;
    scheduler_learn(e->scheduler, entry, result->n_choices - entry->samples);
    do {
        event.has_token = entry->samples;
        event.begins_pass = n_taken == 0;
        event.n_drafted = n_taken == 0 ? entry->n_drafts : 0;
        if (entry->samples)
            event.choice = result->choices[n_taken];
        scheduler_end_t end = scheduler_advance(e->scheduler, entry, event.choice.token);
        event.finish = finish_of(end);
        n_taken += entry->samples;
        if (event.has_token || event.n_logits > 0 || event.finish != ENGINE_RUNNING)
            e->events[(*n_events)++] = event;
        event.n_logits = 0;
    } while (event.finish == ENGINE_RUNNING && n_taken < result->n_choices);
    e->totals.generated_tokens += n_taken;
    count_drafts(e, entry, n_taken);
}

/* Turns results of a step that took so long, after drafting did, into events and moves the requests on. */
static size_t finish_step(engine_t *e, const scheduler_step_t *step, uint64_t draft_ns, uint64_t ns)
{
    size_t n_events = 0, before = e->totals.generated_tokens;
    for (size_t i = 0; i < step->n_entries; i++) {
        /* An entry is gone when it ends. */
        const scheduler_entry_t entry = step->entries[i];
        engine_event_t event = {.request = entry.handle};
        if (entry.prompt_logits) {
            event.logits = e->results[i].logits;
            event.n_logits = entry.n_logits_rows;
            event.first_logits_position = entry.first_position + entry.first_logits_row;
        }
        take_draws_of(e, &entry, event, &e->results[i], &n_events);
    }
    size_t n_tokens = e->totals.generated_tokens - before;
    e->totals.decode_tokens += step->n_prompt_rows == 0 ? n_tokens : 0;
    e->totals.saved_ns += scheduler_time(e->scheduler, step, n_tokens, draft_ns, ns);
    return n_events;
}

/* A draft that is wrong may be such that its row is not finite. Without drafts, the step has only
 * rows of the text. */
static int run_planned(engine_t *e, scheduler_step_t *step, fail_t *fail)
{
    e->nonfinite_drafts = false;
    if (engine_run(e, step, e->results, fail) != 0 || !e->nonfinite_drafts)
        return fail->status;
    scheduler_drop_drafts(e->scheduler, step);
    return engine_run(e, step, e->results, fail);
}

int engine_step(engine_t *e, const engine_event_t **events, size_t *n_events, fail_t *fail)
{
    *events = e->events;
    *n_events = 0;
    scheduler_step_t step = scheduler_plan(e->scheduler);
    if (step.n_entries == 0)
        return 0;
    assert(e->serving);
    uint64_t begin = clock_ns(), drafted = begin;
    if (e->draft != NULL && engine_draft(e, &step, fail) == 0)
        drafted = clock_ns();
    if (fail->status != 0 || run_planned(e, &step, fail) != 0) {
        engine_end(e, fail);
        return fail->status;
    }
    uint64_t end = clock_ns();
    count_step(e, &step, end - begin);
    set_pace(e, &step, end - begin);
    *n_events = finish_step(e, &step, drafted - begin, end - drafted);
    return scheduler_pending(e->scheduler) > 0 ? 1 : 0;
}

/* ---- The others ------------------------------------------------------------------------------ */

int engine_serve(engine_t *e, fail_t *fail)
{
    step_t *s = e->step;
    e->serving = false;
    fault_at("serve");
    s->mark_ns = clock_ns();
    for (;;) {
        step_header_t header;
        comm_bcast_idle(s->comm, &header, sizeof header);
        step_charge(s, &s->times.waiting_ns);
        step_t *of = header.drafts ? e->draft->step : s;
        if (header.kind == STEP_RUN) {
            comm_record_step(s->comm);
            of->mark_ns = s->mark_ns;
            take_step(e, of, &header);
            s->mark_ns = of->mark_ns;
            comm_set_phase(s->comm, PROGRESS_IDLE, 0);
        } else if (header.kind == STEP_LOGITS) {
            step_gather_row(of, header.logits_row, NULL);
            step_charge(s, &s->times.exchange_ns);
        } else if (header.kind == STEP_NONFINITE) {
            fail_t told_by_coordinator = {0};
            nonfinite_locate(s->forward, s->model, s->comm, &s->batch, &told_by_coordinator);
        } else {
            comm_bcast(s->comm, s->payload, header.payload_bytes);
            s->payload[FAIL_MESSAGE_BYTES - 1] = 0;
            return header.status == 0 ? 0 : fail_set(fail, header.status, "%s", s->payload);
        }
    }
}
