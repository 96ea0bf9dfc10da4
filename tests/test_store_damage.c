/* Shard stores that are broken, by accident or on purpose: every change is noticed, and no size
 * that a file claims is believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/memory.h"
#include "sharding/store/store.h"
#include "sharding/store/store_codec.h"
#include "tests/store_fixture.h"

static fixture_path_t in_store(const char *name)
{
    return fixture_join(fixture_in("store").text, name);
}

static void shard(const char *model, const char *out, uint64_t file_bytes)
{
    fail_t fail = {0};
    fixture_options_t options = fixture_options();
    options.store.file_bytes = file_bytes;
    if (fixture_shard(model, out, &options, &fail) != 0)
        fail_msg("%s", fail.message);
}

/* A few KB, in two data files. */
static void small_store(void)
{
    static const fixture_tensor_t tensors[] = {
        {"model.layers.0.a.weight", "BF16", 40, 24, 0.05},
        {"model.layers.0.b", "F32", 200, 0, 1},
        {"bits", "BF16", 17, 9, 0},
    };
    fixture_model(fixture_in("model").text, tensors, 3, 1);
    shard(fixture_in("model").text, fixture_in("store").text, 2500);
}

static char message[FAIL_MESSAGE_BYTES];

static size_t problems(void)
{
    return fixture_check(fixture_in("store").text, 1, message, sizeof message);
}

/* ---- Flipped bytes --------------------------------------------------------------------------- */

static void every_flipped_byte_of_a_small_store_is_noticed(void **state)
{
    (void)state;
    size_t n_files, n_bytes = 0;
    small_store();
    assert_int_equal(problems(), 0);
    char **names = fixture_names(fixture_in("store").text, &n_files);
    assert_int_equal(n_files, 4); /* manifest, config.json, two data files */
    for (size_t i = 0; i < n_files; i++) {
        size_t bytes;
        fixture_path_t path = in_store(names[i]);
        unsigned char *data = fixture_read(path.text, &bytes);
        for (size_t at = 0; at < bytes; at++) {
            fail_t fail = {0};
            unsigned char was = data[at];
            /* All bits in turn, and all together now and then. */
            data[at] ^= at % 9 == 8 ? 0xff : (unsigned char)(1 << at % 9);
            fixture_write(path.text, data, bytes);
            if (problems() == 0)
                fail_msg("%s: byte %zu: the check did not notice", names[i], at);
            if (fixture_load(fixture_in("store").text, &fail) == 0)
                fail_msg("%s: byte %zu: loading did not notice", names[i], at);
            bool small = strstr(names[i], ".json") != NULL;
            fail = (fail_t){0};
            if ((store_check_copied(fixture_in("store").text, &fail) != 0) != small)
                fail_msg("%s: byte %zu: store_check_copied is wrong", names[i], at);
            data[at] = was;
        }
        fixture_write(path.text, data, bytes);
        n_bytes += bytes;
        free(data);
    }
    assert_true(n_bytes > 4000 && n_bytes < 16000);
    assert_int_equal(problems(), 0);
    fixture_free_names(names, n_files);
}

static void two_thousand_random_flips_of_a_larger_store_are_noticed(void **state)
{
    (void)state;
    static const fixture_tensor_t tensors[] = {
        {"model.embed_tokens.weight", "BF16", 640, 256, 0.02},
        {"model.layers.0.mlp.weight", "BF16", 300, 512, 0.05},
        {"model.layers.0.norm", "F32", 5000, 0, 1},
    };
    fixture_model(fixture_in("model").text, tensors, 3, 1);
    shard(fixture_in("model").text, fixture_in("store").text, 300000);
    uint64_t random = 11;
    size_t n_files;
    char **names = fixture_names(fixture_in("store").text, &n_files);
    for (size_t i = 0; i < 2000; i++) {
        struct stat info;
        /* By size: mostly data files. */
        size_t file = fixture_random(&random) % 20 == 0 ? fixture_random(&random) % n_files
                                                        : 2 + fixture_random(&random) % 3;
        fixture_path_t path = in_store(names[file]);
        assert_int_equal(stat(path.text, &info), 0);
        long at = (long)(fixture_random(&random) % (uint64_t)info.st_size);
        unsigned char bit = (unsigned char)(1 << fixture_random(&random) % 8);
        FILE *stream = fopen(path.text, "r+b");
        for (int again = 0; again < 2; again++) {
            fseek(stream, at, SEEK_SET);
            int byte = fgetc(stream);
            fseek(stream, at, SEEK_SET);
            fputc(byte ^ bit, stream);
            fflush(stream);
            if (again == 0 && problems() == 0)
                fail_msg("%s: byte %ld: not noticed", names[file], at);
        }
        fclose(stream);
    }
    assert_int_equal(problems(), 0);
    fixture_free_names(names, n_files);
}

