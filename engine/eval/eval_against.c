#include "engine/eval/eval_against.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm/watch/progress_record.h"
#include "engine/base/array.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/forward/forward.h"
#include "engine/run/load.h"

#define STEP_ROWS 128 /* of a step, unless prompts have to be whole */
enum { PARENT, MODEL, SIDES };

/* One of the two models. */
typedef struct side {
    loaded_t loaded;
    forward_t *forward;
} side_t;

/* What a rank sees of a row of logits in its part of the vocabulary. */
typedef struct look {
    double most[SIDES],
        target[SIDES]; /* target: logit of the token that follows, on the rank that has it */
    int64_t best[SIDES];
} look_t;

/* Of a granule of the vocabulary, e = exp(logit - largest logit of the row): sums of both e, and of the parent's e times
 * the difference of the exponents. */
typedef struct granule {
    double sums[SIDES], difference;
} granule_t;

typedef struct comparison {
    comm_t *comm;
    side_t sides[SIDES];
    size_t max_rows, max_tokens, n_granules; /* n_granules: of this rank */
    plan_range_t vocab;
    int32_t *ids, *blocks;              /* [max_tokens], [its blocks] */
    forward_logits_row_t *logits_rows;  /* [max_rows] */
    look_t *mine, *all;                 /* [max_rows], [ranks, max_rows] */
    granule_t *granules, *all_granules; /* [max_rows, granules of the rank], all on rank 0 */
    size_t *counts;                     /* [ranks] bytes */
    double *kl;                         /* [n_tokens] on rank 0 */
    size_t kl_capacity, n_tokens, n_same;
    double logprob[SIDES];
} comparison_t;

/* ---- Rows ------------------------------------------------------------------------------------ */

static double logit(const comparison_t *c, int side, size_t row, size_t i)
{
    const void *logits = forward_logits(c->sides[side].forward, row);
    return c->sides[side].loaded.options.mode == DTYPE_F64 ? ((const double *)logits)[i]
                                                           : (double)((const float *)logits)[i];
}

static void look_at_row(const comparison_t *c, size_t row, int32_t target, look_t *look)
{
    for (int s = 0; s < SIDES; s++) {
        look->most[s] = -INFINITY;
        look->best[s] = INT64_MAX;
        look->target[s] = 0;
        for (size_t i = c->vocab.begin; i < c->vocab.end; i++) {
            double value = logit(c, s, row, i - c->vocab.begin);
            /* A NaN stays, so that it is seen. */
            if (isnan(value) || value > look->most[s]) {
                look->most[s] = value;
                look->best[s] = (int64_t)i;
            }
            if (i == (size_t)target)
                look->target[s] = value;
        }
    }
}

/* Over all ranks' looks at a row, in the order of the vocabulary. */
static look_t merge_looks(const comparison_t *c, size_t row, size_t n_rows, int32_t target)
{
    const plan_t *plan = &c->sides[PARENT].loaded.model.plan;
    look_t merged = c->all[row];
    for (size_t r = 0; r < plan->n_ranks; r++) {
        const look_t *look = &c->all[r * n_rows + row];
        for (int s = 0; s < SIDES; s++) {
            if (isnan(look->most[s]) || look->most[s] > merged.most[s]) {
                merged.most[s] = look->most[s];
                merged.best[s] = look->best[s];
            }
            if (r == plan_vocab_owner(plan, (size_t)target))
                merged.target[s] = look->target[s];
        }
    }
    return merged;
}

static void sum_row(comparison_t *c, size_t row, const look_t *look)
{
    const kernels_t *kernels = &c->sides[PARENT].loaded.model.kernels;
    for (size_t g = 0; g < c->n_granules; g++) {
        double exponents[SIDES][PLAN_VOCAB_GRANULE], e[SIDES][PLAN_VOCAB_GRANULE];
        size_t first = g * PLAN_VOCAB_GRANULE;
        size_t n = size_min(PLAN_VOCAB_GRANULE, plan_count(c->vocab) - first);
        granule_t *granule = &c->granules[row * c->n_granules + g];
        *granule = (granule_t){0};
        for (int s = 0; s < SIDES; s++) {
            for (size_t i = 0; i < n; i++)
                exponents[s][i] = e[s][i] = logit(c, s, row, first + i) - look->most[s];
            kernels->exp_f64(n, e[s]);
            for (size_t i = 0; i < n; i++)
                granule->sums[s] += e[s][i];
        }
        for (size_t i = 0; i < n; i++)
            if (e[PARENT][i] != 0)
                granule->difference += e[PARENT][i] * (exponents[PARENT][i] - exponents[MODEL][i]);
    }
}

