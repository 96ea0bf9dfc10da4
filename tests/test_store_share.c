/* What the ranks of a node do for each other: the stage on its disk, and frames handed over in
 * shared memory. Ranks are processes here, without MPI. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/log.h"
#include "engine/base/size.h"
#include "sharding/checkpoint/checkpoint.h"
#include "sharding/store/store.h"
#include "tests/store_fixture.h"

#define MAX_RANKS 5

static int set_up(void **state)
{
    static const fixture_tensor_t tensors[] = {
        {"model.embed_tokens.weight", "BF16", 512, 256, 0.02},
        {"model.layers.0.w", "BF16", 500, 256, 0.05},
        {"model.layers.0.norm", "F32", 3000, 0, 1},
    };
    fail_t fail = {0};
    fixture_options_t options = fixture_options();
    options.store.file_bytes = 200000;
    log_set_level(LOG_ERROR);
    fixture_set_up(state);
    fixture_model(fixture_in("model").text, tensors, sizeof tensors / sizeof *tensors, 1);
    return fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail);
}

static const checkpoint_tensor_t *matrix_of(checkpoint_t *checkpoint)
{
    return checkpoint_find(checkpoint, "model.layers.0.w");
}

/* Reads rows [begin, end) and compares them with the source's. */
static bool rows_equal(checkpoint_t *source, checkpoint_t *store, size_t begin, size_t end)
{
    static char a[500 * 512], b[500 * 512];
    fail_t fail = {0};
    return checkpoint_read(
               source, matrix_of(source), begin, end, 0, 256, a, DTYPE_BF16, NULL, &fail) == 0 &&
           checkpoint_read(
               store, matrix_of(store), begin, end, 0, 256, b, DTYPE_BF16, NULL, &fail) == 0 &&
           memcmp(a, b, (end - begin) * 512) == 0;
}

/* ---- Stage ----------------------------------------------------------------------------------- */

typedef struct traffic {
    uint64_t read, staged;
} traffic_t;

/* Opens the store with a stage and reads rows of one matrix. */
static traffic_t read_staged(size_t begin, size_t end)
{
    fail_t fail = {0};
    checkpoint_t *source, *store;
    assert_int_equal(checkpoint_open(&source, fixture_in("model").text, &fail), 0);
    assert_int_equal(checkpoint_open(&store, fixture_in("store").text, &fail), 0);
    uint64_t headers = checkpoint_bytes_read(store);
    assert_int_equal(store_set_stage(checkpoint_store(store), fixture_in("stage").text, &fail), 0);
    assert_true(rows_equal(source, store, begin, end));
    traffic_t traffic = {
        checkpoint_bytes_read(store) - headers, store_bytes_staged(checkpoint_store(store))};
    checkpoint_close(source);
    checkpoint_close(store);
    return traffic;
}

static void what_is_staged_is_not_read_again(void **state)
{
    (void)state;
    traffic_t first = read_staged(100, 300), second = read_staged(100, 300);
    assert_true(first.read > 0 && first.read == first.staged);
    assert_true(second.read == 0 && second.staged == 0);
    /* Rows 96 to 303 are there; 0 to 95 and 304 to 399 are not. */
    traffic_t more = read_staged(0, 400);
    assert_true(more.read == more.staged);
    assert_true(more.read > 0 && more.read < first.read * 2);
    assert_true(read_staged(0, 400).read == 0);
}

static void only_what_is_needed_is_staged(void **state)
{
    (void)state;
    traffic_t some = read_staged(0, 16);
    assert_true(some.staged > 0 && some.staged < 16 * 512);
}

/* The staged data files. */
static void change_stage(void (*change)(const char *path))
{
    size_t n, n_files;
    char **stages = fixture_names(fixture_in("stage").text, &n);
    assert_int_equal(n, 1);
    fixture_path_t stage = fixture_join(fixture_in("stage").text, stages[0]);
    char **files = fixture_names(stage.text, &n_files);
    assert_true(n_files >= 2);
    for (size_t i = 0; i < n_files; i++)
        change(fixture_join(stage.text, files[i]).text);
    fixture_free_names(files, n_files);
    fixture_free_names(stages, n);
}

static void rot(const char *path)
{
    size_t bytes;
    unsigned char *data = fixture_read(path, &bytes);
    for (size_t i = 0; i < bytes; i += 997)
        data[i] ^= 8;
    fixture_write(path, data, bytes);
    free(data);
}

static void shorten(const char *path)
{
    size_t bytes;
    unsigned char *data = fixture_read(path, &bytes);
    fixture_write(path, data, bytes / 2);
    free(data);
}

static void a_damaged_stage_is_noticed_and_mended(void **state)
{
    (void)state;
    traffic_t first = read_staged(0, 500);
    change_stage(rot);
    traffic_t mended = read_staged(0, 500);
    assert_true(mended.read > first.read / 2 && mended.read == mended.staged);
    assert_true(read_staged(0, 500).read == 0);
    change_stage(shorten);
    traffic_t again = read_staged(0, 500);
    assert_true(again.read > 0 && again.read < first.read);
    assert_true(read_staged(0, 500).read == 0);
}

/* Its files may grow to 10,000 bytes only, which stands for a full disk. */
static void a_full_stage_is_no_failure(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit limit = {10000, 10000};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        traffic_t traffic = read_staged(0, 500);
        _exit(traffic.read > traffic.staged ? 0 : 5);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(read_staged(0, 500).read > 0);
    assert_true(read_staged(0, 500).read == 0);
}

