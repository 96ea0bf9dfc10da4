/* Speed of the forward pass on random weights of a real shape, beside the hardware's limits
 * measured in the same run on the same threads: mpirun -n R bench_forward CONFIG.json [--threads N]
 * [--layers N] [--dtype bf16|f32|f64] [--batch N] [--prompt N]
 *                             [--repeat N]
 *
 * Method: each repetition measures, one after another, (1) the time in which all ranks' threads
 * together read 1 GiB of memory each rank once, (2) the rate of multiply-adds in registers, (3) one
 * prefill step, (4) 16 decode steps at the context that the prompt left. Rows alternate like this
 * because shared machines drift; shares are of the same repetition's limits, and the closing line
 * gives medians. Decode's bytes are the packed weights a step reads (K and V not counted). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/kernels/roof.h"
#include "engine/model/forward.h"

enum { DECODE_STEPS = 16, MAX_REPEAT = 99 };
#define READ_BYTES ((size_t)1 << 30)
#define MULTIPLY_STEPS 20000000u

typedef struct bench {
    size_t threads, layers, batch, prompt, repeat;
    dtype_t mode;
    isa_t isa;
    comm_t *comm;
    team_t *team;
    config_t config;
    model_t model;
    kv_cache_t cache;
    forward_t *forward;
    char *memory;         /* [READ_BYTES] */
    double flop;          /* of one thread's roof_multiply */
    volatile double sink; /* keeps measured work from being removed */
} bench_t;

static void die(const fail_t *fail)
{
    fprintf(stderr, "bench_forward: %s\n", fail->message);
    comm_abort(1);
}

static void parse(bench_t *b, int argc, char **argv, fail_t *fail)
{
    if (argc < 2) {
        fail_set(fail, FAIL_USAGE, "expected a config.json");
        return;
    }
    for (int i = 2; i + 1 < argc && fail->status == 0; i += 2) {
        size_t value = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--threads") == 0)
            b->threads = value;
        else if (strcmp(argv[i], "--layers") == 0)
            b->layers = value;
        else if (strcmp(argv[i], "--batch") == 0)
            b->batch = value;
        else if (strcmp(argv[i], "--prompt") == 0)
            b->prompt = value;
        else if (strcmp(argv[i], "--repeat") == 0)
            b->repeat = value < MAX_REPEAT ? value : MAX_REPEAT;
        else if (strcmp(argv[i], "--dtype") == 0)
            b->mode = strcmp(argv[i + 1], "f64") == 0   ? DTYPE_F64
                      : strcmp(argv[i + 1], "f32") == 0 ? DTYPE_F32
                                                        : DTYPE_BF16;
        else
            fail_set(fail, FAIL_USAGE, "%s: unknown flag", argv[i]);
    }
    if (fail->status == 0 && (b->threads == 0 || b->batch == 0 || b->prompt == 0 || b->repeat == 0))
        fail_set(fail, FAIL_USAGE, "threads, batch, prompt and repeat must be at least 1");
}

static void open_all(bench_t *b, const char *path, fail_t *fail)
{
    static const uint64_t seed = 1;
    const model_source_t source = model_source_random(&seed);
    size_t positions = b->prompt + 1, blocks_each = positions / KV_BLOCK + 1;
    if (config_load_file(&b->config, path, fail) != 0 || isa_choose(&b->isa, fail) != 0)
        return;
    if (b->layers != 0)
        b->config.num_hidden_layers = b->layers;
    comm_set_threads(b->comm, (int)b->threads);
    const model_options_t model_options = {.n_ranks = (size_t)comm_size(b->comm),
        .rank = (size_t)comm_rank(b->comm),
        .mode = b->mode,
        .isa = b->isa,
        .max_positions = positions};
    const forward_options_t options = {.attention = ATTENTION_SDPA,
        .max_rows = size_max(b->prompt, b->batch),
        .max_logits = b->batch,
        .max_context = positions};
    b->memory = memory_alloc(READ_BYTES, "memory to read", fail);
    if (fail->status != 0 ||
        team_open(&b->team, b->threads, comm_oversubscribed(b->comm), fail) != 0 ||
        model_load(&b->model, &b->config, &source, &model_options, b->team, fail) != 0 ||
        kv_cache_open(&b->cache, b->mode, b->config.num_hidden_layers,
            plan_count(model_share(&b->model)->kv_heads), b->config.head_dim,
            blocks_each * b->batch, fail) != 0)
        return;
    memset(b->memory, 1, READ_BYTES);
    forward_open(&b->forward, &b->model, &b->cache, b->team, b->comm, &options, fail);
}

static void read_thread(void *context, size_t thread)
{
    bench_t *b = context;
    team_part_t part = team_part(READ_BYTES / 4096, thread, b->threads);
    b->sink = (double)roof_read(b->memory + part.begin * 4096, (part.end - part.begin) * 4096);
}

static void multiply_thread(void *context, size_t thread)
{
    bench_t *b = context;
    double flop;
    b->sink = roof_multiply(b->isa, b->mode, MULTIPLY_STEPS, &flop);
    if (thread == 0)
        b->flop = flop;
}

/* Seconds of one run on all threads of all ranks, started together. */
static double timed(bench_t *b, void (*fn)(void *, size_t))
{
    comm_barrier(b->comm);
    uint64_t start = clock_ns();
    team_run(b->team, fn, b);
    comm_barrier(b->comm);
    return (double)(clock_ns() - start) * 1e-9;
}