/* Rank 0: all ranks' granules of a row, which follow each other in the order of the vocabulary. */
static int conclude_row(
    comparison_t *c, size_t row, size_t n_rows, const look_t *look, fail_t *fail)
{
    const plan_t *plan = &c->sides[PARENT].loaded.model.plan;
    const granule_t *ranks = c->all_granules;
    granule_t sum = {0};
    for (size_t r = 0; r < plan->n_ranks; r++) {
        size_t n = c->counts[r] / sizeof *ranks / n_rows;
        for (size_t g = 0; g < n; g++) {
            const granule_t *granule = &ranks[row * n + g];
            sum.difference += granule->difference;
            for (int s = 0; s < SIDES; s++)
                sum.sums[s] += granule->sums[s];
        }
        ranks += n * n_rows;
    }
    if (array_reserve(&c->kl, &c->kl_capacity, c->n_tokens + 1, sizeof *c->kl, "--against: tokens",
            fail) != 0)
        return fail->status;
    c->kl[c->n_tokens++] =
        sum.difference / sum.sums[PARENT] - log(sum.sums[PARENT]) + log(sum.sums[MODEL]);
    c->n_same += look->best[PARENT] == look->best[MODEL];
    for (int s = 0; s < SIDES; s++)
        c->logprob[s] += look->target[s] - look->most[s] - log(sum.sums[s]);
    return 0;
}

/* Collective. The rows of logits of a step. targets: [n_rows] the tokens that follow */
static int compare_rows(comparison_t *c, size_t n_rows, const int32_t *targets, fail_t *fail)
{
    const plan_t *plan = &c->sides[PARENT].loaded.model.plan;
    if (n_rows == 0)
        return 0;
    comm_set_phase(c->comm, PROGRESS_WORK, 0);
    for (size_t row = 0; row < n_rows; row++)
        look_at_row(c, row, targets[row], &c->mine[row]);
    comm_allgather(c->comm, c->mine, n_rows * sizeof *c->mine, c->all);
    for (size_t row = 0; row < n_rows; row++) {
        look_t look = merge_looks(c, row, n_rows, targets[row]);
        sum_row(c, row, &look);
    }
    for (size_t r = 0; r < plan->n_ranks; r++) {
        size_t n = plan_count(plan->shares[r].vocab);
        c->counts[r] =
            (n + PLAN_VOCAB_GRANULE - 1) / PLAN_VOCAB_GRANULE * n_rows * sizeof *c->granules;
    }
    comm_gatherv_root(c->comm, c->granules, c->counts, c->all_granules);
    for (size_t row = 0; row < n_rows && comm_rank(c->comm) == 0 && fail->status == 0; row++) {
        look_t look = merge_looks(c, row, n_rows, targets[row]);
        conclude_row(c, row, n_rows, &look, fail);
    }
    return comm_agree(c->comm, fail);
}

/* ---- Texts ----------------------------------------------------------------------------------- */

/* Collective. A text whose last n_scored ids are scored; the last one is not computed. */
static int run_text(comparison_t *c, size_t n_ids, size_t n_scored, fail_t *fail)
{
    size_t n_computed = n_ids - 1, first_scored = n_computed - n_scored;
    for (size_t first = 0; first < n_computed; first += c->max_rows) {
        size_t n = size_min(c->max_rows, n_computed - first), n_logits = 0;
        const forward_sequence_t sequence = {.n_rows = n,
            .first_position = first,
            .ref_q_len = n_computed,
            .single_row = n_computed == 1,
            .blocks = c->blocks};
        for (size_t row = 0; row < n; row++)
            if (first + row >= first_scored)
                c->logits_rows[n_logits++] = (forward_logits_row_t){row, n_computed == 1};
        const forward_batch_t batch = {.n_rows = n,
            .n_sequences = 1,
            .n_logits = n_logits,
            .token_ids = c->ids + first,
            .sequences = &sequence,
            .logits_rows = c->logits_rows};
        for (int s = 0; s < SIDES; s++)
            forward_step(c->sides[s].forward, &batch);
        if (compare_rows(c, n_logits, c->ids + first + n - n_logits + 1, fail) != 0)
            return fail->status;
    }
    return 0;
}