static void a_bad_block_is_named_by_file_tensor_and_rows(void **state)
{
    (void)state;
    static const fixture_tensor_t tensor = {"model.layers.0.mlp.weight", "BF16", 64, 512, 0.05};
    fixture_model(fixture_in("model").text, &tensor, 1, 1);
    shard(fixture_in("model").text, fixture_in("store").text, 1 << 20);
    fail_t fail = {0};
    store_t *store;
    assert_int_equal(store_open(&store, fixture_in("store").text, NULL, NULL, &fail), 0);
    const store_manifest_t *manifest = store_manifest(store);
    size_t segment = store_find(store, 0, "model.layers.0.mlp.weight");
    const store_frame_t *frame = &manifest->frames[manifest->segments[segment].first_frame + 2];
    size_t bytes;
    unsigned char *data = fixture_read(in_store("data-00000.choir").text, &bytes);
    data[frame->offset + frame->bytes / 2] ^= 4;
    fixture_write(in_store("data-00000.choir").text, data, bytes);
    free(data);
    store_close(store);
    assert_int_equal(problems(), 1);
    assert_non_null(strstr(message, "data-00000.choir"));
    assert_non_null(strstr(message, "model.layers.0.mlp.weight"));
    assert_non_null(strstr(message, "rows 32 to 47"));
    assert_non_null(strstr(message, "checksum"));
    /* Loading names it too. */
    assert_int_equal(fixture_load(fixture_in("store").text, &fail), FAIL_FORMAT);
    assert_non_null(strstr(fail.message, "rows 32 to 47"));
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void shorter_and_longer_files_are_noticed_by_name(void **state)
{
    (void)state;
    static const double parts[] = {0, 0.01, 0.5, 0.99, -1, 2};
    size_t n_files;
    small_store();
    char **names = fixture_names(fixture_in("store").text, &n_files);
    for (size_t i = 0; i < n_files; i++) {
        size_t bytes;
        fixture_path_t path = in_store(names[i]);
        unsigned char *data = fixture_read(path.text, &bytes);
        unsigned char *longer = malloc(bytes + 1);
        memcpy(longer, data, bytes);
        longer[bytes] = '\n';
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            fail_t fail = {0};
            size_t n = parts[p] < 0   ? bytes - 1
                       : parts[p] > 1 ? bytes + 1
                                      : (size_t)((double)bytes * parts[p]);
            fixture_write(path.text, longer, n);
            assert_int_not_equal(problems(), 0);
            assert_non_null(strstr(message, names[i]));
            assert_int_not_equal(fixture_load(fixture_in("store").text, &fail), 0);
            assert_non_null(strstr(fail.message, names[i]));
        }
        unlink(path.text);
        assert_int_not_equal(problems(), 0);
        fixture_write(path.text, data, bytes);
        free(data);
        free(longer);
    }
    assert_int_equal(problems(), 0);
    fixture_free_names(names, n_files);
}

static void files_of_two_stores_do_not_mix(void **state)
{
    (void)state;
    static const fixture_tensor_t tensors[] = {
        {"model.layers.0.a.weight", "BF16", 40, 24, 0.05},
        {"model.layers.0.b", "BF16", 40, 24, 0.05},
    };
    fail_t fail = {0};
    size_t bytes;
    /* The same shapes and headers, so that nothing but contents tells them apart. */
    fixture_model(fixture_in("model").text, tensors, 2, 1);
    fixture_model(fixture_in("model-b").text, tensors, 2, 2);
    shard(fixture_in("model").text, fixture_in("store").text, 2500);
    shard(fixture_in("model-b").text, fixture_in("store-b").text, 2500);
    unsigned char *other =
        fixture_read(fixture_join(fixture_in("store-b").text, "data-00001.choir").text, &bytes);
    fixture_write(in_store("data-00001.choir").text, other, bytes);
    free(other);
    assert_int_equal(fixture_load(fixture_in("store").text, &fail), FAIL_FORMAT);
    assert_non_null(strstr(fail.message, "data-00001.choir"));
    assert_int_not_equal(problems(), 0);
    /* And files of one store in another order. */
    fixture_remove(fixture_in("store").text);
    shard(fixture_in("model").text, fixture_in("store").text, 2500);
    other = fixture_read(in_store("data-00000.choir").text, &bytes);
    fixture_write(in_store("data-00001.choir").text, other, bytes);
    free(other);
    assert_int_not_equal(problems(), 0);
    assert_non_null(strstr(message, "data-00001.choir"));
}

