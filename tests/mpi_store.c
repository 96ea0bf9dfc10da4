/* A shard store gives the logits of the checkpoint that it was made of, bit for bit, at every
 * number of ranks, in every mode, staged or not; and the ranks of a node read what they share once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "engine/base/log.h"
#include "engine/run/engine.h"
#include "sharding/checkpoint/checkpoint.h"
#include "sharding/store/store.h"
#include "tests/store_fixture.h"

#define DEMO CHOIR_SOURCE_DIR "/configs/demo"
#define HANG_SECONDS 1200
#define N_PROMPT 24
#define VOCABULARY 2048

typedef struct context {
    comm_t *comm;
    int rank, size;
    int64_t failures;
    fixture_path_t folder; /* the same for all ranks */
    char store[512], stage[512];
} context_t;

static void check(context_t *c, bool holds, const char *what, int line)
{
    if (holds)
        return;
    c->failures++;
    fprintf(stderr, "mpi_store.c:%d: rank %d of %d: failed: %s\n", line, c->rank, c->size, what);
}

#define CHECK(c, condition) check(c, condition, #condition, __LINE__)

typedef struct result {
    uint64_t digest;     /* of the logits of all prompt positions, on rank 0 */
    uint64_t bytes_read; /* of this rank */
    uint64_t all_read;   /* of all ranks */
} result_t;

static uint64_t run_prompt(context_t *c, engine_t *engine, dtype_t mode)
{
    int32_t ids[N_PROMPT];
    const engine_event_t *events;
    size_t n_events;
    uint64_t handle, digest = 0;
    fail_t fail = {0};
    for (int i = 0; i < N_PROMPT; i++)
        ids[i] = (i * 389 + 17) % 2000;
    request_t request = {.prompt_ids = ids,
        .n_prompt = N_PROMPT,
        .max_tokens = 4,
        .sampling = {.top_p = 1, .repetition_penalty = 1},
        .want_prompt_logits = true};
    if (c->rank != 0) {
        CHECK(c, engine_serve(engine, &fail) == 0);
        return 0;
    }
    CHECK(c, engine_submit(engine, &request, &handle, &fail) == 0);
    int more = 1;
    while (more > 0) {
        more = engine_step(engine, &events, &n_events, &fail);
        for (size_t i = 0; i < n_events; i++) {
            /* Rows of f64 in that mode, else of f32. */
            size_t bytes = events[i].n_logits * VOCABULARY * (mode == DTYPE_F64 ? 8 : 4);
            uint64_t parts[2] = {digest, store_checksum(events[i].logits, bytes)};
            if (events[i].n_logits > 0)
                digest = store_checksum(parts, sizeof parts);
            if (events[i].has_token)
                digest = digest * 31 + (uint64_t)events[i].choice.token;
        }
    }
    CHECK(c, more == 0);
    return digest;
}

static result_t run_model(context_t *c, const char *model, const char *stage, dtype_t mode,
    plan_combine_t combine, size_t threads)
{
    fail_t fail = {0};
    engine_t *engine;
    engine_options_t options = {.model_dir = model,
        .stage = stage,
        .mode = mode,
        .combine = combine,
        .threads = threads,
        .kv_tokens = 256,
        .max_batch = 1,
        .max_logits_rows = N_PROMPT};
    if (engine_open(&engine, c->comm, &options, &fail) != 0) {
        fprintf(stderr, "mpi_store: rank %d: %s\n", c->rank, fail.message);
        comm_abort(1);
    }
    result_t result = {.bytes_read = engine_info(engine).bytes_read};
    result.digest = run_prompt(c, engine, mode);
    engine_close(engine);
    result.all_read = (uint64_t)comm_sum(c->comm, (int64_t)result.bytes_read);
    return result;
}

/* Frames of all tensors, and those of the headers, which every rank reads. */
static void count_frames(context_t *c, uint64_t *tensors, uint64_t *headers)
{
    fail_t fail = {0};
    store_t *store;
    *tensors = *headers = 0;
    CHECK(c, store_open(&store, c->store, NULL, NULL, &fail) == 0);
    const store_manifest_t *manifest = store_manifest(store);
    for (size_t s = 0; s < manifest->n_segments; s++)
        for (size_t b = 0; b < manifest->segments[s].n_blocks; b++)
            *(manifest->segments[s].offset == 0 ? headers : tensors) +=
                manifest->frames[manifest->segments[s].first_frame + b].bytes;
    store_close(store);
}