/* Collective. Rank 0's texts, to all. */
static int run_texts(
    comparison_t *c, const eval_task_t *task, progress_fn progress, void *context, fail_t *fail)
{
    bool root = comm_rank(c->comm) == 0;
    size_t total = 0, done = 0, head[2];
    for (size_t i = 0; root && i < task->n_items; i++)
        for (size_t j = 0; j < task->items[i].n_jobs; j++)
            total += task->items[i].jobs[j].ids.count;
    for (size_t i = 0, j = 0;;) {
        while (root && i < task->n_items && j >= task->items[i].n_jobs) {
            i++;
            j = 0;
        }
        const eval_job_t *job = root && i < task->n_items ? &task->items[i].jobs[j++] : NULL;
        head[0] = job != NULL ? job->ids.count : 0;
        head[1] = job != NULL ? job->n_scored : 0;
        comm_bcast(c->comm, head, sizeof head);
        if (head[0] == 0)
            return 0;
        if (root)
            memcpy(c->ids, job->ids.ids, head[0] * sizeof *c->ids);
        comm_bcast(c->comm, c->ids, head[0] * sizeof *c->ids);
        if (head[1] > 0 && run_text(c, head[0], head[1], fail) != 0)
            return fail->status;
        done += head[0];
        if (root && progress != NULL)
            progress(context, done, total);
    }
}

/* ---- Opening --------------------------------------------------------------------------------- */

static forward_options_t forward_options_of(const comparison_t *c, const loaded_t *l)
{
    return (forward_options_t){.order = l->options.order,
        .attention = forward_attention(&l->config, l->options.order, l->options.attention),
        .dot = l->options.dot,
        .max_rows = c->max_rows,
        .max_logits = c->max_rows,
        .max_context = size_round_up(c->max_tokens, KV_BLOCK)};
}

/* Collective. */
static int open_side(comparison_t *c, int which, const engine_options_t *options, fail_t *fail)
{
    loaded_t *l = &c->sides[which].loaded;
    size_t tokens = size_round_up(c->max_tokens, KV_BLOCK);
    model_t shape;
    load_files(l, c->comm, options, fail);
    if (load_compute(l, fail) != 0 || load_plan(l, &shape, fail) != 0)
        return fail->status;
    if (!config_has_positions(&l->config, c->max_tokens))
        fail_set(fail, FAIL_USAGE,
            "%s: --against: expected texts of at most %zu tokens, the model's positions, found one of %zu",
            options->model_dir, l->config.max_position_embeddings, c->max_tokens);
    bool whole =
        forward_wants_whole_prompts(&l->config, l->options.order, l->options.dot, l->options.mode);
    if (which == MODEL && whole)
        c->max_rows = c->max_tokens;
    else if (whole && c->max_rows < c->max_tokens)
        fail_set(fail, FAIL_MODEL,
            "%s: --against: expected a model of the same architecture, found another",
            options->model_dir);
    forward_options_t forward = forward_options_of(c, l);
    size_t scratch = forward_bytes(&shape, &forward, l->threads, comm_size(c->comm));
    capacity_t capacity = load_capacity(l, &shape, tokens, 1);
    if (load_check(l, &shape, capacity, tokens, tokens, scratch, fail) != 0 ||
        load_weights(l, tokens, tokens, fail) != 0)
        return fail->status;
    return forward_open(
        &c->sides[which].forward, &l->model, &l->cache, l->team, c->comm, &forward, fail);
}

static int check_vocabularies(comparison_t *c, const eval_task_t *task, fail_t *fail)
{
    size_t n_items = comm_rank(c->comm) == 0 ? task->n_items : 0;
    const loaded_t *parent = &c->sides[PARENT].loaded, *model = &c->sides[MODEL].loaded;
    plan_range_t other = model_share(&model->model)->vocab;
    c->vocab = model_share(&parent->model)->vocab;
    c->n_granules = (plan_count(c->vocab) + PLAN_VOCAB_GRANULE - 1) / PLAN_VOCAB_GRANULE;
    if (parent->config.vocab_size != model->config.vocab_size || other.begin != c->vocab.begin ||
        other.end != c->vocab.end)
        fail_set(fail, FAIL_MODEL,
            "%s: --against: expected a vocabulary of %zu, as the model's, found %zu",
            parent->options.model_dir, model->config.vocab_size, parent->config.vocab_size);
    for (size_t i = 0; i < n_items; i++)
        for (size_t j = 0; j < task->items[i].n_jobs; j++)
            for (size_t k = 0; k < task->items[i].jobs[j].ids.count; k++)
                if ((size_t)task->items[i].jobs[j].ids.ids[k] >= model->config.vocab_size)
                    return fail_set(fail, FAIL_USAGE,
                        "item %s: token %zu: expected an id below %zu, found %d", task->items[i].id,
                        k, model->config.vocab_size, task->items[i].jobs[j].ids.ids[k]);
    return fail->status;
}