/* ---- Lies ------------------------------------------------------------------------------------ */

/* An edited manifest, whose checksum is right, is refused with this word in the message. */
static void refuses(const char *from, const char *to, const char *word)
{
    fail_t fail = {0};
    size_t bytes, before = memory_peak_bytes();
    unsigned char *manifest = fixture_read(in_store(STORE_MANIFEST).text, &bytes);
    fixture_edit_manifest(fixture_in("store").text, from, to);
    if (fixture_load(fixture_in("store").text, &fail) != FAIL_FORMAT)
        fail_msg("%s to %s: status %d, %s", from, to, fail.status, fail.message);
    if (strstr(fail.message, word) == NULL)
        fail_msg("%s to %s: expected \"%s\" in: %s", from, to, word, fail.message);
    assert_int_not_equal(problems(), 0);
    /* Nothing was taken on a manifest's word. */
    assert_true(memory_peak_bytes() - before < (size_t)64 << 20);
    fixture_write(in_store(STORE_MANIFEST).text, manifest, bytes);
    free(manifest);
}

/* model.layers.0.a.weight is [40, 24]: 1,920 bytes in one block. */
static void sizes_are_refused_before_memory_is_taken(void **state)
{
    (void)state;
    small_store();
    refuses("\"bytes\":1920", "\"bytes\":1125899906842624", "expected");
    refuses("\"bytes\":1920", "\"bytes\":9000000000000000000", "bytes");
    refuses("\"bytes\":1920", "\"bytes\":-1", "bytes");
    refuses("\"bytes\":1920", "\"bytes\":1918", "expected");
    refuses("\"block_bytes\":1920", "\"block_bytes\":4294967296", "blocks");
    refuses("\"block_bytes\":1920", "\"block_bytes\":16777218", "blocks");
    refuses("\"block_bytes\":1920", "\"block_bytes\":2", "960 frames");
    refuses("\"block_bytes\":1920", "\"block_bytes\":0", "blocks");
    refuses("\"block_bytes\":1920", "\"block_bytes\":1919", "blocks");
    refuses("\"shape\":[40,24]", "\"shape\":[40,1152921504606846976]", "manifest says");
    refuses("\"shape\":[40,24]", "\"shape\":[24,40]", "manifest says");
    refuses("\"shape\":[40,24]", "\"shape\":[1,1,1,1,1,1,1,40,24]", "shape");
    refuses("\"shape\":[40,24]", "\"shape\":[40,-24]", "shape");
    refuses("\"dtype\":\"BF16\"", "\"dtype\":\"F16\"", "manifest says");
    refuses("\"planes\":16", "\"planes\":2", "another block");
    refuses("\"planes\":16", "\"planes\":3", "planes");
    refuses("\"planes\":16", "\"planes\":4294967312", "planes");
    refuses("\"stored\":[", "\"stored\":[1000000000,", "frames");
    refuses("\"stored\":[", "\"stored\":[],\"other\":[", "frames");
    refuses("\"source\":0", "\"source\":1", "source");
}

static void places_and_names_are_checked(void **state)
{
    (void)state;
    small_store();
    refuses("\"offset\":64", "\"offset\":0", "side by side");
    refuses("\"offset\":64", "\"offset\":65", "side by side");
    refuses("\"offset\":64", "\"offset\":1000000000000", "side by side");
    refuses("\"data\":0", "\"data\":1", "side by side");
    refuses("\"data\":0", "\"data\":2", "extents");
    refuses("\"name\":\"config.json\"", "\"name\":\"../config.json\"", "beside the manifest");
    refuses("\"name\":\"config.json\"", "\"name\":\"\"", "beside the manifest");
    refuses("\"name\":\"config.json\"", "\"name\":\"choir-store.json\"", "another name");
    refuses("\"name\":\"model.safetensors\"", "\"name\":\"/etc/passwd\"", "beside the manifest");
    refuses("\"name\":\"data-00001.choir\"", "\"name\":\"data-00000.choir\"", "data-00001");
    refuses("\"name\":\"bits\"", "\"name\":\"bytes\"", "manifest says");
    refuses("\"name\":\"bits\"", "\"name\":\"\"", "segments");
    refuses("\"name\":\"bits\"", "\"name\":3", "text");
    refuses("\"name\":\"bits\"", "\"name\":\"bits\\u0000\"", "text");
    refuses("\"copied\":[", "\"copied\":3,\"other\":[", "copied");
    refuses("\"segments\":[", "\"segments\":[],\"other\":[", "segments");
    refuses("\"segments\":[", "\"segments\":[3,", "segment");
    refuses("\"checksums\":\"", "\"checksums\":\"0", "checksum");
    refuses("\"digest\":\"", "\"digest\":\"G", "hexadecimal");
}

