#include "engine/measure/bench.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/clock.h"
#include "engine/base/size.h"
#include "engine/measure/bench_counts.h"
#include "engine/measure/bench_roof.h"
#include "engine/run/engine_parts.h"

static const char *const metric_names[BENCH_METRICS] = {
    [BENCH_READ_BANDWIDTH] = "read_bandwidth_bytes_per_s",
    [BENCH_FMA_PEAK] = "fma_flop_per_s",
    [BENCH_PEAK] = "peak_flop_per_s",
    [BENCH_INT8_PEAK] = "int8_op_per_s",
    [BENCH_PREFILL_TOKENS] = "prefill_tokens_per_s",
    [BENCH_PREFILL_FLOP] = "prefill_flop_per_s",
    [BENCH_PREFILL_SHARE] = "prefill_peak_share",
    [BENCH_PREFILL_BYTES] = "prefill_bytes_per_s",
    [BENCH_PREFILL_BANDWIDTH] = "prefill_bandwidth_share",
    [BENCH_FIRST_TOKEN] = "time_to_first_token_s",
    [BENCH_DECODE_TOKENS] = "decode_tokens_per_s",
    [BENCH_TOKEN] = "time_per_token_s",
    [BENCH_DECODE_BYTES] = "decode_bytes_per_s",
    [BENCH_DECODE_BANDWIDTH] = "decode_bandwidth_share",
    [BENCH_DECODE_FLOP] = "decode_flop_per_s",
    [BENCH_DECODE_SHARE] = "decode_peak_share",
};

const char *bench_metric_name(bench_metric_t metric)
{
    return metric_names[metric];
}

/* Nanoseconds of one rank. */
typedef struct times {
    int64_t matrix, attention, elementwise, exchange, waiting, sampling;
} times_t;

/* A sequence's progress; the coordinator's. */
typedef struct sequence {
    size_t n_done; /* tokens in the cache */
    int32_t last;  /* token drawn last */
    int32_t *ids;  /* [prompt_tokens] */
    int32_t *blocks;
} sequence_t;

typedef struct bench {
    engine_t *whole;
    engine_parts_t engine; /* of it */
    const bench_options_t *options;
    bench_report_t *report;
    bench_roof_t roof;
    dot_t dot;
    bool coordinates, filled;
    size_t blocks_each; /* of a sequence */
    size_t last_row;    /* of logits, in the prefill's last step: the last prompt's */
    bench_counts_t counts;
    double prefill_s, first_token_s, decode_s;
    times_t times[BENCH_PHASES];
    char *logits; /* [vocab_size] on the coordinator */
    size_t logit_bytes, vocab_size, *logit_counts;
    /* The coordinator's. */
    size_t prefill_steps;
    int32_t *ids, *blocks; /* of all sequences */
    sequence_t *sequences; /* [batch] */
    scheduler_entry_t *entries;
    step_result_t *results;
} bench_t;

/* ---- Opening --------------------------------------------------------------------------------- */

static size_t most_tokens(const bench_options_t *options)
{
    return size_max(options->prompt_tokens, options->context + options->gen_tokens);
}

size_t bench_kv_tokens(const bench_options_t *options)
{
    return size_round_up(most_tokens(options), KV_BLOCK) * options->batch;
}

/* The last sequence has the same prompt whatever the batch, so that its logits can be compared. */
static void make_prompts(bench_t *b)
{
    size_t length = b->options->prompt_tokens, batch = b->options->batch;
    for (size_t s = 0; s < batch; s++) {
        sequence_t *sequence = &b->sequences[s];
        sequence->ids = b->ids + s * length;
        sequence->blocks = b->blocks + s * b->blocks_each;
        for (size_t i = 0; i < length; i++)
            sequence->ids[i] =
                (int32_t)(((i + 1) * 7919 + (batch - 1 - s) * 104729) % b->vocab_size);
        for (size_t i = 0; i < b->blocks_each; i++)
            sequence->blocks[i] = (int32_t)(s * b->blocks_each + i);
    }
}

