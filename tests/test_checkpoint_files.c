/* Which files of a model directory a checkpoint is made of: what wins where two say the same, and
 * what is refused. Compared with transformers by oracle/checkpoints.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "sharding/checkpoint/checkpoint.h"
#include "tests/checkpoint_fixture.h"

/* ---- Directory and index --------------------------------------------------------------------- */

static void missing_directory_and_files_are_named(void **state)
{
    (void)state;
    checkpoint_t *checkpoint;
    fail_t fail = {0};
    assert_int_equal(checkpoint_open(&checkpoint, "/nonexistent/model", &fail), FAIL_FILE);
    check_message(&fail, (const char *[]){"/nonexistent/model: expected a model directory"}, 1);
    fail = (fail_t){0};
    assert_int_equal(checkpoint_open(&checkpoint, "/dev/null", &fail), FAIL_FILE);
    check_message(
        &fail, (const char *[]){"expected a model directory, found a character device"}, 1);
    expect_failure(FAIL_FILE, directory, "expected " SINGLE " or " INDEX, "found neither");
    write_text("pytorch_model.bin", "");
    expect_failure(FAIL_FILE, directory, "found neither", "convert it to safetensors");
    write_text("model.gguf", "");
    expect_failure(FAIL_FILE, directory, "found neither", ".gguf files cannot be read");
    write_text("model-00001-of-00002.safetensors", "");
    expect_failure(FAIL_FILE, directory, "found neither", "is the index missing?");
    fail = (fail_t){0};
    assert_int_equal(checkpoint_open_file(&checkpoint, "/nonexistent/file", &fail), FAIL_FILE);
    check_message(&fail, (const char *[]){"/nonexistent/file: cannot open", "No such file"}, 2);
}

static void what_is_no_regular_file_is_refused_at_once(void **state)
{
    static const char *const names[] = {SINGLE, INDEX};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(mkdir(path_of(names[i]), 0700), 0);
        expect_failure(FAIL_FILE, names[i], "expected a regular file", "found a directory");
        assert_int_equal(rmdir(path_of(names[i])), 0);
        /* Opening it would wait for somebody who writes. */
        assert_int_equal(mkfifo(path_of(names[i]), 0600), 0);
        expect_failure(FAIL_FILE, names[i], "expected a regular file", "found a FIFO");
        remove_files(state);
        assert_int_equal(symlink("/dev/zero", path_of(names[i])), 0);
        expect_failure(FAIL_FILE, names[i], "expected a regular file", "found a character device");
        remove_files(state);
    }
    checkpoint_t *checkpoint;
    fail_t fail = {0};
    assert_int_equal(mkfifo(path_of("reference"), 0600), 0);
    assert_int_equal(checkpoint_open_file(&checkpoint, path_of("reference"), &fail), FAIL_FILE);
    check_message(&fail, (const char *[]){"reference: expected a regular file", "a FIFO"}, 2);
}

static void write_two_files(void)
{
    static const float a[] = {1, 2, 3, 4}, b[] = {5, 6};
    write_tensors("a.safetensors",
        "{\"__metadata__\":{\"which\":\"first\"}," F32_AT("x", "[2]", 0, 8) "," F32_AT(
            "unnamed", "[2]", 8, 16) "}",
        a, sizeof a);
    write_tensors("b.safetensors", "{" F32_AT("w", "[2]", 0, 8) "}", b, sizeof b);
}

static float first_value(const checkpoint_t *checkpoint, const char *name)
{
    float values[2];
    fail_t fail = {0};
    const checkpoint_tensor_t *tensor = checkpoint_find(checkpoint, name);
    assert_non_null(tensor);
    assert_int_equal(checkpoint_read((checkpoint_t *)(uintptr_t)checkpoint, tensor, 0, 2, 0, 1,
                         values, DTYPE_F32, NULL, &fail),
        0);
    return values[0];
}

static void an_index_joins_all_tensors_of_its_files(void **state)
{
    (void)state;
    write_two_files();
    write_text(INDEX, "{\"metadata\":{\"total_size\":16},"
                      "\"weight_map\":{\"x\":\"a.safetensors\",\"w\":\"b.safetensors\"}}");
    checkpoint_t *checkpoint = open_directory();
    assert_int_equal(checkpoint_count(checkpoint), 3); /* "unnamed" counts too */
    assert_string_equal(checkpoint_at(checkpoint, 0)->name, "unnamed");
    assert_string_equal(checkpoint_at(checkpoint, 1)->name, "w");
    assert_string_equal(checkpoint_at(checkpoint, 2)->name, "x");
    assert_string_equal(checkpoint_find(checkpoint, "w")->file, path_of("b.safetensors"));
    assert_string_equal(checkpoint_metadata(checkpoint, "which"), "first");
    assert_true(first_value(checkpoint, "w") == 5 && first_value(checkpoint, "x") == 1);
    assert_false(checkpoint_ignored_index(checkpoint));
    checkpoint_close(checkpoint);
}

