#include "engine/eval/eval_tally.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/eval/eval_record.h"
#include "engine/run/philox.h"

#define SAMPLES 1000

int eval_tally_open(eval_tally_t *tally, const eval_task_t *task, fail_t *fail)
{
    *tally = (eval_tally_t){.task = task};
    tally->values = calloc(task->n_items + 1, sizeof *tally->values);
    if (tally->values == NULL)
        return fail_set(fail, FAIL_MEMORY, "scores: out of memory for %zu items", task->n_items);
    return 0;
}

void eval_tally_close(eval_tally_t *tally)
{
    free(tally->values);
    *tally = (eval_tally_t){0};
}

static double number(json_t *line, const char *key)
{
    return json_number_value(json_object_get(line, key));
}

void eval_tally_add(eval_tally_t *tally, json_t *line)
{
    const char *names[EVAL_MAX_PATTERNS];
    size_t n = eval_score_names(tally->task, names);
    eval_value_t *value = &tally->values[json_integer_value(json_object_get(line, "index"))];
    json_t *correct = json_object_get(line, "correct");
    *value = (eval_value_t){.there = true, .error = json_object_get(line, "error") != NULL};
    for (size_t i = 0; i < n; i++)
        value->correct[i] = json_is_true(json_object_get(correct, names[i]));
    value->logprob = number(line, "logprob");
    value->tokens = number(line, "scored_tokens");
    value->words = number(line, "words");
    value->bytes = number(line, "bytes");
    tally->n_done++;
    tally->n_errors += value->error;
}

/* ---- Scores ---------------------------------------------------------------------------------- */

/* Which number of the items: an accuracy, or a perplexity by token, word or byte. */
typedef enum measure { MEASURE_TOKEN, MEASURE_WORD, MEASURE_BYTE, MEASURE_SCORES } measure_t;

static double units(const eval_value_t *value, int measure)
{
    return measure == MEASURE_TOKEN  ? value->tokens
           : measure == MEASURE_WORD ? value->words
                                     : value->bytes;
}

/* A score is a ratio of two sums over the items: right answers to answers, or log-probability to
 * units, of which a perplexity is the exponential. */
static void add_value(const eval_value_t *value, int measure, double *above, double *below)
{
    if (measure >= MEASURE_SCORES) {
        *above += value->correct[measure - MEASURE_SCORES];
        *below += 1;
    } else if (!value->error) {
        *above += value->logprob;
        *below += units(value, measure);
    }
}

static double ratio(int measure, double above, double below)
{
    if (below == 0)
        return NAN;
    return measure >= MEASURE_SCORES ? above / below : exp(-above / below);
}

static double score_of(const eval_tally_t *tally, int measure)
{
    double above = 0, below = 0;
    for (size_t i = 0; i < tally->task->n_items; i++)
        if (tally->values[i].there)
            add_value(&tally->values[i], measure, &above, &below);
    return ratio(measure, above, below);
}

/* Of a mean of n values that are 0 or 1: the sample deviation over the root of n. */
static double accuracy_stderr(double score, size_t n)
{
    return n < 2 ? NAN : sqrt(score * (1 - score) / (double)(n - 1));
}

void eval_tally_describe(const eval_tally_t *tally, char *text, size_t bytes)
{
    const char *names[EVAL_MAX_PATTERNS];
    size_t n = eval_score_names(tally->task, names), used = 0;
    text[0] = 0;
    if (tally->n_done == 0)
        return;
    if (tally->task->kind == EVAL_PERPLEXITY)
        snprintf(text, bytes, "perplexity per token %.3f", score_of(tally, MEASURE_TOKEN));
    for (size_t i = 0; i < n && used < bytes; i++) {
        double score = score_of(tally, MEASURE_SCORES + (int)i);
        double error = accuracy_stderr(score, tally->n_done);
        int length = snprintf(text + used, bytes - used, "%s%s %.2f%% ± %.2f", i > 0 ? ", " : "",
            names[i], 100 * score, isnan(error) ? 0 : 100 * error);
        used += length > 0 ? (size_t)length : 0;
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Items drawn with replacement; draws of equal number are equal in every run. */
static void bootstrap(const eval_tally_t *tally, int measure, double *samples)
{
    size_t n = tally->task->n_items;
    for (size_t s = 0; s < SAMPLES; s++) {
        double above = 0, below = 0;
        for (size_t i = 0; i < n; i++) {
            size_t drawn = (size_t)(philox_uniform(0, s, i) * (double)n);
            if (tally->values[drawn].there)
                add_value(&tally->values[drawn], measure, &above, &below);
        }
        samples[s] = ratio(measure, above, below);
    }
    qsort(samples, SAMPLES, sizeof *samples, compare_doubles);
}

static double deviation(const double *samples)
{
    double mean = 0, squares = 0;
    for (size_t s = 0; s < SAMPLES; s++)
        mean += samples[s] / SAMPLES;
    for (size_t s = 0; s < SAMPLES; s++)
        squares += (samples[s] - mean) * (samples[s] - mean);
    return sqrt(squares / (SAMPLES - 1));
}

static json_t *score_json(const eval_tally_t *tally, int measure)
{
    double *samples = calloc(SAMPLES, sizeof *samples);
    json_t *object = json_object();
    if (samples == NULL || object == NULL) {
        free(samples);
        json_decref(object);
        return NULL;
    }
    bootstrap(tally, measure, samples);
    double score = score_of(tally, measure);
    double error =
        measure >= MEASURE_SCORES ? accuracy_stderr(score, tally->n_done) : deviation(samples);
    json_object_set_new(object, "score", json_from_double(score));
    json_object_set_new(object, "stderr", json_from_double(error));
    /* The 25th and the 975th of 1,000. */
    json_t *interval = json_array();
    json_array_append_new(interval, json_from_double(samples[SAMPLES / 40 - 1]));
    json_array_append_new(interval, json_from_double(samples[SAMPLES - SAMPLES / 40]));
    json_object_set_new(object, "interval_95", interval);
    free(samples);
    return object;
}

json_t *eval_tally_json(const eval_tally_t *tally)
{
    static const char *const perplexities[] = {
        "token_perplexity", "word_perplexity", "byte_perplexity"};
    const char *names[EVAL_MAX_PATTERNS];
    size_t n = eval_score_names(tally->task, names);
    json_t *scores = json_object();
    for (int m = 0; m < 3 && tally->task->kind == EVAL_PERPLEXITY; m++)
        json_object_set_new(scores, perplexities[m], score_json(tally, m));
    for (size_t i = 0; i < n; i++)
        json_object_set_new(scores, names[i], score_json(tally, MEASURE_SCORES + (int)i));
    return scores;
}