static void open_sequences(bench_t *b, fail_t *fail)
{
    size_t batch = b->options->batch;
    b->ids = calloc(batch * b->options->prompt_tokens, sizeof *b->ids);
    b->blocks = calloc(batch * b->blocks_each, sizeof *b->blocks);
    b->sequences = calloc(batch, sizeof *b->sequences);
    b->entries = calloc(batch, sizeof *b->entries);
    b->results = calloc(batch, sizeof *b->results);
    b->logits = malloc(b->vocab_size * b->logit_bytes);
    if (b->ids == NULL || b->blocks == NULL || b->sequences == NULL || b->entries == NULL ||
        b->results == NULL || b->logits == NULL) {
        fail_set(fail, FAIL_MEMORY, "bench: out of memory for %zu sequences", batch);
        return;
    }
    make_prompts(b);
}

static void open_report(bench_t *b, fail_t *fail)
{
    bench_report_t *r = b->report;
    r->n_ranks = b->engine.model->plan.n_ranks;
    r->repeat = b->options->repeat;
    r->values = calloc(BENCH_METRICS * r->repeat, sizeof *r->values);
    r->splits = calloc(BENCH_PHASES * r->n_ranks, sizeof *r->splits);
    if (r->values == NULL || r->splits == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory for a report");
}

/* The instruction set whose multiply-adds the linear layers use: AMX only for its own dot product.
 */
static isa_t matrix_isa(const bench_t *b)
{
    return b->dot == DOT_AMX ? b->engine.isa : b->engine.isa & ~CPU_AMX_BF16;
}

/* All that are measured at the same time. */
static comm_t *everyone(const bench_t *b)
{
    return b->options->all_replicas != NULL ? b->options->all_replicas : b->engine.comm;
}

/* Collective. */
static int open_bench(bench_t *b, fail_t *fail)
{
    const model_t *m = b->engine.model;
    const scheduler_options_t *limits = &b->engine.limits;
    b->coordinates = comm_rank(b->engine.comm) == 0;
    b->vocab_size = m->config.vocab_size;
    b->logit_bytes = m->mode == DTYPE_F64 ? sizeof(double) : sizeof(float);
    b->blocks_each = size_round_up(most_tokens(b->options), KV_BLOCK) / KV_BLOCK;
    if (most_tokens(b->options) > limits->max_context || b->options->batch > limits->max_batch ||
        b->blocks_each * b->options->batch > limits->n_blocks)
        fail_set(fail, FAIL_LIMIT,
            "bench: expected at most %zu sequences of %zu tokens, found %zu of %zu",
            limits->max_batch, limits->max_context, b->options->batch, most_tokens(b->options));
    if (limits->whole_prompts && b->options->prompt_tokens > limits->prefill_chunk)
        fail_set(fail, FAIL_LIMIT,
            "bench: expected prompts of at most %zu tokens, found %zu: in this order a step holds whole prompts; --prefill-chunk %zu would help",
            limits->prefill_chunk, b->options->prompt_tokens, b->options->prompt_tokens);
    b->logit_counts = calloc(m->plan.n_ranks, sizeof *b->logit_counts);
    if (b->logit_counts == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    for (size_t r = 0; fail->status == 0 && r < m->plan.n_ranks; r++)
        b->logit_counts[r] = plan_count(m->plan.shares[r].vocab) * b->logit_bytes;
    open_report(b, fail);
    if (b->coordinates)
        open_sequences(b, fail);
    if (comm_agree(everyone(b), fail) != 0)
        return fail->status;
    return bench_roof_open(&b->roof, everyone(b), b->engine.team, b->engine.isa, matrix_isa(b),
        m->mode, b->options->read_bytes, fail);
}

static void close_bench(bench_t *b)
{
    bench_roof_close(&b->roof);
    free(b->logit_counts);
    free(b->logits);
    free(b->results);
    free(b->entries);
    free(b->sequences);
    free(b->blocks);
    free(b->ids);
}

void bench_clear(bench_report_t *report)
{
    free(report->values);
    free(report->splits);
    *report = (bench_report_t){0};
}

/* ---- Steps: the coordinator's ---------------------------------------------------------------- */

static const sampler_params_t greedy = {.top_p = 1, .repetition_penalty = 1};

static scheduler_entry_t entry_of(const bench_t *b, size_t s, size_t n_rows, bool decode)
{
    const sequence_t *sequence = &b->sequences[s];
    size_t prompt = b->options->prompt_tokens;
    return (scheduler_entry_t){.slot = s,
        .admitted = sequence->n_done == 0,
        .blocks = sequence->blocks,
        .n_blocks = b->blocks_each,
        .token_ids = decode ? &sequence->last : sequence->ids + sequence->n_done,
        .n_rows = n_rows,
        .first_position = sequence->n_done,
        .ref_q_len = decode ? 1 : prompt,
        .decode = decode,
        .sampling = &greedy,
        .samples = decode || sequence->n_done + n_rows == prompt};
}

static int run_step(bench_t *b, size_t n_entries, size_t n_rows, fail_t *fail)
{
    bool single_row = b->entries[0].ref_q_len == 1;
    bool decode = b->entries[0].decode;
    const scheduler_step_t step = {.entries = b->entries,
        .n_entries = n_entries,
        .n_single_rows = single_row ? n_entries : 0,
        .n_rows = n_rows,
        .n_prompt_rows = decode ? 0 : n_rows};
    if (engine_run(b->whole, &step, b->results, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < n_entries; i++) {
        sequence_t *sequence = &b->sequences[b->entries[i].slot];
        sequence->n_done += b->entries[i].n_rows;
        if (b->entries[i].samples)
            sequence->last = b->results[i].choices[0].token;
    }
    return 0;
}

/* Prompts in chunks, oldest first, as the scheduler would have them. */
static int prefill_steps(bench_t *b, fail_t *fail)
{
    size_t batch = b->options->batch, first = 0;
    uint64_t begin = clock_ns();
    b->first_token_s = 0;
    b->prefill_steps = 0;
    for (size_t s = 0; s < batch; s++)
        b->sequences[s].n_done = 0;
    while (first < batch) {
        size_t n = 0, rows = 0, drawn = 0;
        for (size_t s = first; s < batch && rows < b->engine.limits.prefill_chunk; s++) {
            size_t left = b->options->prompt_tokens - b->sequences[s].n_done;
            size_t n_rows = size_min(left, b->engine.limits.prefill_chunk - rows);
            if (b->engine.limits.whole_prompts && n_rows < left)
                break;
            b->entries[n] = entry_of(b, s, n_rows, false);
            drawn += b->entries[n++].samples;
            rows += n_rows;
        }
        if (run_step(b, n, rows, fail) != 0)
            return fail->status;
        b->prefill_steps++;
        if (first == 0 && drawn > 0)
            b->first_token_s = (double)(clock_ns() - begin) * 1e-9;
        first += drawn;
        b->last_row = drawn - (drawn > 0);
    }
    b->prefill_s = (double)(clock_ns() - begin) * 1e-9;
    return 0;
}

static int decode_steps(bench_t *b, fail_t *fail)
{
    for (size_t s = 0; s < b->options->batch; s++)
        b->sequences[s].n_done = b->options->context;
    uint64_t begin = clock_ns();
    for (size_t i = 0; i < b->options->gen_tokens; i++) {
        for (size_t s = 0; s < b->options->batch; s++)
            b->entries[s] = entry_of(b, s, 1, true);
        if (run_step(b, b->options->batch, b->options->batch, fail) != 0)
            return fail->status;
    }
    b->decode_s = (double)(clock_ns() - begin) * 1e-9;
    return 0;
}

/* ---- Repetitions ----------------------------------------------------------------------------- */

static times_t times_now(const bench_t *b)
{
    forward_times_t f = forward_times(b->engine.forward);
    step_times_t s = step_times(b->engine.step);
    return (times_t){.matrix = (int64_t)f.matrix_ns,
        .attention = (int64_t)f.attention_ns,
        .elementwise = (int64_t)f.elementwise_ns,
        .exchange = (int64_t)(f.exchange_ns + s.exchange_ns),
        .waiting = (int64_t)(f.waiting_ns + s.waiting_ns),
        .sampling = (int64_t)s.sampling_ns};
}

static void add_times(times_t *sum, const times_t *begin, const times_t *end)
{
    sum->matrix += end->matrix - begin->matrix;
    sum->attention += end->attention - begin->attention;
    sum->elementwise += end->elementwise - begin->elementwise;
    sum->exchange += end->exchange - begin->exchange;
    sum->waiting += end->waiting - begin->waiting;
    sum->sampling += end->sampling - begin->sampling;
}

/* Collective. The coordinator drives steps, the others follow until it ends. */
static int run_phase(bench_t *b, bench_phase_t phase, bool counted, fail_t *fail)
{
    times_t begin = times_now(b);
    uint64_t experts = forward_experts(b->engine.forward);
    comm_barrier(everyone(b));
    if (b->coordinates) {
        if (phase == BENCH_PREFILL)
            prefill_steps(b, fail);
        else
            decode_steps(b, fail);
        engine_end(b->whole, fail);
    } else {
        engine_serve(b->whole, fail);
    }
    times_t end = times_now(b);
    experts = forward_experts(b->engine.forward) - experts;
    if (phase == BENCH_DECODE)
        b->report->weight_bytes = b->counts.dense_bytes + b->counts.expert_bytes * (double)experts /
                                                              (double)b->options->gen_tokens;
    else
        b->report->prefill_bytes = b->counts.dense_bytes * (double)b->prefill_steps +
                                   b->counts.expert_bytes * (double)experts;
    if (counted)
        add_times(&b->times[phase], &begin, &end);
    return comm_agree(everyone(b), fail);
}

/* Collective. The last prompt's logits as the prefill left them; the same in every repetition. */
static int digest_logits(bench_t *b, bool first, fail_t *fail)
{
    int64_t row = b->coordinates ? (int64_t)b->last_row : 0;
    row = comm_max(b->engine.comm, row);
    comm_gatherv_root(
        b->engine.comm, forward_logits(b->engine.forward, (size_t)row), b->logit_counts, b->logits);
    if (b->coordinates) {
        uint64_t digest = XXH3_64bits(b->logits, b->vocab_size * b->logit_bytes);
        if (!first && digest != b->report->logits_digest)
            fail_set(fail, FAIL_INTERNAL,
                "bench: logits differ between repetitions: expected digest %016llx, found %016llx",
                (unsigned long long)b->report->logits_digest, (unsigned long long)digest);
        b->report->logits_digest = digest;
    }
    return comm_agree(everyone(b), fail);
}

/* Contexts longer than the prompt: copies of the prompt's blocks, so that keys are real ones with
 * their own memory. Threads divide heads and layers. */
static void fill_thread(void *context, size_t thread)
{
    const bench_t *b = context;
    kv_cache_t *cache = b->engine.cache;
    size_t prompt = size_round_up(b->options->prompt_tokens, KV_BLOCK) / KV_BLOCK;
    team_part_t part =
        team_part(cache->n_layers * cache->n_kv_heads, thread, team_size(b->engine.team));
    for (size_t i = part.begin; i < part.end; i++)
        for (size_t s = 0; s < b->options->batch; s++)
            for (size_t j = prompt; j < b->blocks_each; j++) {
                size_t layer = i / cache->n_kv_heads, head = i % cache->n_kv_heads;
                size_t to = s * b->blocks_each + j, from = s * b->blocks_each + j % prompt;
                memcpy(kv_cache_k(cache, layer, head, to), kv_cache_k(cache, layer, head, from),
                    cache->k_block_bytes);
                memcpy(kv_cache_v(cache, layer, head, to), kv_cache_v(cache, layer, head, from),
                    cache->v_block_bytes);
            }
}

/* The result of one repetition; the coordinator's. */
static void fill_values(const bench_t *b, const double rates[BENCH_ROOFS], double bandwidth,
    double values[BENCH_METRICS])
{
    const bench_report_t *r = b->report;
    double peak = rates[BENCH_ROOF_MATRIX], batch = (double)b->options->batch;
    double step_s = b->decode_s / (double)b->options->gen_tokens;
    values[BENCH_READ_BANDWIDTH] = bandwidth;
    values[BENCH_FMA_PEAK] = rates[BENCH_ROOF_FMA];
    values[BENCH_PEAK] = peak;
    values[BENCH_INT8_PEAK] = rates[BENCH_ROOF_INT8];
    values[BENCH_PREFILL_TOKENS] = batch * (double)b->options->prompt_tokens / b->prefill_s;
    values[BENCH_PREFILL_FLOP] = r->prefill_flop / b->prefill_s;
    values[BENCH_PREFILL_SHARE] = peak > 0 ? values[BENCH_PREFILL_FLOP] / peak : 0;
    values[BENCH_PREFILL_BYTES] = r->prefill_bytes / b->prefill_s;
    values[BENCH_PREFILL_BANDWIDTH] = values[BENCH_PREFILL_BYTES] / bandwidth;
    values[BENCH_FIRST_TOKEN] = b->first_token_s;
    values[BENCH_DECODE_TOKENS] = batch / step_s;
    values[BENCH_TOKEN] = step_s;
    values[BENCH_DECODE_BYTES] = (r->weight_bytes + r->kv_bytes) / step_s;
    values[BENCH_DECODE_BANDWIDTH] = values[BENCH_DECODE_BYTES] / bandwidth;
    values[BENCH_DECODE_FLOP] = r->decode_flop / step_s;
    values[BENCH_DECODE_SHARE] = peak > 0 ? values[BENCH_DECODE_FLOP] / peak : 0;
}

/* Collective. */
static int run_repetition(bench_t *b, bool counted, double values[BENCH_METRICS], fail_t *fail)
{
    double seconds[BENCH_ROOFS] = {0}, operations[BENCH_ROOFS] = {0}, rates[BENCH_ROOFS];
    double read_s = 0, read_bytes = 0;
    for (int kind = 0; kind < BENCH_ROOFS; kind++)
        bench_roof_multiply(&b->roof, kind, &seconds[kind], &operations[kind]);
    if (run_phase(b, BENCH_PREFILL, counted, fail) != 0)
        return fail->status;
    for (int kind = 0; kind < BENCH_ROOFS; kind++)
        bench_roof_multiply(&b->roof, kind, &seconds[kind], &operations[kind]);
    if (digest_logits(b, !b->filled, fail) != 0)
        return fail->status;
    if (!b->filled)
        team_run(b->engine.team, fill_thread, b);
    b->filled = true;
    bench_roof_read(&b->roof, &read_s, &read_bytes);
    if (run_phase(b, BENCH_DECODE, counted, fail) != 0)
        return fail->status;
    bench_roof_read(&b->roof, &read_s, &read_bytes);
    for (int kind = 0; kind < BENCH_ROOFS; kind++)
        rates[kind] = operations[kind] / seconds[kind];
    if (b->coordinates)
        fill_values(b, rates, read_bytes / read_s, values);
    return 0;
}

/* Adds a replica's result to the sum so far: rates add up, the slowest counts for times. */
static void add_replica(const double *replica, double *all)
{
    static const bench_metric_t sums[] = {BENCH_PREFILL_TOKENS, BENCH_PREFILL_FLOP,
        BENCH_PREFILL_BYTES, BENCH_DECODE_TOKENS, BENCH_DECODE_BYTES, BENCH_DECODE_FLOP};
    static const bench_metric_t times[] = {BENCH_FIRST_TOKEN, BENCH_TOKEN};
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
        all[sums[i]] += replica[sums[i]];
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        all[times[i]] = replica[times[i]] > all[times[i]] ? replica[times[i]] : all[times[i]];
    double peak = all[BENCH_PEAK];
    all[BENCH_PREFILL_SHARE] = peak > 0 ? all[BENCH_PREFILL_FLOP] / peak : 0;
    all[BENCH_PREFILL_BANDWIDTH] = all[BENCH_PREFILL_BYTES] / all[BENCH_READ_BANDWIDTH];
    all[BENCH_DECODE_BANDWIDTH] = all[BENCH_DECODE_BYTES] / all[BENCH_READ_BANDWIDTH];
    all[BENCH_DECODE_SHARE] = peak > 0 ? all[BENCH_DECODE_FLOP] / peak : 0;
}

/* Collective over all replicas: rank 0's values become those of all together. The limits of the
 * hardware were measured on all ranks anyway. */
static int combine_replicas(bench_t *b, double values[BENCH_METRICS], fail_t *fail)
{
    comm_t *all_replicas = b->options->all_replicas;
    if (all_replicas == NULL)
        return 0;
    size_t ranks = (size_t)comm_size(all_replicas), each = (size_t)comm_size(b->engine.comm);
    bool first = comm_rank(all_replicas) == 0;
    double *all = first ? calloc(ranks * BENCH_METRICS, sizeof *all) : NULL;
    uint64_t digest = b->report->logits_digest;
    if (first && all == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory for %zu ranks", ranks);
    comm_bcast(b->engine.comm, &digest, sizeof digest);
    if (comm_agree_same(all_replicas, digest, "logits of the replicas", fail) == 0)
        comm_gather_root(all_replicas, values, BENCH_METRICS * sizeof *values, all);
    for (size_t r = each; first && fail->status == 0 && r < ranks; r += each)
        add_replica(all + r * BENCH_METRICS, values);
    free(all);
    return fail->status;
}

/* Collective. */
static int run_all(bench_t *b, fail_t *fail)
{
    const bench_options_t *o = b->options;
    size_t total = o->warmup + o->repeat;
    for (size_t i = 0; i < total; i++) {
        double values[BENCH_METRICS] = {0};
        bool counted = i >= o->warmup;
        if (run_repetition(b, counted, values, fail) != 0 || combine_replicas(b, values, fail) != 0)
            return fail->status;
        for (int m = 0; counted && m < BENCH_METRICS; m++)
            b->report->values[(size_t)m * o->repeat + i - o->warmup] = values[m];
        if (b->coordinates && o->progress != NULL)
            o->progress(o->progress_context, i + 1, total, values);
    }
    return 0;
}

/* ---- The report ------------------------------------------------------------------------------ */

/* Of one prefill or step. The time of a rank in exchanges beyond the rank that spends least counts
 * as waiting for other ranks. */
static void fill_splits(const times_t *times, size_t n_ranks, double divisor, bench_split_t *splits)
{
    int64_t least = times[0].exchange;
    for (size_t r = 1; r < n_ranks; r++)
        least = times[r].exchange < least ? times[r].exchange : least;
    double scale = 1e-9 / divisor;
    for (size_t r = 0; r < n_ranks; r++)
        splits[r] = (bench_split_t){.matrix = (double)times[r].matrix * scale,
            .attention = (double)times[r].attention * scale,
            .elementwise = (double)times[r].elementwise * scale,
            .exchange = (double)least * scale,
            .waiting = (double)(times[r].waiting + times[r].exchange - least) * scale,
            .sampling = (double)times[r].sampling * scale};
}

/* Collective. */
static int gather_splits(bench_t *b, fail_t *fail)
{
    bench_report_t *r = b->report;
    const double divisors[BENCH_PHASES] = {
        (double)b->options->repeat, (double)b->options->repeat * (double)b->options->gen_tokens};
    times_t *all = b->coordinates ? calloc(r->n_ranks, sizeof *all) : NULL;
    if (b->coordinates && all == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory for %zu ranks", r->n_ranks);
    if (comm_agree(b->engine.comm, fail) == 0)
        for (int phase = 0; phase < BENCH_PHASES; phase++) {
            comm_gather_root(b->engine.comm, &b->times[phase], sizeof *all, all);
            if (b->coordinates)
                fill_splits(
                    all, r->n_ranks, divisors[phase], r->splits + (size_t)phase * r->n_ranks);
        }
    free(all);
    return fail->status;
}

int bench_run(
    engine_t *engine, const bench_options_t *options, bench_report_t *report, fail_t *fail)
{
    bench_t b = {.whole = engine,
        .engine = engine_parts(engine),
        .options = options,
        .report = report,
        .dot = engine_info(engine).dot};
    *report = (bench_report_t){0};
    if (open_bench(&b, fail) == 0) {
        const bench_load_t load = {
            options->batch, options->prompt_tokens, options->gen_tokens, options->context};
        bench_count(&b.counts, b.engine.model, b.engine.comm, &load, b.engine.limits.whole_prompts);
        report->kv_bytes = b.counts.kv_bytes;
        report->prefill_flop = b.counts.prefill_flop;
        report->decode_flop = b.counts.decode_flop;
        report->attention_flop = b.counts.attention_flop;
        if (run_all(&b, fail) == 0)
            gather_splits(&b, fail);
    }
    close_bench(&b);
    return fail->status;
}

/* The k-th smallest; repetitions are few. */
static double ranked(const double *values, size_t n, size_t k)
{
    for (size_t i = 0; i < n; i++) {
        size_t below = 0, equal = 0;
        for (size_t j = 0; j < n; j++) {
            below += values[j] < values[i];
            equal += values[j] == values[i];
        }
        if (below <= k && k < below + equal)
            return values[i];
    }
    return 0;
}

bench_spread_t bench_spread(const bench_report_t *report, bench_metric_t metric)
{
    size_t n = report->repeat;
    const double *values = report->values + (size_t)metric * n;
    double median = (ranked(values, n, (n - 1) / 2) + ranked(values, n, n / 2)) / 2;
    return (bench_spread_t){median, ranked(values, n, 0), ranked(values, n, n - 1)};
}
