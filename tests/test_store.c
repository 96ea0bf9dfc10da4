/* Shard stores: what goes in comes out, by whatever way it is read; layout; sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/json.h"
#include "sharding/checkpoint/checkpoint.h"
#include "sharding/store/store.h"
#include "sharding/store/store_codec.h"
#include "sharding/store/store_unpack.h"
#include "tests/store_fixture.h"

#define DEMO CHOIR_SOURCE_DIR "/configs/demo"

static void shard(const char *model, const char *out, const fixture_options_t *options)
{
    fail_t fail = {0};
    if (fixture_shard(model, out, options, &fail) != 0)
        fail_msg("%s", fail.message);
}

static void mixed_store(void)
{
    fixture_options_t options = fixture_options();
    options.store.file_bytes = 40000;
    fixture_mixed_model(fixture_in("model").text, 1);
    shard(fixture_in("model").text, fixture_in("store").text, &options);
}

/* ---- Round trips ----------------------------------------------------------------------------- */

static void unpacking_gives_the_source_byte_for_byte(void **state)
{
    (void)state;
    fail_t fail = {0};
    mixed_store();
    assert_int_equal(fixture_unpack(fixture_in("store").text, fixture_in("again").text, &fail), 0);
    assert_true(fixture_same(fixture_in("model").text, fixture_in("again").text));
}

static bool at_once(void)
{
    return true;
}

static void an_interrupted_check_says_so(void **state)
{
    (void)state;
    fail_t fail = {0};
    store_t *store = NULL;
    team_t *team = NULL;
    store_findings_t findings;
    mixed_store();
    assert_int_equal(store_open(&store, fixture_in("store").text, NULL, NULL, &fail), 0);
    assert_int_equal(team_open(&team, 2, true, &fail), 0);
    const store_job_t job = {.store = store, .n_ranks = 1, .team = team, .interrupted = at_once};
    assert_int_equal(store_check(&job, NULL, NULL, &findings, &fail), FAIL_INTERRUPTED);
    assert_non_null(strstr(fail.message, "interrupted"));
    team_close(team);
    store_close(store);
}

static void the_demo_model_survives_a_round_trip(void **state)
{
    (void)state;
    fail_t fail = {0};
    fixture_options_t options = fixture_options();
    size_t bytes, again;
    shard(DEMO, fixture_in("store").text, &options);
    assert_int_equal(fixture_unpack(fixture_in("store").text, fixture_in("again").text, &fail), 0);
    unsigned char *source = fixture_read(DEMO "/model.safetensors", &bytes);
    unsigned char *unpacked =
        fixture_read(fixture_join(fixture_in("again").text, "model.safetensors").text, &again);
    assert_int_equal(bytes, again);
    assert_memory_equal(source, unpacked, bytes);
    free(source);
    free(unpacked);
}

static void a_store_lists_the_tensors_that_the_source_lists(void **state)
{
    (void)state;
    fail_t fail = {0};
    checkpoint_t *source, *store;
    mixed_store();
    assert_int_equal(checkpoint_open(&source, fixture_in("model").text, &fail), 0);
    assert_int_equal(checkpoint_open(&store, fixture_in("store").text, &fail), 0);
    assert_int_equal(checkpoint_count(store), checkpoint_count(source));
    assert_null(checkpoint_store(source));
    assert_non_null(checkpoint_store(store));
    for (size_t i = 0; i < checkpoint_count(source); i++) {
        const checkpoint_tensor_t *a = checkpoint_at(source, i), *b = checkpoint_at(store, i);
        assert_string_equal(a->name, b->name);
        assert_string_equal(a->dtype_name, b->dtype_name);
        assert_int_equal(a->size_bytes, b->size_bytes);
    }
    assert_non_null(checkpoint_find(store, "stray")); /* which the index leaves out */
    checkpoint_close(source);
    checkpoint_close(store);
}

