#include "engine/run/scorer.h"

#include <stdlib.h>

#include "engine/base/array.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"

struct scorer {
    engine_t *engine;
    size_t vocab_size, n_threads;
    bool is_f64;
    char *summaries; /* [n_threads] of a row of logits */
    size_t summary_bytes;
    sampler_choice_t *scores; /* [scores_capacity] of the rows of an event */
    size_t scores_capacity;
};

static sampler_params_t params_of(size_t n_top)
{
    return (sampler_params_t){.top_p = 1,
        .repetition_penalty = 1,
        .n_logprobs = (uint32_t)n_top,
        .want_logprob = 1,
        .want_digest = 1};
}

int scorer_open(scorer_t **out, engine_t *engine, fail_t *fail)
{
    *out = NULL;
    scorer_t *r = calloc(1, sizeof *r);
    if (r == NULL)
        return fail_set(fail, FAIL_MEMORY, "scores: out of memory");
    engine_info_t info = engine_info(engine);
    const sampler_params_t most = params_of(SAMPLER_MAX_LOGPROBS);
    r->engine = engine;
    r->vocab_size = info.config->vocab_size;
    r->is_f64 = info.mode == DTYPE_F64;
    r->n_threads = info.threads;
    r->summary_bytes = size_round_up(sampler_summary_bytes(&most, r->vocab_size), 64);
    r->summaries = memory_alloc(r->n_threads * r->summary_bytes, "summaries of logits", fail);
    if (r->summaries == NULL) {
        free(r);
        return fail->status;
    }
    *out = r;
    return 0;
}

void scorer_close(scorer_t *r)
{
    if (r == NULL)
        return;
    memory_free(r->summaries, r->n_threads * r->summary_bytes);
    free(r->scores);
    free(r);
}

static double logit_at(const void *logits, bool is_f64, size_t i)
{
    return is_f64 ? ((const double *)logits)[i] : (double)((const float *)logits)[i];
}

/* An event's rows, dealt out to threads in turn. */
typedef struct scoring {
    scorer_t *scorer;
    const engine_event_t *event;
    sampler_params_t params;
    size_t row_bytes;
    bool *decided; /* [n_threads] */
} scoring_t;

static void score_thread(void *context, size_t thread)
{
    scoring_t *s = context;
    scorer_t *r = s->scorer;
    char *summary = r->summaries + thread * r->summary_bytes;
    const void *summaries[1] = {summary};
    const kernels_t *kernels = engine_info(r->engine).kernels;
    s->decided[thread] = true;
    for (size_t i = thread; i < s->event->n_logits; i += r->n_threads) {
        const char *logits = (const char *)s->event->logits + i * s->row_bytes;
        sampler_summarise(kernels, &s->params, logits, r->is_f64, 0, r->vocab_size, NULL, summary);
        if (!sampler_pick(&s->params, summaries, &r->vocab_size, 1, 0, &r->scores[i]))
            s->decided[thread] = false;
    }
}

/* The best token of every row, with its log-probability, and the row's digest. */
static int find_best(
    scorer_t *r, const engine_event_t *event, size_t n_top, size_t row_bytes, fail_t *fail)
{
    if (array_reserve(&r->scores, &r->scores_capacity, event->n_logits, sizeof *r->scores,
            "job: rows", fail) != 0)
        return fail->status;
    bool *decided = calloc(r->n_threads, sizeof *decided), all = decided != NULL;
    scoring_t scoring = {r, event, params_of(n_top), row_bytes, decided};
    if (all)
        engine_parallel(r->engine, score_thread, &scoring);
    for (size_t t = 0; all && t < r->n_threads; t++)
        all = decided[t];
    free(decided);
    return all ? 0 : fail_set(fail, FAIL_MEMORY, "job: out of memory for a row of logits");
}

int scorer_rows(scorer_t *r, const engine_event_t *event, const int32_t *targets, size_t n_top,
    const sampler_choice_t **choices, fail_t *fail)
{
    size_t row_bytes = r->vocab_size * (r->is_f64 ? sizeof(double) : sizeof(float));
    if (find_best(r, event, n_top, row_bytes, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < event->n_logits; i++) {
        const char *logits = (const char *)event->logits + i * row_bytes;
        sampler_choice_t *best = &r->scores[i];
        double behind = logit_at(logits, r->is_f64, (size_t)best->token) -
                        logit_at(logits, r->is_f64, (size_t)targets[i]);
        best->logprob -= behind;
    }
    *choices = r->scores;
    return 0;
}