static void the_index_only_names_files(void **state)
{
    (void)state;
    write_two_files();
    /* Absent tensors, tensors in another file, and of a key given twice the last one. */
    write_text(INDEX, "{\"weight_map\":{\"absent\":\"a.safetensors\",\"x\":\"c.safetensors\","
                      "\"x\":\"b.safetensors\"}}");
    checkpoint_t *checkpoint = open_directory();
    assert_int_equal(checkpoint_count(checkpoint), 3);
    assert_null(checkpoint_find(checkpoint, "absent"));
    assert_true(first_value(checkpoint, "x") == 1);
    checkpoint_close(checkpoint);
}

static void the_single_file_wins_over_the_index(void **state)
{
    (void)state;
    write_two_files();
    write_tensors(SINGLE, "{" F32_AT("x", "[2]", 0, 8) "}", (const float[]){7, 8}, 8);
    write_text(INDEX, "{\"weight_map\":{\"x\":\"a.safetensors\",\"w\":\"b.safetensors\"}}");
    checkpoint_t *checkpoint = open_directory();
    assert_int_equal(checkpoint_count(checkpoint), 1);
    assert_true(first_value(checkpoint, "x") == 7);
    assert_true(checkpoint_ignored_index(checkpoint));
    checkpoint_close(checkpoint);
}

static void of_a_tensor_in_two_files_the_last_one_counts(void **state)
{
    (void)state;
    write_two_files();
    write_tensors("0.safetensors", "{" F32_AT("x", "[2]", 0, 8) "," F32_AT("w", "[2]", 8, 16) "}",
        (const float[]){10, 11, 12, 13}, 16);
    write_text(INDEX, "{\"weight_map\":{\"x\":\"0.safetensors\",\"w\":\"0.safetensors\","
                      "\"y\":\"a.safetensors\"}}");
    checkpoint_t *checkpoint = open_directory();
    assert_int_equal(checkpoint_count(checkpoint), 3);
    assert_true(first_value(checkpoint, "x") == 1 && first_value(checkpoint, "w") == 12);
    checkpoint_close(checkpoint);
}

static void a_weight_is_found_by_any_of_its_names(void **state)
{
    (void)state;
    write_tensors(SINGLE,
        "{" F32_AT("lm_head.weight", "[2]", 0, 8) "," F32_AT("norm.weight", "[2]", 8,
            16) "," F32_AT("model.layers.0.x", "[2]", 16, 24) "," F32_AT("layers.0.x", "[2]", 24,
            32) "," F32_AT("model.model.layers.1.x", "[2]", 32, 40) "}",
        NULL, 40);
    checkpoint_t *checkpoint = open_directory();
    static const char *const found[][2] = {{"model.norm.weight", "norm.weight"},
        {"model.layers.0.x", "layers.0.x"}, {"model.layers.1.x", "model.model.layers.1.x"},
        {"lm_head.weight", "lm_head.weight"}, {"model.embed_tokens.weight", "lm_head.weight"}};
    for (size_t i = 0; i < sizeof found / sizeof *found; i++)
        assert_string_equal(checkpoint_find_weight(checkpoint, found[i][0])->name, found[i][1]);
    assert_null(checkpoint_find_weight(checkpoint, "model.layers.2.x"));
    assert_null(checkpoint_find_weight(checkpoint, "norm.weight.x"));
    checkpoint_close(checkpoint);
}