/* The checkpoint and its store in one mode; what the store's run read. */
static result_t compare(context_t *c, dtype_t mode, plan_combine_t combine)
{
    result_t source = run_model(c, DEMO, NULL, mode, combine, 1);
    result_t store = run_model(c, c->store, NULL, mode, combine, 2);
    CHECK(c, c->rank != 0 || source.digest != 0);
    CHECK(c, source.digest == store.digest);
    CHECK(c, store.all_read < source.all_read);
    return store;
}

/* All ranks are on one node here, and need everything together. */
static void compare_modes(context_t *c)
{
    uint64_t tensors, headers;
    count_frames(c, &tensors, &headers);
    uint64_t once = tensors + headers * (uint64_t)c->size;
    result_t gather = compare(c, DTYPE_BF16, PLAN_GATHER);
    result_t reduce = compare(c, DTYPE_BF16, PLAN_REDUCE);
    CHECK(c, gather.all_read == once);
    CHECK(c, reduce.all_read == once);
    result_t first = run_model(c, c->store, c->stage, DTYPE_BF16, PLAN_GATHER, 2);
    result_t second = run_model(c, c->store, c->stage, DTYPE_BF16, PLAN_GATHER, 1);
    CHECK(c, first.digest == gather.digest && second.digest == gather.digest);
    CHECK(c, first.all_read == once);
    CHECK(c, second.all_read == headers * (uint64_t)c->size);
    /* How values are converted has nothing to do with how many ranks there are. */
    if (c->size > 3)
        return;
    compare(c, DTYPE_F32, PLAN_GATHER);
    compare(c, DTYPE_F64, PLAN_GATHER);
}

/* A bad block in one rank's part ends all ranks with its name. */
static void fail_together(context_t *c)
{
    fail_t fail = {0};
    engine_t *engine = NULL;
    engine_options_t options = {
        .model_dir = c->store, .threads = 1, .kv_tokens = 256, .max_batch = 1};
    if (c->rank == 0) {
        size_t bytes;
        store_t *store;
        fixture_path_t path = fixture_join(c->store, "data-00000.choir");
        CHECK(c, store_open(&store, c->store, NULL, NULL, &fail) == 0);
        const store_manifest_t *manifest = store_manifest(store);
        size_t segment = store_find(store, 0, "model.layers.2.mlp.down_proj.weight");
        uint64_t at = manifest->frames[manifest->segments[segment].first_frame].offset + 1000;
        store_close(store);
        unsigned char *data = fixture_read(path.text, &bytes);
        data[at] ^= 1;
        fixture_write(path.text, data, bytes);
        free(data);
    }
    comm_barrier(c->comm);
    CHECK(c, engine_open(&engine, c->comm, &options, &fail) == FAIL_FORMAT);
    CHECK(c, strstr(fail.message, "model.layers.2.mlp.down_proj.weight") != NULL);
    CHECK(c, strstr(fail.message, "rows 0 to 15") != NULL);
    CHECK(c, engine == NULL);
    fail = (fail_t){0};
    options = (engine_options_t){
        .model_dir = DEMO, .stage = c->stage, .threads = 1, .kv_tokens = 256, .max_batch = 1};
    CHECK(c, engine_open(&engine, c->comm, &options, &fail) == FAIL_USAGE);
}

static void set_up(context_t *c)
{
    fail_t fail = {0};
    if (c->rank == 0) {
        fixture_options_t options = fixture_options();
        c->folder = fixture_folder();
        options.ranks = (size_t)c->size;
        if (fixture_shard(DEMO, fixture_join(c->folder.text, "store").text, &options, &fail) != 0) {
            fprintf(stderr, "mpi_store: %s\n", fail.message);
            comm_abort(1);
        }
    }
    comm_bcast(c->comm, &c->folder, sizeof c->folder);
    snprintf(c->store, sizeof c->store, "%s", fixture_join(c->folder.text, "store").text);
    snprintf(c->stage, sizeof c->stage, "%s", fixture_join(c->folder.text, "stage").text);
}

int main(int argc, char **argv)
{
    context_t c = {0};
    fail_t fail = {0};
    alarm(HANG_SECONDS);
    log_set_level(LOG_ERROR);
    if (comm_start(&argc, &argv, &fail) != 0 || comm_open_world(&c.comm, COMM_AUTO, &fail) != 0) {
        fprintf(stderr, "mpi_store: %s\n", fail.message);
        return 1;
    }
    c.rank = comm_rank(c.comm);
    c.size = comm_size(c.comm);
    set_up(&c);
    compare_modes(&c);
    fail_together(&c);
    c.failures = comm_sum(c.comm, c.failures);
    if (c.rank == 0) {
        fixture_remove(c.folder.text);
        printf("%lld failures\n", (long long)c.failures);
    }
    comm_close(c.comm);
    comm_stop();
    return c.failures != 0;
}