/* Ranges of rows and columns that respect no block, in every type. */
static void any_part_in_any_type_equals_the_source(void **state)
{
    (void)state;
    static const char *const names[] = {"model.embed_tokens.weight", "model.layers.0.a.weight",
        "model.layers.0.bits", "half", "single", "double", "bias"};
    static const dtype_t types[] = {DTYPE_BF16, DTYPE_F16, DTYPE_F32, DTYPE_F64};
    fail_t fail = {0};
    checkpoint_t *source, *store;
    uint64_t random = 5;
    mixed_store();
    assert_int_equal(checkpoint_open(&source, fixture_in("model").text, &fail), 0);
    assert_int_equal(checkpoint_open(&store, fixture_in("store").text, &fail), 0);
    char *expected = malloc(1 << 16), *found = malloc(1 << 16), *scratch = malloc(1 << 16);
    for (size_t round = 0; round < 2000; round++) {
        const char *name = names[fixture_random(&random) % (sizeof names / sizeof *names)];
        const checkpoint_tensor_t *a = checkpoint_find(source, name),
                                  *b = checkpoint_find(store, name);
        dtype_t type = types[fixture_random(&random) % 4];
        size_t rows = a->shape[0], columns = a->n_dims > 1 ? a->shape[1] : 1;
        size_t r0 = fixture_random(&random) % (rows + 1), c0 = fixture_random(&random) % columns;
        size_t r1 = r0 + fixture_random(&random) % (rows - r0 + 1);
        size_t c1 = c0 + fixture_random(&random) % (columns - c0 + 1);
        if (round % 3 == 0) {
            c0 = 0;
            c1 = columns;
        }
        size_t bytes = (r1 - r0) * (c1 - c0) * dtype_bytes(type);
        assert_true(bytes <= 1 << 16);
        assert_int_equal(
            checkpoint_read(source, a, r0, r1, c0, c1, expected, type, scratch, &fail), 0);
        if (checkpoint_read(store, b, r0, r1, c0, c1, found, type, scratch, &fail) != 0)
            fail_msg("%s", fail.message);
        assert_memory_equal(expected, found, bytes);
    }
    free(expected);
    free(found);
    free(scratch);
    checkpoint_close(source);
    checkpoint_close(store);
}

static void bytes_of_tensors_without_rows_can_be_read(void **state)
{
    (void)state;
    static const char *const names[] = {"scalar", "bytes", "bias"};
    fail_t fail = {0};
    checkpoint_t *source, *store;
    mixed_store();
    assert_int_equal(checkpoint_open(&source, fixture_in("model").text, &fail), 0);
    assert_int_equal(checkpoint_open(&store, fixture_in("store").text, &fail), 0);
    for (size_t i = 0; i < 3; i++) {
        const checkpoint_tensor_t *a = checkpoint_find(source, names[i]),
                                  *b = checkpoint_find(store, names[i]);
        size_t bytes = (size_t)a->size_bytes;
        char *expected = malloc(bytes), *found = malloc(bytes + 1);
        assert_int_equal(checkpoint_read_bytes(source, a, 0, bytes, expected, &fail), 0);
        /* Not aligned, and not from the start. */
        assert_int_equal(checkpoint_read_bytes(store, b, 1, bytes, found + 1, &fail), 0);
        assert_memory_equal(expected + 1, found + 1, bytes - 1);
        free(expected);
        free(found);
    }
    checkpoint_close(source);
    checkpoint_close(store);
}

static void reading_a_part_reads_only_its_blocks(void **state)
{
    (void)state;
    fail_t fail = {0};
    checkpoint_t *store;
    fixture_options_t options = fixture_options();
    shard(DEMO, fixture_in("store").text, &options);
    assert_int_equal(checkpoint_open(&store, fixture_in("store").text, &fail), 0);
    const checkpoint_tensor_t *tensor = checkpoint_find(store, "model.embed_tokens.weight");
    uint64_t before = checkpoint_bytes_read(store);
    char *rows = malloc(64 * 192 * 2);
    assert_int_equal(
        checkpoint_read(store, tensor, 128, 192, 0, 192, rows, DTYPE_BF16, NULL, &fail), 0);
    uint64_t read = checkpoint_bytes_read(store) - before;
    assert_true(read > 0 && read < 64 * 192 * 2 * 71 / 100);
    free(rows);
    checkpoint_close(store);
}

static void the_digest_tells_contents_apart(void **state)
{
    (void)state;
    fail_t fail = {0};
    fixture_options_t options = fixture_options();
    checkpoint_t *a, *b, *again;
    fixture_mixed_model(fixture_in("model-a").text, 1);
    fixture_mixed_model(fixture_in("model-b").text, 7);
    shard(fixture_in("model-a").text, fixture_in("a").text, &options);
    shard(fixture_in("model-b").text, fixture_in("b").text, &options);
    assert_int_equal(checkpoint_open(&a, fixture_in("a").text, &fail), 0);
    assert_int_equal(checkpoint_open(&again, fixture_in("a").text, &fail), 0);
    assert_int_equal(checkpoint_open(&b, fixture_in("b").text, &fail), 0);
    assert_true(checkpoint_digest(a) == checkpoint_digest(again));
    assert_true(checkpoint_digest(a) != checkpoint_digest(b));
    checkpoint_close(a);
    checkpoint_close(b);
    checkpoint_close(again);
}

/* ---- Making ---------------------------------------------------------------------------------- */