static int allocate(comparison_t *c, fail_t *fail)
{
    size_t n_ranks = (size_t)comm_size(c->comm), n_blocks = c->max_tokens / KV_BLOCK + 1;
    size_t all = c->sides[MODEL].loaded.config.vocab_size / PLAN_VOCAB_GRANULE + n_ranks;
    c->blocks = calloc(n_blocks, sizeof *c->blocks);
    c->logits_rows = calloc(c->max_rows, sizeof *c->logits_rows);
    c->mine = calloc(c->max_rows, sizeof *c->mine);
    c->all = calloc(c->max_rows * n_ranks, sizeof *c->all);
    c->granules = calloc(c->max_rows * (c->n_granules + 1), sizeof *c->granules);
    c->counts = calloc(n_ranks, sizeof *c->counts);
    if (comm_rank(c->comm) == 0)
        c->all_granules = calloc(c->max_rows * all, sizeof *c->all_granules);
    if (c->blocks == NULL || c->logits_rows == NULL || c->mine == NULL || c->all == NULL ||
        c->granules == NULL || c->counts == NULL ||
        (comm_rank(c->comm) == 0 && c->all_granules == NULL))
        return fail_set(fail, FAIL_MEMORY, "--against: out of memory for %zu rows", c->max_rows);
    for (size_t b = 0; b < n_blocks; b++)
        c->blocks[b] = (int32_t)b;
    return 0;
}

/* Collective. The longest text decides about memory. */
static int open_models(comparison_t *c, const engine_options_t *model, const char *parent,
    const eval_task_t *task, fail_t *fail)
{
    bool root = comm_rank(c->comm) == 0;
    for (size_t i = 0; root && i < task->n_items; i++)
        for (size_t j = 0; j < task->items[i].n_jobs; j++)
            c->max_tokens = size_max(c->max_tokens, task->items[i].jobs[j].ids.count);
    comm_bcast(c->comm, &c->max_tokens, sizeof c->max_tokens);
    c->max_rows = size_max(1, size_min(STEP_ROWS, c->max_tokens));
    c->ids = calloc(c->max_tokens + 1, sizeof *c->ids);
    if (c->ids == NULL)
        fail_set(fail, FAIL_MEMORY, "--against: out of memory for %zu tokens", c->max_tokens);
    if (comm_agree(c->comm, fail) != 0)
        return fail->status;
    engine_options_t options = *model;
    options.shares = NULL;
    options.all_replicas = options.weight_sharers = NULL;
    options.progress = NULL;
    if (open_side(c, MODEL, &options, fail) != 0)
        return fail->status;
    options.model_dir = parent;
    if (open_side(c, PARENT, &options, fail) != 0)
        return fail->status;
    if (check_vocabularies(c, task, fail) == 0)
        allocate(c, fail);
    return comm_agree(c->comm, fail);
}

static void close_all(comparison_t *c)
{
    for (int s = 0; s < SIDES; s++) {
        forward_close(c->sides[s].forward);
        if (c->sides[s].loaded.comm != NULL)
            load_close(&c->sides[s].loaded);
    }
    free(c->ids);
    free(c->blocks);
    free(c->logits_rows);
    free(c->mine);
    free(c->all);
    free(c->granules);
    free(c->all_granules);
    free(c->counts);
    free(c->kl);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void conclude(comparison_t *c, eval_against_t *result)
{
    double n = (double)c->n_tokens, sum = 0;
    *result = (eval_against_t){.n_tokens = c->n_tokens};
    if (c->n_tokens == 0)
        return;
    for (size_t i = 0; i < c->n_tokens; i++)
        sum += c->kl[i];
    qsort(c->kl, c->n_tokens, sizeof *c->kl, compare_doubles);
    result->kl_mean = sum / n;
    result->kl_p99 = c->kl[(c->n_tokens * 99 + 99) / 100 - 1];
    result->same_top = (double)c->n_same / n;
    result->perplexity = exp(-c->logprob[MODEL] / n);
    result->parent_perplexity = exp(-c->logprob[PARENT] / n);
}

int eval_against(eval_against_t *result, comm_t *comm, const engine_options_t *model,
    const char *parent, const eval_task_t *task, progress_fn progress, void *progress_context,
    fail_t *fail)
{
    comparison_t c = {.comm = comm};
    if (open_models(&c, model, parent, task, fail) == 0)
        run_texts(&c, task, progress, progress_context, fail);
    if (fail->status == 0 && comm_rank(comm) == 0)
        conclude(&c, result);
    close_all(&c);
    return fail->status;
}
