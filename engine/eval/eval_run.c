#include "engine/eval/eval_run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/clock.h"
#include "engine/base/printable.h"
#include "engine/base/progress.h"
#include "engine/base/size.h"
#include "engine/eval/eval_record.h"
#include "engine/eval/eval_results.h"
#include "engine/eval/eval_settings.h"
#include "engine/eval/eval_tally.h"

/* The results of an item's jobs until all are there. */
typedef struct pending {
    fleet_result_t *results; /* [n_jobs] */
    char **kept;             /* [n_jobs] what they point into */
    size_t n_done;
} pending_t;

/* Which job of which item a handle of the fleet is. */
typedef struct ticket {
    size_t item, job;
} ticket_t;

typedef struct run {
    fleet_t *fleet;
    const tokenizer_t *tokenizer;
    const eval_options_t *options;
    const eval_task_t *task;
    eval_results_t results;
    eval_lines_t kept; /* the lines of the runs before */
    eval_tally_t tally;
    json_t *settings;
    pending_t *pending; /* [n_items] */
    bool *done;         /* [n_items] */
    ticket_t *tickets;  /* by handle */
    size_t n_tickets;
    size_t n_kept, n_new;
    double cost_left, cost_done; /* tokens of items: what progress is measured in */
    size_t tokens_done;
    uint64_t begin_ns;
    progress_t progress;
} run_t;

/* ---- What is there --------------------------------------------------------------------------- */

/* A line of an earlier run must be of this run's items. */
static int check_line(const run_t *run, json_t *line, size_t number, fail_t *fail)
{
    json_int_t index = json_integer_value(json_object_get(line, "index"));
    const char *path = run->results.path;
    if (index < 0 || (size_t)index >= run->task->n_items)
        return fail_set(fail, FAIL_USAGE,
            "%s: line %zu: results of another run: item %lld of %zu; --out names another folder",
            path, number, (long long)index, run->task->n_items);
    const eval_item_t *item = &run->task->items[index];
    const char *id = json_string_value(json_object_get(line, "id"));
    json_t *expected = eval_hex(item->digest);
    if (id == NULL || strcmp(id, item->id) != 0)
        fail_set(fail, FAIL_USAGE,
            "%s: line %zu: results of another run: id is %.80s there and %.80s here; --out names another folder",
            path, number, id == NULL ? "none" : id, item->id);
    else if (!json_equal(expected, json_object_get(line, "prompt_digest")))
        fail_set(fail, FAIL_USAGE,
            "%s: line %zu: results of another run: prompt_digest of item %.80s differs; --out names another folder",
            path, number, item->id);
    else if (run->done[index])
        fail_set(
            fail, FAIL_FORMAT, "%s: line %zu: item %.80s is there twice", path, number, item->id);
    json_decref(expected);
    return fail->status;
}

static int take_kept(run_t *run, fail_t *fail)
{
    for (size_t i = 0; i < run->kept.count && fail->status == 0; i++) {
        json_t *line = run->kept.lines[i];
        if (check_line(run, line, i + 1, fail) != 0)
            break;
        run->done[json_integer_value(json_object_get(line, "index"))] = true;
        eval_tally_add(&run->tally, line);
        run->n_kept++;
    }
    eval_lines_clear(&run->kept);
    return fail->status;
}

static int open_run(run_t *run, fail_t *fail)
{
    size_t n = run->task->n_items, n_jobs = 0;
    for (size_t i = 0; i < n; i++)
        n_jobs += run->task->items[i].n_jobs;
    run->pending = calloc(n, sizeof *run->pending);
    run->done = calloc(n, sizeof *run->done);
    run->tickets = calloc(n_jobs, sizeof *run->tickets);
    if (run->pending == NULL || run->done == NULL || run->tickets == NULL)
        return fail_set(fail, FAIL_MEMORY, "evaluation: out of memory for %zu items", n);
    run->settings =
        eval_settings(run->fleet, run->task, run->options->version, run->options->directory, fail);
    if (run->settings == NULL || eval_tally_open(&run->tally, run->task, fail) != 0 ||
        eval_results_open(&run->results, run->options->folder, run->settings, &run->kept, fail) !=
            0)
        return fail->status;
    return take_kept(run, fail);
}