static void bad_indexes_are_refused(void **state)
{
    (void)state;
    write_two_files();
    write_text(INDEX, "{\"weight_map\":{\"x\":\"a.safetensors\",\"w\":\"c.safetensors\"}}");
    expect_failure(FAIL_FILE, INDEX ": weight_map", "expected the file c.safetensors, for tensor w",
        "found none");
    write_text(INDEX, "{\"weight_map\":{\"x\":\"../a.safetensors\"}}");
    expect_failure(
        FAIL_FORMAT, INDEX ": weight_map: x", "a file beside the index", "found ../a.safetensors");
    write_text(INDEX, "{\"weight_map\":{\"x\":4}}");
    expect_failure(FAIL_FORMAT, INDEX ": weight_map: x", "name of a file", "found something else");
    write_text(INDEX, "{\"weight_map\":{}}");
    expect_failure(FAIL_FORMAT, INDEX ": weight_map", "a file name for each", "found an empty one");
    write_text(INDEX, "{\"metadata\":{}}");
    expect_failure(FAIL_FORMAT, INDEX ": weight_map", "a file name for each", "found none");
    write_text(INDEX, "[]");
    expect_failure(FAIL_FORMAT, INDEX ": weight_map", "a file name for each", "found none");
    write_text(INDEX, "{");
    expect_failure(FAIL_FORMAT, INDEX, "not valid JSON", "line 1");
    /* A broken file behind a sound index. */
    write_text(INDEX, "{\"weight_map\":{\"x\":\"a.safetensors\"}}");
    write_text("a.safetensors", "short");
    expect_failure(FAIL_FORMAT, "a.safetensors: truncated", "at least the 8 bytes", "found 5");
}

static uint64_t digest_of(const char *header, size_t n_data)
{
    write_tensors(SINGLE, header, NULL, n_data);
    checkpoint_t *checkpoint = open_directory();
    uint64_t digest = checkpoint_digest(checkpoint);
    checkpoint_close(checkpoint);
    return digest;
}

static void digest_tells_names_shapes_dtypes_and_offsets_apart(void **state)
{
    (void)state;
    const uint64_t digests[] = {
        digest_of("{" F32_AT("a", "[2]", 0, 8) "," F32_AT("b", "[2]", 8, 16) "}", 16),
        digest_of("{" F32_AT("b", "[2]", 0, 8) "," F32_AT("a", "[2]", 8, 16) "}", 16),
        digest_of("{" F32_AT("a", "[2]", 0, 8) "," F32_AT("c", "[2]", 8, 16) "}", 16),
        digest_of("{" F32_AT("a", "[1,2]", 0, 8) "," F32_AT("b", "[2]", 8, 16) "}", 16),
        digest_of("{" F32_AT("a", "[2,1]", 0, 8) "," F32_AT("b", "[2]", 8, 16) "}", 16),
        digest_of("{\"a\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}," F32_AT(
                      "b", "[2]", 8, 16) "}",
            16),
        digest_of("{" F32_AT("a", "[2]", 0, 8) "}", 8),
    };
    for (size_t i = 0; i < sizeof digests / sizeof *digests; i++)
        for (size_t j = 0; j < i; j++)
            assert_true(digests[i] != digests[j]);
    assert_int_equal(
        digest_of("{" F32_AT("a", "[2]", 0, 8) "," F32_AT("b", "[2]", 8, 16) "}", 16), digests[0]);
}

static void the_demo_model_opens_and_its_tensors_add_up(void **state)
{
    (void)state;
    checkpoint_t *checkpoint;
    fail_t fail = {0};
    if (checkpoint_open(&checkpoint, CHOIR_SOURCE_DIR "/configs/demo", &fail) != 0)
        fail_msg("%s", fail.message);
    uint64_t bytes = 0;
    for (size_t i = 0; i < checkpoint_count(checkpoint); i++)
        bytes += checkpoint_at(checkpoint, i)->size_bytes;
    assert_int_equal(bytes, 2 * 2756928);
    const checkpoint_tensor_t *tensor;
    assert_int_equal(
        checkpoint_get(checkpoint, "model.embed_tokens.weight", 2048, 192, &tensor, &fail), 0);
    assert_int_equal(
        checkpoint_get(checkpoint, "model.layers.5.self_attn.k_proj.bias", 64, 0, &tensor, &fail),
        0);
    checkpoint_close(checkpoint);
}

#define CASE(f) cmocka_unit_test_teardown(f, remove_files)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(missing_directory_and_files_are_named),
        CASE(what_is_no_regular_file_is_refused_at_once),
        CASE(an_index_joins_all_tensors_of_its_files),
        CASE(the_index_only_names_files),
        CASE(the_single_file_wins_over_the_index),
        CASE(of_a_tensor_in_two_files_the_last_one_counts),
        CASE(a_weight_is_found_by_any_of_its_names),
        CASE(bad_indexes_are_refused),
        CASE(digest_tells_names_shapes_dtypes_and_offsets_apart),
        CASE(the_demo_model_opens_and_its_tensors_add_up),
    };
    return cmocka_run_group_tests_name("checkpoint files", tests, make_directory, remove_directory);
}
