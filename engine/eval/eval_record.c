#include "engine/eval/eval_record.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/json.h"
#include "engine/base/size.h"

json_t *eval_hex(uint64_t value)
{
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    return json_string(text);
}

size_t eval_score_names(const eval_task_t *task, const char **names)
{
    if (task->kind == EVAL_PERPLEXITY)
        return 0;
    if (task->kind == EVAL_CHOICE) {
        names[0] = "acc";
        names[1] = "acc_norm";
        return 2;
    }
    for (size_t i = 0; i < task->n_extracts; i++)
        names[i] = task->extracts[i].name;
    return task->n_extracts;
}

/* ---- Answers --------------------------------------------------------------------------------- */

static void trim(const char *text, pattern_span_t *span)
{
    while (span->begin < span->end && isspace((unsigned char)text[span->begin]))
        span->begin++;
    while (span->end > span->begin && isspace((unsigned char)text[span->end - 1]))
        span->end--;
}

/* What a rule finds in the model's text: false when it finds nothing. */
static bool extract(const eval_extract_t *rule, const text_buffer_t *text, pattern_span_t *found)
{
    pattern_span_t whole, match;
    bool any = false;
    *found = (pattern_span_t){0, text->bytes};
    if (rule->pattern == NULL)
        any = true;
    for (size_t from = 0; rule->pattern != NULL && pattern_find(rule->pattern, text->text,
                                                       text->bytes, from, &whole, &match);
         from = size_max(whole.end, from + 1)) {
        *found = match;
        any = true;
        if (!rule->last)
            break;
    }
    trim(text->text, found);
    return any && (rule->pattern == NULL || found->end > found->begin);
}