static void ranks_and_threads_do_not_change_a_byte(void **state)
{
    (void)state;
    static const size_t cases[][2] = {{1, 1}, {3, 2}, {1, 4}, {5, 1}, {2, 2}, {4, 7}};
    fixture_options_t options = fixture_options();
    options.store.file_bytes = 500000;
    options.threads = 1;
    shard(DEMO, fixture_in("reference").text, &options);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options.threads = cases[i][0];
        options.ranks = cases[i][1];
        shard(DEMO, fixture_in("other").text, &options);
        assert_true(fixture_same(fixture_in("reference").text, fixture_in("other").text));
        fixture_remove(fixture_in("other").text);
    }
}

static void data_files_are_no_larger_than_asked(void **state)
{
    (void)state;
    fail_t fail = {0};
    fixture_options_t options = fixture_options();
    options.store.file_bytes = 300000;
    store_t *store;
    shard(DEMO, fixture_in("store").text, &options);
    assert_int_equal(store_open(&store, fixture_in("store").text, NULL, NULL, &fail), 0);
    const store_manifest_t *manifest = store_manifest(store);
    assert_true(manifest->n_data >= 12);
    for (size_t i = 0; i < manifest->n_data; i++)
        assert_true(manifest->data[i].bytes <= 300000);
    store_close(store);
    options.store.file_bytes = 5000;
    assert_int_equal(fixture_shard(DEMO, fixture_in("tiny").text, &options, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "5000"));
}

static void layers_get_files_of_their_own(void **state)
{
    (void)state;
    fail_t fail = {0};
    fixture_options_t options = fixture_options();
    options.store.layers = 2;
    store_t *store;
    shard(DEMO, fixture_in("store").text, &options);
    assert_int_equal(store_open(&store, fixture_in("store").text, NULL, NULL, &fail), 0);
    const store_manifest_t *manifest = store_manifest(store);
    assert_int_equal(manifest->n_data, 4); /* the ends, and three pairs of layers */
    for (size_t s = 0; s < manifest->n_segments; s++) {
        const store_segment_t *segment = &manifest->segments[s];
        size_t layer;
        bool in_layer = sscanf(segment->name, "model.layers.%zu.", &layer) == 1;
        for (size_t b = 0; b < segment->n_blocks; b++)
            assert_int_equal(
                manifest->frames[segment->first_frame + b].data, in_layer ? 1 + layer / 2 : 0);
    }
    store_close(store);
}

static void blocks_follow_the_granules_of_the_plan(void **state)
{
    (void)state;
    fail_t fail = {0};
    fixture_options_t options = fixture_options();
    store_t *store;
    shard(DEMO, fixture_in("store").text, &options);
    assert_int_equal(store_open(&store, fixture_in("store").text, NULL, NULL, &fail), 0);
    const store_manifest_t *manifest = store_manifest(store);
    size_t embedding = store_find(store, 0, "model.embed_tokens.weight");
    size_t down = store_find(store, 0, "model.layers.3.mlp.down_proj.weight");
    assert_int_equal(manifest->segments[embedding].block_bytes, 64 * 192 * 2);
    assert_int_equal(manifest->segments[down].block_bytes, 16 * 512 * 2);
    assert_int_equal(store_find(store, 0, "nothing"), manifest->n_segments);
    store_close(store);
}

static void what_cannot_be_sharded_is_refused(void **state)
{
    (void)state;
    fixture_options_t options = fixture_options();
    fail_t fail = {0};
    mixed_store();
    assert_int_equal(
        fixture_shard(fixture_in("store").text, fixture_in("of-store").text, &options, &fail),
        FAIL_USAGE);
    fail = (fail_t){0};
    assert_int_equal(
        fixture_shard(fixture_in("nowhere").text, fixture_in("other").text, &options, &fail),
        FAIL_FILE);
    fail = (fail_t){0};
    assert_int_equal(
        fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail),
        FAIL_FILE);
    assert_non_null(strstr(fail.message, "found something"));
    fail = (fail_t){0};
    assert_int_equal(
        fixture_shard(fixture_in("model").text, "/proc/nowhere/store", &options, &fail), FAIL_FILE);
    assert_non_null(strstr(fail.message, "/proc/nowhere"));
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static double ratio_of(const char *path)
{
    fail_t fail = {0};
    store_t *store;
    uint64_t stored = 0, bytes = 0;
    assert_int_equal(store_open(&store, path, NULL, NULL, &fail), 0);
    const store_manifest_t *manifest = store_manifest(store);
    for (size_t i = 0; i < manifest->n_data; i++)
        stored += manifest->data[i].bytes;
    for (size_t i = 0; i < manifest->n_sources; i++)
        bytes += manifest->sources[i].bytes;
    store_close(store);
    return (double)stored / (double)bytes;
}

static void trained_weights_shrink_to_71_percent(void **state)
{
    (void)state;
    fixture_options_t options = fixture_options();
    shard(DEMO, fixture_in("demo").text, &options);
    assert_true(ratio_of(fixture_in("demo").text) <= 0.71);
}