static void pending_clear(pending_t *pending, size_t n_jobs)
{
    for (size_t j = 0; pending->kept != NULL && j < n_jobs; j++)
        free(pending->kept[j]);
    free(pending->kept);
    free(pending->results);
    *pending = (pending_t){0};
}

static void close_run(run_t *run)
{
    for (size_t i = 0; run->pending != NULL && i < run->task->n_items; i++)
        pending_clear(&run->pending[i], run->task->items[i].n_jobs);
    free(run->pending);
    free(run->done);
    free(run->tickets);
    eval_lines_clear(&run->kept);
    eval_tally_close(&run->tally);
    eval_results_close(&run->results);
    json_decref(run->settings);
}

/* ---- Handing out ----------------------------------------------------------------------------- */

static size_t cost_of(const eval_task_t *task, const eval_item_t *item)
{
    size_t cost = task->kind == EVAL_GENERATE ? task->max_tokens / 4 : 0;
    for (size_t j = 0; j < item->n_jobs; j++)
        cost += item->jobs[j].ids.count;
    return cost;
}

typedef struct turn {
    size_t cost, item;
} turn_t;

/* Long ones first, so that no replica has a long one at the end. */
static int compare_turns(const void *a, const void *b)
{
    const turn_t *x = a, *y = b;
    if (x->cost != y->cost)
        return x->cost > y->cost ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

static int submit_item(
    run_t *run, size_t index, const int32_t *stop_ids, size_t n_stop_ids, fail_t *fail)
{
    const eval_task_t *task = run->task;
    const eval_item_t *item = &task->items[index];
    for (size_t j = 0; j < item->n_jobs && fail->status == 0; j++) {
        uint64_t handle;
        const request_t job = {.prompt_ids = item->jobs[j].ids.ids,
            .n_prompt = item->jobs[j].ids.count,
            .n_scored = item->jobs[j].n_scored,
            .max_tokens = task->max_tokens,
            .stop_ids = stop_ids,
            .n_stop_ids = n_stop_ids,
            .stops = task->stops,
            .n_stops = task->n_stops,
            .sampling = {.top_p = 1,
                .repetition_penalty = 1,
                .want_logprob = 1,
                .want_digest = 1,
                .request = index}};
        if (fleet_submit(run->fleet, &job, &handle, fail) == 0)
            run->tickets[run->n_tickets++] = (ticket_t){index, j};
    }
    return fail->status;
}

static int submit_all(run_t *run, fail_t *fail)
{
    int32_t stop_ids[CONFIG_MAX_STOP_IDS + 1];
    int32_t chat_end = chat_end_id(run->task->template, run->tokenizer);
    size_t n_stop_ids = engine_stop_ids(fleet_engine(run->fleet), chat_end, stop_ids), n = 0;
    turn_t *turns = calloc(run->task->n_items, sizeof *turns);
    if (turns == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "evaluation: out of memory for %zu items", run->task->n_items);
    for (size_t i = 0; i < run->task->n_items; i++)
        if (!run->done[i])
            turns[n++] = (turn_t){cost_of(run->task, &run->task->items[i]), i};
    if (n > 0)
        qsort(turns, n, sizeof *turns, compare_turns);
    for (size_t i = 0; i < n && fail->status == 0; i++) {
        run->cost_left += (double)turns[i].cost;
        submit_item(run, turns[i].item, stop_ids, n_stop_ids, fail);
    }
    free(turns);
    return fail->status;
}

/* ---- Taking in ------------------------------------------------------------------------------- */

/* Keeps a result, which lasts for one step otherwise. */
static int keep_result(run_t *run, pending_t *pending, size_t n_jobs, size_t job,
    const fleet_result_t *result, fail_t *fail)
{
    if (pending->results == NULL) {
        pending->results = calloc(n_jobs, sizeof *pending->results);
        pending->kept = calloc(n_jobs, sizeof *pending->kept);
    }
    if (pending->results == NULL || pending->kept == NULL)
        return fail_set(fail, FAIL_MEMORY, "result: out of memory");
    pending->results[job] = *result;
    pending->kept[job] = fleet_keep(run->fleet, result);
    pending->n_done++;
    return 0;
}

static int finish_item(run_t *run, size_t index, fail_t *fail)
{
    const eval_item_t *item = &run->task->items[index];
    json_t *line = eval_record(run->task, item, run->pending[index].results, fail);
    if (line == NULL)
        return fail->status;
    const char *error = json_string_value(json_object_get(line, "error"));
    if (error != NULL && run->options->strict)
        fail_set(fail, FAIL_LIMIT, "item %s: %s", item->id, error);
    else if (eval_results_append(&run->results, line, fail) == 0)
        eval_tally_add(&run->tally, line);
    run->done[index] = true;
    run->n_new++;
    run->cost_done += (double)cost_of(run->task, item);
    json_decref(line);
    pending_clear(&run->pending[index], item->n_jobs);
    return fail->status;
}

static int take_result(run_t *run, const fleet_result_t *result, fail_t *fail)
{
    ticket_t ticket = run->tickets[result->job];
    const eval_item_t *item = &run->task->items[ticket.item];
    pending_t *pending = &run->pending[ticket.item];
    run->tokens_done += item->jobs[ticket.job].ids.count +
                        (item->jobs[ticket.job].n_scored == 0 ? result->n_tokens : 0);
    if (keep_result(run, pending, item->n_jobs, ticket.job, result, fail) != 0)
        return fail->status;
    return pending->n_done == item->n_jobs ? finish_item(run, ticket.item, fail) : 0;
}

/* ---- Progress -------------------------------------------------------------------------------- */

static double seconds_since(uint64_t begin_ns)
{
    return (double)(clock_ns() - begin_ns) * 1e-9;
}

static void show_progress(run_t *run)
{
    if (!progress_is_due(&run->progress))
        return;
    char scores[512], line[1024], left[48] = "";
    double seconds = seconds_since(run->begin_ns);
    if (run->cost_done > 0)
        snprintf(left, sizeof left, ", %.0f s left",
            seconds * (run->cost_left - run->cost_done) / run->cost_done);
    eval_tally_describe(&run->tally, scores, sizeof scores);
    snprintf(line, sizeof line, "%zu of %zu items%s, %.0f tokens/s%s%s", run->tally.n_done,
        run->task->n_items, left, (double)run->tokens_done / seconds, scores[0] != 0 ? ", " : "",
        scores);
    progress_show(&run->progress, printable_name(line).text);
}

/* ---- The end --------------------------------------------------------------------------------- */

/* A digest of all lines in the order of the items: two runs with the same one agree on every bit.
 */
static json_t *results_digest(const run_t *run, fail_t *fail)
{
    eval_lines_t lines;
    uint64_t digest = 0;
    if (eval_lines_read(&lines, run->results.path, fail) != 0)
        return NULL;
    eval_lines_sort(&lines);
    for (size_t i = 0; i < lines.count && fail->status == 0; i++) {
        char *text = eval_line_text(lines.lines[i]);
        if (text == NULL)
            fail_set(fail, FAIL_MEMORY, "summary: out of memory");
        else
            digest = XXH3_64bits_withSeed(text, strlen(text), digest);
        free(text);
    }
    eval_lines_clear(&lines);
    return eval_hex(digest);
}

/* Of the largest resident set, what is left when shared weights are split among those that have
 * them. */
static size_t own_bytes(const fleet_stats_t *stats)
{
    size_t others = stats->weight_bytes - stats->weight_bytes / stats->n_weight_sharers;
    return stats->peak_bytes - size_min(stats->peak_bytes, others);
}

static json_t *replicas_json(const fleet_t *fleet)
{
    const fleet_stats_t *stats = fleet_stats(fleet);
    json_t *array = json_array();
    for (size_t r = 0; r < fleet_n_replicas(fleet); r++) {
        const engine_totals_t *totals = &stats[r].totals;
        json_t *object = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:I,s:I,s:I,s:I}",
            "jobs", (json_int_t)stats[r].n_jobs, "prompt_tokens", (json_int_t)totals->prompt_tokens,
            "reused_tokens", (json_int_t)totals->reused_tokens, "generated_tokens",
            (json_int_t)totals->generated_tokens, "passes", (json_int_t)totals->passes,
            "pass_tokens", (json_int_t)totals->pass_tokens, "drafted_tokens",
            (json_int_t)totals->drafted_tokens, "accepted_tokens",
            (json_int_t)totals->accepted_tokens, "saved_s", (double)totals->saved_ns * 1e-9,
            "idle_s", (double)stats[r].idle_ns * 1e-9, "waiting_at_end_s",
            (double)stats[r].tail_ns * 1e-9, "weight_bytes", (json_int_t)stats[r].weight_bytes,
            "weight_sharers", (json_int_t)stats[r].n_weight_sharers, "peak_bytes",
            (json_int_t)stats[r].peak_bytes, "own_bytes", (json_int_t)own_bytes(&stats[r]));
        json_array_append_new(array, object);
    }
    return array;
}

