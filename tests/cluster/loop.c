/* Runs of the demo model that the watchdog has to tell apart:
 *
 *   loop SECONDS                  one in which ranks wait longer than SECONDS for one that reads
 *                                 slowly, and have nothing to do for as long; it ends with status 0
 *   loop SECONDS RANK CALLS       one with a planted defect: on a rank a norm never ends, from the
 *                                 so many-th call on, which it says on standard output */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "comm/watch/progress_record.h"
#include "comm/watch/watchdog.h"
#include "engine/forward/forward.h"
#include "engine/run/engine.h"

#define MODEL CHOIR_SOURCE_DIR "/configs/demo"

enum { PROMPT_TOKENS = 8, MAX_TOKENS = 64, N_BLOCKS = 2 };

static void die(const fail_t *fail)
{
    fprintf(stderr, "loop: %s\n", fail->message);
    comm_abort(1);
}

/* ---- Patience -------------------------------------------------------------------------------- */

/* Rank 0 reads slowly. */
static void read_slowly(void *context, uint64_t done, uint64_t total)
{
    size_t *naps_left = context;
    (void)done, (void)total;
    if (*naps_left == 0)
        return;
    --*naps_left;
    sleep(1);
}

static int answer(engine_t *engine, fail_t *fail)
{
    int32_t ids[PROMPT_TOKENS];
    uint64_t handle;
    const engine_event_t *events;
    size_t n_events;
    for (int i = 0; i < PROMPT_TOKENS; i++)
        ids[i] = 100 + i;
    const request_t request = {.prompt_ids = ids,
        .n_prompt = PROMPT_TOKENS,
        .max_tokens = MAX_TOKENS,
        .sampling = {.top_p = 1, .repetition_penalty = 1}};
    int more = engine_submit(engine, &request, &handle, fail) == 0;
    while (more > 0)
        more = engine_step(engine, &events, &n_events, fail);
    return fail->status;
}

static void run_patiently(comm_t *comm, size_t seconds, fail_t *fail)
{
    engine_t *engine;
    size_t naps = seconds + 2;
    const engine_options_t options = {.model_dir = MODEL,
        .threads = 1,
        .max_batch = 1,
        .progress = read_slowly,
        .progress_context = &naps};
    if (engine_open(&engine, comm, &options, fail) != 0)
        return;
    if (comm_rank(comm) == 0) {
        if (answer(engine, fail) == 0)
            sleep((unsigned)seconds + 2);
        answer(engine, fail);
    } else {
        engine_serve(engine, fail);
    }
    engine_close(engine);
}

/* ---- A loop without end ---------------------------------------------------------------------- */

static kernels_t right;
static long calls_left;
static volatile int loops = 1;

__attribute__((noinline)) static void loop_without_end(void)
{
    while (loops)
        ;
}

static void norm_that_loops(size_t rows, size_t n, const void *x, size_t x_stride,
    const void *weight, double eps, void *y, size_t y_stride)
{
    if (calls_left-- == 0) {
        printf("looping\n");
        fflush(stdout);
        loop_without_end();
    }
    right.rms_norm(rows, n, x, x_stride, weight, eps, y, y_stride);
}

static void open_model(
    comm_t *comm, team_t *team, checkpoint_t *checkpoint, model_t *model, kv_cache_t *cache)
{
    fail_t fail = {0};
    config_t config;
    model_source_t source = model_source_checkpoint(checkpoint);
    model_options_t options = {.n_ranks = (size_t)comm_size(comm),
        .rank = (size_t)comm_rank(comm),
        .mode = DTYPE_BF16,
        .isa = isa_detect(),
        .max_positions = N_BLOCKS * KV_BLOCK};
    if (config_load(&config, MODEL, &fail) != 0 ||
        model_load(model, &config, &source, &options, team, &fail) != 0 ||
        kv_cache_open(cache, DTYPE_BF16, config.num_hidden_layers,
            plan_count(model_share(model)->kv_heads), config.head_dim, N_BLOCKS, &fail) != 0)
        die(&fail);
}

/* One token after another, until one does not end. */
static void run_into_loop(comm_t *comm, bool plants)
{
    fail_t fail = {0};
    team_t *team;
    checkpoint_t *checkpoint;
    model_t model;
    kv_cache_t cache;
    forward_t *forward;
    const forward_options_t options = {.order = ORDER_TORCH,
        .attention = ATTENTION_SDPA,
        .dot = DOT_CHAIN,
        .max_rows = 1,
        .max_logits = 1,
        .max_context = N_BLOCKS * KV_BLOCK};
    if (team_open(&team, 1, true, &fail) != 0 || checkpoint_open(&checkpoint, MODEL, &fail) != 0)
        die(&fail);
    open_model(comm, team, checkpoint, &model, &cache);
    if (forward_open(&forward, &model, &cache, team, comm, &options, &fail) != 0)
        die(&fail);
    right = model.kernels;
    if (plants)
        model.kernels.rms_norm = norm_that_loops;
    for (size_t position = 0; position < N_BLOCKS * KV_BLOCK; position++) {
        const int32_t token = 100, blocks[N_BLOCKS] = {0, 1};
        const forward_sequence_t sequence = {.n_rows = 1,
            .first_position = position,
            .ref_q_len = 1,
            .single_row = true,
            .blocks = blocks};
        const forward_logits_row_t logits = {.row = 0, .single_row = true};
        const forward_batch_t batch = {.n_rows = 1,
            .n_sequences = 1,
            .n_logits = 1,
            .token_ids = &token,
            .sequences = &sequence,
            .logits_rows = &logits};
        comm_record_step(comm);
        forward_step(forward, &batch);
    }
    fail_set(&fail, FAIL_USAGE, "nothing looped: there are fewer calls on this rank");
    die(&fail);
}

int main(int argc, char **argv)
{
    fail_t fail = {0};
    comm_t *comm;
    watchdog_t *watchdog;
    if ((argc != 2 && argc != 4) || comm_start(&argc, &argv, &fail) != 0)
        return 2;
    size_t seconds = (size_t)atol(argv[1]);
    if (comm_open_world(&comm, COMM_AUTO, &fail) != 0 ||
        watchdog_open(&watchdog, comm, seconds, NULL, &fail) != 0)
        die(&fail);
    if (argc == 4) {
        calls_left = atol(argv[3]);
        run_into_loop(comm, comm_rank(comm) == atoi(argv[2]));
    }
    run_patiently(comm, seconds, &fail);
    if (fail.status != 0)
        die(&fail);
    watchdog_close(watchdog);
    comm_close(comm);
    comm_stop();
    return 0;
}