/* Removes what the task ignores from both texts, then compares. */
static int normalise(
    const eval_task_t *task, const char *text, size_t bytes, text_buffer_t *out, fail_t *fail)
{
    if (text_buffer_append(out, text, bytes, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < task->n_ignored; i++)
        pattern_remove(task->ignored[i], out);
    for (size_t i = 0; i < out->bytes && task->ignore_case; i++)
        out->text[i] = (char)tolower((unsigned char)out->text[i]);
    pattern_span_t all = {0, out->bytes};
    trim(out->text, &all);
    memmove(out->text, out->text + all.begin, all.end - all.begin);
    out->bytes = all.end - all.begin;
    return 0;
}

static int equals_target(const eval_task_t *task, const eval_item_t *item, const char *text,
    size_t bytes, bool *equal, fail_t *fail)
{
    text_buffer_t got = {0}, expected = {0};
    if (normalise(task, text, bytes, &got, fail) == 0 &&
        normalise(task, item->target, strlen(item->target), &expected, fail) == 0)
        *equal = got.bytes == expected.bytes && memcmp(got.text, expected.text, got.bytes) == 0;
    text_buffer_clear(&got);
    text_buffer_clear(&expected);
    return fail->status;
}

/* ---- Lines ----------------------------------------------------------------------------------- */

static int add_generated(json_t *line, const eval_task_t *task, const eval_item_t *item,
    const fleet_result_t *result, fail_t *fail)
{
    const text_buffer_t text = {.text = (char *)result->text, .bytes = result->text_bytes};
    json_t *extracted = json_object(), *correct = json_object();
    for (size_t i = 0; i < task->n_extracts && fail->status == 0; i++) {
        const eval_extract_t *rule = &task->extracts[i];
        pattern_span_t span;
        bool equal = false, found = extract(rule, &text, &span);
        if (found)
            equals_target(task, item, text.text + span.begin, span.end - span.begin, &equal, fail);
        json_object_set_new(extracted, rule->name,
            found ? json_stringn(text.text + span.begin, span.end - span.begin) : json_null());
        json_object_set_new(correct, rule->name, json_boolean(equal));
    }
    if (fail->status == 0) {
        json_object_set_new(line, "output", json_stringn(text.text, text.bytes));
        json_object_set_new(
            line, "finish", json_string(result->finish == ENGINE_STOP ? "stop" : "length"));
    }
    json_object_set_new(line, "extracted", extracted);
    json_object_set_new(line, "correct", correct);
    json_object_set_new(line, "tokens", json_from_ids(result->tokens, result->n_tokens));
    json_object_set_new(line, "logprobs", json_from_doubles(result->logprobs, result->n_tokens));
    return fail->status;
}

static double sum(const fleet_result_t *result)
{
    double total = 0;
    for (size_t i = 0; i < result->n_tokens; i++)
        total += result->logprobs[i];
    return total;
}

/* Whether every token was the likeliest one. */
static bool is_greedy(const eval_job_t *job, const fleet_result_t *result)
{
    const int32_t *scored = job->ids.ids + job->ids.count - job->n_scored;
    for (size_t i = 0; i < result->n_tokens; i++)
        if (result->tokens[i] != scored[i])
            return false;
    return true;
}

static void add_choices(json_t *line, const eval_item_t *item, const fleet_result_t *results)
{
    json_t *choices = json_array(), *correct = json_object();
    size_t best = 0, best_norm = 0;
    double most = -INFINITY, most_norm = -INFINITY;
    for (size_t j = 0; j < item->n_jobs; j++) {
        const eval_job_t *job = &item->jobs[j];
        double logprob = sum(&results[j]), norm = logprob / (double)job->weight;
        if (logprob > most) {
            most = logprob;
            best = j;
        }
        if (norm > most_norm) {
            most_norm = norm;
            best_norm = j;
        }
        json_t *choice = json_object();
        json_object_set_new(choice, "logprob", json_from_double(logprob));
        json_object_set_new(choice, "greedy", json_boolean(is_greedy(job, &results[j])));
        json_object_set_new(choice, "tokens",
            json_from_ids(job->ids.ids + job->ids.count - job->n_scored, job->n_scored));
        json_object_set_new(
            choice, "logprobs", json_from_doubles(results[j].logprobs, results[j].n_tokens));
        json_array_append_new(choices, choice);
    }
    json_object_set_new(line, "output", json_integer((json_int_t)best));
    json_object_set_new(line, "extracted", json_integer((json_int_t)best_norm));
    json_object_set_new(line, "answer", json_integer((json_int_t)item->answer));
    json_object_set_new(correct, "acc", json_boolean(best == item->answer));
    json_object_set_new(correct, "acc_norm", json_boolean(best_norm == item->answer));
    json_object_set_new(line, "correct", correct);
    json_object_set_new(line, "choices", choices);
}

static void add_window(json_t *line, const eval_item_t *item, const fleet_result_t *result)
{
    const eval_job_t *job = &item->jobs[0];
    json_object_set_new(line, "logprob", json_from_double(sum(result)));
    json_object_set_new(line, "scored_tokens", json_integer((json_int_t)job->n_scored));
    json_object_set_new(line, "words", json_integer((json_int_t)item->words));
    json_object_set_new(line, "bytes", json_integer((json_int_t)item->bytes));
    json_object_set_new(line, "tokens",
        json_from_ids(job->ids.ids + job->ids.count - job->n_scored, job->n_scored));
    json_object_set_new(line, "logprobs", json_from_doubles(result->logprobs, result->n_tokens));
}

static void add_error(json_t *line, const eval_task_t *task, const char *message)
{
    const char *names[EVAL_MAX_PATTERNS];
    size_t n = eval_score_names(task, names);
    json_object_set_new(line, "error", json_string(message));
    json_t *correct = json_object();
    for (size_t i = 0; i < n; i++)
        json_object_set_new(correct, names[i], json_false());
    json_object_set_new(line, "correct", correct);
}

static json_t *timings(const fleet_result_t *results, size_t n)
{
    uint64_t first = 0, total = 0;
    for (size_t i = 0; i < n; i++) {
        first = results[i].first_ns > first ? results[i].first_ns : first;
        total = results[i].total_ns > total ? results[i].total_ns : total;
    }
    json_t *object = json_object();
    json_object_set_new(object, "replica", json_integer((json_int_t)results[0].replica));
    json_object_set_new(object, "first_token_us", json_integer((json_int_t)(first / 1000)));
    json_object_set_new(object, "total_us", json_integer((json_int_t)(total / 1000)));
    return object;
}

json_t *eval_record(
    const eval_task_t *task, const eval_item_t *item, const fleet_result_t *results, fail_t *fail)
{
    json_t *line = json_object();
    const char *error = NULL;
    uint64_t digests[2] = {0, 0};
    size_t prompt_tokens = 0;
    for (size_t j = 0; j < item->n_jobs; j++) {
        if (error == NULL && results[j].status != 0)
            error = results[j].message;
        prompt_tokens += item->jobs[j].ids.count - item->jobs[j].n_scored;
        digests[1] = results[j].digest;
        digests[0] = j == 0 ? results[0].digest : XXH3_64bits(digests, sizeof digests);
    }
    json_object_set_new(line, "index", json_integer((json_int_t)item->index));
    json_object_set_new(line, "id", json_string(item->id));
    json_object_set_new(line, "prompt_digest", eval_hex(item->digest));
    json_object_set_new(line, "prompt_tokens", json_integer((json_int_t)prompt_tokens));
    if (error != NULL)
        add_error(line, task, error);
    else if (task->kind == EVAL_GENERATE)
        add_generated(line, task, item, results, fail);
    else if (task->kind == EVAL_CHOICE)
        add_choices(line, item, results);
    else
        add_window(line, item, results);
    if (error == NULL)
        json_object_set_new(line, "logits_digest", eval_hex(digests[0]));
    if (json_object_set_new(line, "timings", timings(results, item->n_jobs)) != 0)
        fail_set(fail, FAIL_MEMORY, "item %s: out of memory", item->id);
    if (fail->status != 0) {
        json_decref(line);
        return NULL;
    }
    return line;
}