static void digests_that_lie_are_noticed_by_a_check(void **state)
{
    (void)state;
    size_t bytes;
    small_store();
    char *text = (char *)fixture_read(in_store(STORE_MANIFEST).text, &bytes), digest[40];
    text[bytes] = 0;
    /* The header's digest is the first in the list of segments. */
    const char *place = strstr(strstr(text, "\"segments\""), "\"digest\":\"");
    snprintf(digest, sizeof digest, "%.27s", place);
    fixture_edit_manifest(fixture_in("store").text, digest, "\"digest\":\"0123456789abcdef\"");
    free(text);
    assert_int_equal(problems(), 2); /* the segment, and the source of which it is part */
    assert_non_null(strstr(message, "digest"));
}

static void unknown_versions_are_refused(void **state)
{
    (void)state;
    size_t bytes;
    small_store();
    refuses("\"version\":1", "\"version\":2", "version: expected 1, found 2");
    refuses("\"version\":1", "\"version\":\"1\"", "version");
    refuses("\"format\":\"choir-store\"", "\"format\":\"gguf\"", "format");
    unsigned char *data = fixture_read(in_store("data-00000.choir").text, &bytes);
    store_file_head_t head;
    fail_t fail = {0};
    assert_int_equal(store_head_read(&head, data, "file", &fail), 0);
    head.version = 7;
    store_head_write(&head, data);
    fixture_write(in_store("data-00000.choir").text, data, bytes);
    free(data);
    assert_int_equal(fixture_load(fixture_in("store").text, &fail), FAIL_FORMAT);
    assert_non_null(strstr(fail.message, "version 1, found 7"));
}

/* A frame of 1 MiB of zeros that takes a hundred bytes, and says that it is less. */
static void frames_that_unpack_to_more_than_they_say_are_refused(void **state)
{
    (void)state;
    size_t n = 1 << 20, bytes;
    fail_t fail = {0};
    store_codec_t *codec;
    unsigned char *zeros = calloc(n, 1), *frame = malloc(store_frame_bound(n, 0)), block[4096];
    store_frame_head_t head = {.planes = STORE_PLANES_NONE};
    assert_int_equal(store_codec_open(&codec, &fail), 0);
    assert_int_equal(store_codec_encode(codec, 0, zeros, n, &head, frame, &bytes, &fail), 0);
    assert_true(bytes < 200);
    head.block_bytes = sizeof block;
    head.payload_bytes = (uint32_t)(bytes - STORE_FRAME_HEAD_BYTES);
    store_frame_seal(&head, frame);
    assert_int_equal(store_frame_open(&head, frame, bytes, "frame", &fail), 0);
    assert_int_equal(store_codec_decode(codec, &head, frame, block, "frame", &fail), FAIL_FORMAT);
    /* And one that says more than a block may have. */
    head.block_bytes = STORE_MAX_BLOCK_BYTES + 1;
    store_frame_seal(&head, frame);
    fail = (fail_t){0};
    assert_int_equal(store_frame_open(&head, frame, bytes, "frame", &fail), FAIL_FORMAT);
    store_codec_close(codec);
    free(zeros);
    free(frame);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_set_up, fixture_tear_down)
    const struct CMUnitTest tests[] = {
        CASE(every_flipped_byte_of_a_small_store_is_noticed),
        CASE(two_thousand_random_flips_of_a_larger_store_are_noticed),
        CASE(a_bad_block_is_named_by_file_tensor_and_rows),
        CASE(shorter_and_longer_files_are_noticed_by_name),
        CASE(files_of_two_stores_do_not_mix),
        CASE(sizes_are_refused_before_memory_is_taken),
        CASE(places_and_names_are_checked),
        CASE(digests_that_lie_are_noticed_by_a_check),
        CASE(unknown_versions_are_refused),
        CASE(frames_that_unpack_to_more_than_they_say_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
