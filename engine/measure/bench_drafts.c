#include "engine/measure/bench_drafts.h"

#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/size.h"
#include "engine/run/engine_parts.h"

typedef struct bench {
    engine_t *engine;
    engine_parts_t parts;
    bool drafts; /* a model does */
    const bench_drafts_options_t *options;
    int32_t *ids, *blocks;
    size_t n_blocks;
    double *seconds;       /* [BENCH_DRAFTS_ROWS][rounds] */
    double *draft_seconds; /* [rounds] of a drafted token */
    uint64_t random;       /* of what is accepted */
} bench_t;

/* Tokens of the sequence at most. */
static size_t tokens_of(const bench_drafts_options_t *options)
{
    return options->context + options->n_tokens + BENCH_DRAFTS_MOST_ROWS;
}

void bench_drafts_set(const bench_drafts_options_t *options, engine_options_t *engine)
{
    engine->max_batch = 1;
    engine->kv_tokens = tokens_of(options);
    engine->speculation = (speculation_options_t){.on = true,
        .model = engine->draft_dir != NULL || engine->draft_config != NULL,
        .draft_tokens = BENCH_DRAFTS_MOST_ROWS - 1};
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* Rows of the sequence from a position on, after their drafts; *drafted_ns: the time of those. */
static int run_rows(const bench_t *b, size_t first, size_t n_rows, size_t n_drafts, bool decode,
    uint64_t *drafted_ns, fail_t *fail)
{
    static const sampler_params_t greedy = {.top_p = 1, .repetition_penalty = 1};
    size_t context = b->options->context;
    const scheduler_entry_t entry = {.admitted = first == 0,
        .blocks = b->blocks,
        .n_blocks = b->n_blocks,
        .token_ids = b->ids + first,
        .n_rows = n_rows,
        .n_drafts = n_drafts,
        .text = b->ids,
        .drafts = b->ids + first + 1,
        .first_position = first,
        .ref_q_len = decode ? 1 : context,
        .decode = decode,
        .sampling = &greedy,
        .samples = decode || first + n_rows == context};
    const scheduler_step_t step = {.entries = &entry,
        .n_entries = 1,
        .n_single_rows = entry.ref_q_len == 1,
        .n_rows = n_rows,
        .n_draft_rows = n_drafts,
        .n_prompt_rows = decode ? 0 : n_rows};
    step_result_t result;
    uint64_t begin = clock_ns();
    if (b->drafts && engine_draft(b->engine, &step, fail) != 0)
        return fail->status;
    *drafted_ns = clock_ns() - begin;
    return engine_run(b->engine, &step, &result, fail);
}

static int prefill(const bench_t *b, fail_t *fail)
{
    size_t context = b->options->context, chunk = b->parts.limits.prefill_chunk;
    uint64_t drafted_ns;
    for (size_t first = 0; first < context && fail->status == 0; first += chunk)
        run_rows(b, first, size_min(chunk, context - first), 0, false, &drafted_ns, fail);
    return fail->status;
}

/* A step of each number of rows. */
static int run_round(bench_t *b, size_t round, const bench_drafts_t *drafts, fail_t *fail)
{
    size_t warmup = b->options->warmup, rounds = b->options->rounds;
    for (size_t i = 0; i < BENCH_DRAFTS_ROWS && fail->status == 0; i++) {
        uint64_t begin = clock_ns(), drafted_ns = 0;
        run_rows(
            b, b->options->context, drafts->rows[i], drafts->rows[i] - 1, true, &drafted_ns, fail);
        uint64_t ns = clock_ns() - begin - drafted_ns;
        if (round < warmup)
            continue;
        b->seconds[i * rounds + round - warmup] = (double)ns * 1e-9;
        if (drafts->rows[i] > 1)
            b->draft_seconds[round - warmup] =
                (double)drafted_ns * 1e-9 / (double)(drafts->rows[i] - 1);
    }
    return fail->status;
}

static int compare_numbers(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_numbers);
    return values[n / 2];
}

/* The coordinator's. */
static void measure(bench_t *b, bench_drafts_t *drafts, fail_t *fail)
{
    size_t rounds = b->options->rounds;
    prefill(b, fail);
    for (size_t round = 0; round < b->options->warmup + rounds && fail->status == 0; round++)
        run_round(b, round, drafts, fail);
    for (size_t i = 0; i < BENCH_DRAFTS_ROWS && fail->status == 0; i++) {
        drafts->seconds[i] = median(b->seconds + i * rounds, rounds);
    }
    if (b->drafts && fail->status == 0)
        drafts->draft_seconds = median(b->draft_seconds, rounds);
}

/* ---- Texts ----------------------------------------------------------------------------------- */

/* Whether a draft is right that is with this chance: bits of a linear congruential generator (Knuth's MMIX). */
static bool is_right(bench_t *b, double chance)
{
    b->random = b->random * 6364136223846793005u + 1442695040888963407u;
    return (double)(b->random >> 11) * 0x1p-53 < chance;
}