static void normal_weights_of_any_scale_shrink_to_71_percent(void **state)
{
    (void)state;
    static const double scales[] = {1, 0.3, 0.02, 1e-4, 40};
    fixture_options_t options = fixture_options();
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        const fixture_tensor_t tensor = {"model.layers.0.w", "BF16", 256, 896, scales[i]};
        fixture_model(fixture_in("model").text, &tensor, 1, i);
        shard(fixture_in("model").text, fixture_in("store").text, &options);
        assert_true(ratio_of(fixture_in("store").text) <= 0.71);
        fixture_remove(fixture_in("model").text);
        fixture_remove(fixture_in("store").text);
    }
}

static void what_does_not_compress_is_stored_as_it_is(void **state)
{
    (void)state;
    fixture_options_t options = fixture_options();
    const fixture_tensor_t tensor = {"noise", "I8", 1 << 20, 0, 0};
    fixture_model(fixture_in("model").text, &tensor, 1, 3);
    shard(fixture_in("model").text, fixture_in("store").text, &options);
    double ratio = ratio_of(fixture_in("store").text);
    assert_true(ratio > 1 && ratio < 1.001);
}

static void higher_levels_are_never_larger(void **state)
{
    (void)state;
    static const int levels[] = {0, 1, 3, 19};
    uint64_t random = 1;
    size_t n = 16 * 192, before = SIZE_MAX;
    uint16_t *block = malloc(n * 2);
    fail_t fail = {0};
    store_codec_t *codec;
    fixture_normal(block, n, 0.02, &random);
    memcpy(block + n / 2, block, n); /* something for matches */
    assert_int_equal(store_codec_open(&codec, &fail), 0);
    unsigned char *frame = malloc(store_frame_bound(n * 2, STORE_PLANES_BF16));
    uint16_t *again = malloc(n * 2);
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        store_frame_head_t head = {.planes = STORE_PLANES_BF16}, found;
        size_t bytes;
        assert_int_equal(
            store_codec_encode(codec, levels[i], block, n * 2, &head, frame, &bytes, &fail), 0);
        before = i == 0 ? bytes : before; /* of level 0 */
        assert_true(bytes <= before);
        assert_int_equal(store_frame_open(&found, frame, bytes, "frame", &fail), 0);
        assert_int_equal(store_codec_decode(codec, &found, frame, again, "frame", &fail), 0);
        assert_memory_equal(block, again, n * 2);
    }
    free(again);
    free(frame);
    free(block);
    store_codec_close(codec);
}

/* ---- Places ---------------------------------------------------------------------------------- */

/* In a process without rights, so that root learns it too. */
static void a_read_only_store_is_read_and_checked(void **state)
{
    (void)state;
    mixed_store();
    size_t n;
    char **names = fixture_names(fixture_in("store").text, &n);
    for (size_t i = 0; i < n; i++)
        chmod(fixture_join(fixture_in("store").text, names[i]).text, 0444);
    fixture_free_names(names, n);
    chmod(fixture_in("store").text, 0555);
    chmod(fixture_here.text, 0755);
    pid_t child = fork();
    if (child == 0) {
        char message[512];
        fail_t fail = {0};
        if (getuid() == 0 && setuid(65534) != 0)
            _exit(4);
        if (access(fixture_in("store").text, W_OK) == 0)
            _exit(5);
        if (fixture_check(fixture_in("store").text, 2, message, sizeof message) != 0)
            _exit(6);
        _exit(fixture_load(fixture_in("store").text, &fail) == 0 ? 0 : 7);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)
    const struct CMUnitTest tests[] = {
        CASE(unpacking_gives_the_source_byte_for_byte),
        CASE(an_interrupted_check_says_so),
        CASE(the_demo_model_survives_a_round_trip),
        CASE(a_store_lists_the_tensors_that_the_source_lists),
        CASE(any_part_in_any_type_equals_the_source),
        CASE(bytes_of_tensors_without_rows_can_be_read),
        CASE(reading_a_part_reads_only_its_blocks),
        CASE(the_digest_tells_contents_apart),
        CASE(ranks_and_threads_do_not_change_a_byte),
        CASE(data_files_are_no_larger_than_asked),
        CASE(layers_get_files_of_their_own),
        CASE(blocks_follow_the_granules_of_the_plan),
        CASE(what_cannot_be_sharded_is_refused),
        CASE(trained_weights_shrink_to_71_percent),
        CASE(normal_weights_of_any_scale_shrink_to_71_percent),
        CASE(what_does_not_compress_is_stored_as_it_is),
        CASE(higher_levels_are_never_larger),
        CASE(a_read_only_store_is_read_and_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