static int write_summary(run_t *run, double seconds, fail_t *fail)
{
    engine_info_t info = engine_info(fleet_engine(run->fleet));
    char mesh[64];
    snprintf(mesh, sizeof mesh, "%zux%zu", fleet_n_replicas(run->fleet), info.ranks);
    json_t *summary = json_object();
    json_object_set_new(summary, "task", json_string(run->task->name));
    json_object_set_new(summary, "items", json_integer((json_int_t)run->tally.n_done));
    json_object_set_new(summary, "errors", json_integer((json_int_t)run->tally.n_errors));
    json_object_set_new(summary, "scores", eval_tally_json(&run->tally));
    json_object_set_new(summary, "results_digest", results_digest(run, fail));
    json_object_set(summary, "settings", run->settings);
    json_object_set_new(summary, "mesh", json_string(mesh));
    json_object_set_new(summary, "threads", json_integer((json_int_t)info.threads));
    json_object_set_new(summary, "isa", json_string(info.isa));
    json_object_set_new(summary, "items_of_this_run", json_integer((json_int_t)run->n_new));
    json_object_set_new(summary, "seconds", json_real(seconds));
    json_object_set_new(
        summary, "items_per_second", json_real(seconds > 0 ? (double)run->n_new / seconds : 0));
    json_object_set_new(summary, "tokens_per_second",
        json_real(seconds > 0 ? (double)run->tokens_done / seconds : 0));
    json_object_set_new(summary, "replicas", replicas_json(run->fleet));
    if (fail->status == 0)
        eval_results_write(&run->results, "summary.json", summary, fail);
    json_decref(summary);
    return fail->status;
}