static void an_impossible_stage_is_refused(void **state)
{
    (void)state;
    fail_t fail = {0};
    checkpoint_t *store;
    assert_int_equal(checkpoint_open(&store, fixture_in("store").text, &fail), 0);
    assert_int_equal(
        store_set_stage(checkpoint_store(store), "/proc/nowhere/stage", &fail), FAIL_FILE);
    assert_non_null(strstr(fail.message, "--stage"));
    checkpoint_close(store);
}

/* ---- Shared memory --------------------------------------------------------------------------- */

/* What the ranks of a test tell each other, beside the share. */
typedef struct board {
    uint64_t read[MAX_RANKS];
    int equal[MAX_RANKS];
} board_t;

typedef struct node {
    size_t n_ranks, room_bytes;
    size_t begins[MAX_RANKS], ends[MAX_RANKS]; /* rows that each rank wants */
    size_t absent; /* a rank that fails before it reads; MAX_RANKS: none */
    board_t *board;
    void *memory;
    size_t memory_bytes;
} node_t;

static void run_rank(const node_t *node, size_t rank)
{
    fail_t fail = {0};
    checkpoint_t *source, *store;
    store_share_t share;
    if (checkpoint_open(&source, fixture_in("model").text, &fail) != 0 ||
        checkpoint_open(&store, fixture_in("store").text, &fail) != 0)
        _exit(3);
    const store_manifest_t *manifest = store_manifest(checkpoint_store(store));
    uint64_t headers = checkpoint_bytes_read(store);
    store_share_open(&share, node->memory, manifest->n_frames, manifest->max_frame_bytes,
        node->room_bytes, node->n_ranks);
    store_set_share(checkpoint_store(store), &share);
    checkpoint_want(store, matrix_of(store), node->begins[rank], node->ends[rank], 64);
    bool equal = true;
    for (size_t r = node->begins[rank]; r < node->ends[rank] && rank != node->absent; r += 64)
        equal = rows_equal(source, store, r, size_min(r + 64, node->ends[rank])) && equal;
    store_share_arrive(&share);
    node->board->equal[rank] = equal;
    node->board->read[rank] = checkpoint_bytes_read(store) - headers;
    checkpoint_close(source);
    checkpoint_close(store);
    _exit(0);
}

static uint64_t run_node(node_t *node)
{
    fail_t fail = {0};
    store_t *store;
    uint64_t read = 0;
    assert_int_equal(store_open(&store, fixture_in("store").text, NULL, NULL, &fail), 0);
    const store_manifest_t *manifest = store_manifest(store);
    node->memory_bytes =
        sizeof(board_t) + 64 +
        store_share_bytes(manifest->n_frames, manifest->max_frame_bytes, node->room_bytes);
    store_close(store);
    node->board =
        mmap(NULL, node->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(node->board != MAP_FAILED);
    node->memory = (char *)node->board + size_round_up(sizeof(board_t), 64);
    pid_t children[MAX_RANKS];
    for (size_t r = 0; r < node->n_ranks; r++) {
        children[r] = fork();
        if (children[r] == 0)
            run_rank(node, r);
    }
    for (size_t r = 0; r < node->n_ranks; r++) {
        int status;
        assert_int_equal(waitpid(children[r], &status, 0), children[r]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        assert_true(node->board->equal[r]);
        read += node->board->read[r];
    }
    munmap(node->board, node->memory_bytes);
    return read;
}

/* Bytes of the frames of some rows. */
static uint64_t frames_of(size_t begin, size_t end)
{
    node_t alone = {
        .n_ranks = 1, .room_bytes = 1, .begins = {begin}, .ends = {end}, .absent = MAX_RANKS};
    return run_node(&alone);
}

static void shared_frames_are_read_once(void **state)
{
    (void)state;
    node_t node = {.n_ranks = 4,
        .room_bytes = (size_t)1 << 20,
        .ends = {500, 500, 500, 500},
        .absent = MAX_RANKS};
    uint64_t once = frames_of(0, 500);
    assert_true(once > 0);
    for (int round = 0; round < 10; round++)
        assert_true(run_node(&node) == once);
}

/* Parts that overlap, and begin inside blocks. */
static void overlapping_parts_are_read_once(void **state)
{
    (void)state;
    node_t node = {.n_ranks = 3,
        .room_bytes = (size_t)1 << 20,
        .begins = {0, 120, 333},
        .ends = {200, 391, 500},
        .absent = MAX_RANKS};
    for (int round = 0; round < 10; round++)
        assert_true(run_node(&node) == frames_of(0, 500));
}

static void without_room_ranks_read_for_themselves(void **state)
{
    (void)state;
    node_t node = {.n_ranks = 5,
        .room_bytes = 1, /* two slots anyway */
        .ends = {500, 400, 500, 300, 500},
        .absent = MAX_RANKS};
    uint64_t once = frames_of(0, 500);
    for (int round = 0; round < 10; round++) {
        uint64_t read = run_node(&node);
        assert_true(read >= once && read <= 5 * once);
    }
}

static void a_rank_that_fails_early_keeps_nobody_waiting(void **state)
{
    (void)state;
    node_t node = {.n_ranks = 3, .room_bytes = 1, .ends = {500, 500, 500}, .absent = 1};
    uint64_t once = frames_of(0, 500);
    assert_true(run_node(&node) >= once);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, fixture_tear_down)
    const struct CMUnitTest tests[] = {
        CASE(what_is_staged_is_not_read_again),
        CASE(only_what_is_needed_is_staged),
        CASE(a_damaged_stage_is_noticed_and_mended),
        CASE(a_full_stage_is_no_failure),
        CASE(an_impossible_stage_is_refused),
        CASE(shared_frames_are_read_once),
        CASE(overlapping_parts_are_read_once),
        CASE(without_room_ranks_read_for_themselves),
        CASE(a_rank_that_fails_early_keeps_nobody_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