/* Multiply-adds of the matrices for one row, lm_head left out, on all ranks; times 2. */
static double flop_per_row(const config_t *c)
{
    double q = (double)(c->num_attention_heads * c->head_dim), hidden = (double)c->hidden_size;
    double kv = (double)(c->num_key_value_heads * c->head_dim);
    double layer = hidden * (2 * q + 2 * kv) + 3 * hidden * (double)c->intermediate_size;
    return 2 * layer * (double)c->num_hidden_layers;
}

/* Packed bytes that this rank reads in a decode step. */
static double bytes_per_step(const bench_t *b)
{
    double bytes = (double)model_lm_head(&b->model)->bytes;
    for (size_t l = 0; l < b->config.num_hidden_layers; l++) {
        const model_layer_t *y = &b->model.layers[l];
        bytes += (double)(y->q.bytes + y->k.bytes + y->v.bytes + y->o.bytes + y->gate.bytes +
                          y->up.bytes + y->down.bytes);
    }
    return bytes;
}

static double step_seconds(bench_t *b, const forward_batch_t *batch, int steps)
{
    comm_barrier(b->comm);
    uint64_t start = clock_ns();
    for (int i = 0; i < steps; i++)
        forward_step(b->forward, batch);
    comm_barrier(b->comm);
    return (double)(clock_ns() - start) * 1e-9 / steps;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return values[n / 2];
}

static void run(bench_t *b)
{
    size_t blocks_each = (b->prompt + 1) / KV_BLOCK + 1;
    int32_t *blocks = calloc(blocks_each * b->batch, sizeof *blocks);
    int32_t *ids = calloc(size_max(b->prompt, b->batch), sizeof *ids);
    forward_sequence_t *sequences = calloc(b->batch, sizeof *sequences);
    forward_logits_row_t *rows = calloc(b->batch, sizeof *rows);
    double share[2][MAX_REPEAT], rate[2][MAX_REPEAT];
    for (size_t i = 0; i < blocks_each * b->batch; i++)
        blocks[i] = (int32_t)i;
    for (size_t i = 0; i < size_max(b->prompt, b->batch); i++)
        ids[i] = (int32_t)(i * 7919 % b->config.vocab_size);
    for (size_t i = 0; i < b->batch; i++) {
        sequences[i] = (forward_sequence_t){i, 1, b->prompt, 1, true, blocks + i * blocks_each};
        rows[i] = (forward_logits_row_t){i, true};
    }
    const forward_sequence_t whole = {0, b->prompt, 0, b->prompt, b->prompt == 1, blocks};
    const forward_logits_row_t last = {b->prompt - 1, true};
    const forward_batch_t prefill = {b->prompt, 1, 1, ids, &whole, &last};
    const forward_batch_t decode = {b->batch, b->batch, b->batch, ids, sequences, rows};
    double ranks = comm_size(b->comm), flop = flop_per_row(&b->config) * (double)b->prompt;
    double bytes = (double)comm_sum(b->comm, (int64_t)bytes_per_step(b));
    for (size_t i = 0; i < b->repeat; i++) {
        double bandwidth = (double)READ_BYTES * ranks / timed(b, read_thread);
        double seconds = timed(b, multiply_thread);
        double peak = b->flop * (double)b->threads * ranks / seconds;
        double prefill_s = step_seconds(b, &prefill, 1);
        double decode_s = step_seconds(b, &decode, DECODE_STEPS);
        rate[0][i] = (double)b->prompt / prefill_s;
        rate[1][i] = (double)b->batch / decode_s;
        share[0][i] = flop / prefill_s / peak;
        share[1][i] = bytes / decode_s / bandwidth;
        if (comm_rank(b->comm) == 0)
            printf("read %.1f GB/s, peak %.0f GFLOP/s | prefill %.1f tokens/s, %.0f GFLOP/s = "
                   "%.1f%% | "
                   "decode %.2f tokens/s, %.1f GB/s = %.1f%%\n",
                bandwidth * 1e-9, peak * 1e-9, rate[0][i], flop / prefill_s * 1e-9,
                100 * share[0][i], rate[1][i], bytes / decode_s * 1e-9, 100 * share[1][i]);
    }
    if (comm_rank(b->comm) == 0)
        printf("median: prefill %.1f tokens/s = %.1f%% of the peak, decode %.2f tokens/s = %.1f%% "
               "of the read "
               "bandwidth\n",
            median(rate[0], b->repeat), 100 * median(share[0], b->repeat),
            median(rate[1], b->repeat), 100 * median(share[1], b->repeat));
    free(blocks);
    free(ids);
    free(sequences);
    free(rows);
}

int main(int argc, char **argv)
{
    fail_t fail = {0};
    bench_t b = {.threads = 1, .batch = 1, .prompt = 512, .repeat = 5, .mode = DTYPE_BF16};
    if (comm_start(&argc, &argv, &fail) != 0 || comm_open_world(&b.comm, COMM_AUTO, &fail) != 0)
        die(&fail);
    parse(&b, argc, argv, &fail);
    if (fail.status == 0)
        open_all(&b, argv[1], &fail);
    if (comm_agree(b.comm, &fail) != 0)
        die(&fail);
    if (comm_rank(b.comm) == 0)
        printf("%s, %zu layers, %s %s, %d rank(s) x %zu thread(s), prompt %zu, batch %zu\n",
            argv[1], b.config.num_hidden_layers, dtype_name(b.mode), isa_name(b.isa),
            comm_size(b.comm), b.threads, b.prompt, b.batch);
    run(&b);
    forward_close(b.forward);
    kv_cache_close(&b.cache);
    model_close(&b.model);
    team_close(b.team);
    memory_free(b.memory, READ_BYTES);
    comm_close(b.comm);
    comm_stop();
    return 0;
}