/* Seconds of a token, n_tokens of them decoded with so many drafts that are right by chance. */
static double run_text(bench_t *b, size_t n_drafts, double chance, fail_t *fail)
{
    size_t first = b->options->context, at = first, end = first + b->options->n_tokens;
    uint64_t begin = clock_ns(), drafted_ns;
    while (at < end && run_rows(b, at, 1 + n_drafts, n_drafts, true, &drafted_ns, fail) == 0) {
        size_t n_right = 0;
        while (n_right < n_drafts && is_right(b, chance))
            n_right++;
        at += 1 + n_right;
    }
    return (double)(clock_ns() - begin) * 1e-9 / (double)(at - first);
}

/* In turn, without and with drafts: the median of the ratios. */
static void measure_texts(bench_t *b, bench_drafts_t *drafts, fail_t *fail)
{
    enum { TURNS = 7, LAST = BENCH_DRAFTS_CHANCES - 1 };
    double ratios[TURNS];
    for (size_t turn = 0; turn < TURNS && fail->status == 0; turn++) {
        double without = run_text(b, 0, 0, fail);
        ratios[turn] = without / run_text(b, drafts->drafts[LAST], drafts->chances[LAST], fail);
    }
    drafts->measured = fail->status == 0 ? median(ratios, TURNS) : 0;
}

static int open_bench(bench_t *b, fail_t *fail)
{
    size_t tokens = tokens_of(b->options);
    const scheduler_options_t *limits = &b->parts.limits;
    b->n_blocks = size_round_up(tokens, limits->block_tokens) / limits->block_tokens;
    if (tokens > limits->max_context ||
        (limits->whole_prompts && b->options->context > limits->prefill_chunk))
        return fail_set(fail, FAIL_LIMIT,
            "bench: a context of %zu and %zu tokens: expected at most %zu tokens, of a prompt at most %zu",
            b->options->context, tokens - b->options->context, limits->max_context,
            limits->whole_prompts ? limits->prefill_chunk : limits->max_context);
    b->ids = calloc(tokens, sizeof *b->ids);
    b->blocks = calloc(b->n_blocks, sizeof *b->blocks);
    b->seconds = calloc(BENCH_DRAFTS_ROWS * b->options->rounds, sizeof *b->seconds);
    b->draft_seconds = calloc(b->options->rounds, sizeof *b->draft_seconds);
    if (b->ids == NULL || b->blocks == NULL || b->seconds == NULL || b->draft_seconds == NULL)
        return fail_set(fail, FAIL_MEMORY, "bench: out of memory for %zu tokens", tokens);
    for (size_t i = 0; i < tokens; i++)
        b->ids[i] = (int32_t)((i + 1) * 7919 % b->parts.model->config.vocab_size);
    for (size_t i = 0; i < b->n_blocks; i++)
        b->blocks[i] = (int32_t)i;
    return 0;
}

/* ---- Gain ------------------------------------------------------------------------------------ */

/* Between measured numbers of rows on a line. */
static double seconds_of(const bench_drafts_t *d, size_t rows)
{
    size_t i = 1;
    while (i + 1 < BENCH_DRAFTS_ROWS && d->rows[i] < rows)
        i++;
    double share = (double)(rows - d->rows[i - 1]) / (double)(d->rows[i] - d->rows[i - 1]);
    return d->seconds[i - 1] + share * (d->seconds[i] - d->seconds[i - 1]);
}

void bench_drafts_gain(bench_drafts_t *d, double chance)
{
    const double chances[BENCH_DRAFTS_CHANCES] = {0.5, 0.7, 0.9, chance};
    for (size_t c = 0; c < BENCH_DRAFTS_CHANCES; c++) {
        double tokens = 1, right = 1;
        d->chances[c] = chances[c];
        d->speedups[c] = 1;
        d->drafts[c] = 0;
        for (size_t n = 1; n < BENCH_DRAFTS_MOST_ROWS; n++) {
            right *= chances[c];
            tokens += right;
            double cost = seconds_of(d, 1 + n) + (double)n * d->draft_seconds;
            double speedup = tokens * d->seconds[0] / cost;
            if (speedup > d->speedups[c]) {
                d->speedups[c] = speedup;
                d->drafts[c] = n;
            }
        }
    }
}

int bench_drafts_run(
    engine_t *engine, const bench_drafts_options_t *options, bench_drafts_t *drafts, fail_t *fail)
{
    bench_t b = {.engine = engine, .parts = engine_parts(engine), .options = options, .random = 1};
    b.drafts = b.parts.limits.speculation.model;
    *drafts = (bench_drafts_t){.rows = {1, 2, 4, 8, BENCH_DRAFTS_MOST_ROWS}};
    open_bench(&b, fail);
    if (comm_agree(b.parts.comm, fail) == 0) {
        if (comm_rank(b.parts.comm) == 0) {
            measure(&b, drafts, fail);
            bench_drafts_gain(drafts, options->chance);
            if (b.drafts && fail->status == 0)
                measure_texts(&b, drafts, fail);
            engine_end(engine, fail);
        } else {
            engine_serve(engine, fail);
        }
        comm_agree(b.parts.comm, fail);
    }
    free(b.ids);
    free(b.blocks);
    free(b.seconds);
    free(b.draft_seconds);
    return fail->status;
}