static int conclude(run_t *run, eval_outcome_t *outcome, fail_t *fail)
{
    double seconds = seconds_since(run->begin_ns);
    progress_close(&run->progress);
    if (fail->status == FAIL_INTERRUPTED) {
        fail->status = 0;
        fail_set(fail, FAIL_INTERRUPTED,
            "interrupted with %zu of %zu items done; the same command resumes", run->tally.n_done,
            run->task->n_items);
    }
    fleet_end(run->fleet, fail);
    if (fail->status != 0 || write_summary(run, seconds, fail) != 0)
        return fail->status;
    *outcome = (eval_outcome_t){.n_done = run->tally.n_done,
        .n_errors = run->tally.n_errors,
        .n_kept = run->n_kept,
        .seconds = seconds};
    eval_tally_describe(&run->tally, outcome->scores, sizeof outcome->scores);
    return 0;
}

int eval_run(fleet_t *fleet, const tokenizer_t *tokenizer, const eval_task_t *task,
    const eval_options_t *options, eval_outcome_t *outcome, fail_t *fail)
{
    run_t run = {.fleet = fleet,
        .tokenizer = tokenizer,
        .options = options,
        .task = task,
        .results = {.file = -1}};
    int more = 0;
    if (open_run(&run, fail) == 0 && submit_all(&run, fail) == 0)
        more = 1;
    run.begin_ns = clock_ns();
    progress_open(&run.progress, options->shows_progress);
    while (more > 0 && fail->status == 0 && (fleet_pending(fleet) > 0 || more > 1)) {
        const fleet_result_t *results;
        size_t n_results;
        more = fleet_step(fleet, &results, &n_results, fail);
        for (size_t i = 0; i < n_results && fail->status == 0; i++)
            take_result(&run, &results[i], fail);
        show_progress(&run);
    }
    if (run.results.file >= 0)
        eval_results_sync(&run.results, fail);
    conclude(&run, outcome, fail);
    close_run(&run);
    return fail->status;
}
