/* Making a shard store in a world that interrupts: kills, torn files, full disks, others at work.
 * What comes out in the end is always the same bytes. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/clock.h"
#include "sharding/store/store.h"
#include "tests/store_fixture.h"

/* About 3 MB in six data files; level 3 makes it slow enough to be hit. */
static fixture_options_t options_of_model(void)
{
    fixture_options_t options = fixture_options();
    options.store = (store_options_t){.level = 3, .file_bytes = 700000};
    return options;
}

static int set_up(void **state)
{
    static const fixture_tensor_t tensors[] = {
        {"model.embed_tokens.weight", "BF16", 1024, 256, 0.02},
        {"model.layers.0.w", "BF16", 1000, 512, 0.05},
        {"model.layers.0.norm", "F32", 30000, 0, 1},
        {"model.layers.1.w", "F32", 700, 300, 0.05},
    };
    fixture_set_up(state);
    fixture_model(fixture_in("model").text, tensors, sizeof tensors / sizeof *tensors, 1);
    return 0;
}

static uint64_t make_reference(void)
{
    fail_t fail = {0};
    fixture_options_t options = options_of_model();
    uint64_t begin = clock_ns();
    if (fixture_shard(fixture_in("model").text, fixture_in("reference").text, &options, &fail) != 0)
        fail_msg("%s", fail.message);
    return clock_ns() - begin;
}

/* In a process of its own, which ends with the positive of the status. */
static pid_t start_shard(rlim_t file_limit)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    fail_t fail = {0};
    fixture_options_t options = options_of_model();
    if (file_limit != RLIM_INFINITY) {
        struct rlimit limit = {file_limit, file_limit};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail);
    fixture_write(fixture_in("message").text, fail.message, strlen(fail.message) + 1);
    _exit(-fail.status);
}

/* The exit status, or -1 when it was killed. */
static int await(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool finished(void)
{
    return access(fixture_in("store").text, F_OK) == 0;
}

/* The folder that an interrupted run leaves. */
static bool find_partial(fixture_path_t *path)
{
    size_t n;
    bool found = false;
    char **names = fixture_names(fixture_here.text, &n);
    for (size_t i = 0; i < n; i++)
        if (strncmp(names[i], "store.partial-", 14) == 0) {
            *path = fixture_in(names[i]);
            found = true;
        }
    fixture_free_names(names, n);
    return found;
}

static void expect_reference(void)
{
    fixture_path_t partial;
    assert_true(fixture_same(fixture_in("reference").text, fixture_in("store").text));
    assert_false(find_partial(&partial));
}

/* ---- Kills ----------------------------------------------------------------------------------- */

static void sleep_ns(uint64_t ns)
{
    struct timespec pause = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    nanosleep(&pause, NULL);
}

/* What a power cut may leave of files that were being written. */
static void tear_a_file(uint64_t *random)
{
    fixture_path_t partial;
    char name[STORE_DATA_NAME_BYTES];
    struct stat info;
    if (!find_partial(&partial))
        return;
    store_data_name(fixture_random(random) % 6, name);
    fixture_path_t path = fixture_join(partial.text, name);
    if (stat(path.text, &info) != 0 || info.st_size < 1000)
        return;
    long at = (long)(fixture_random(random) % (uint64_t)(info.st_size - 500));
    if (fixture_random(random) % 2 == 0) {
        assert_int_equal(truncate(path.text, at), 0);
        return;
    }
    static const char zeros[500];
    FILE *file = fopen(path.text, "r+b");
    fseek(file, at, SEEK_SET);
    fwrite(zeros, 1, sizeof zeros, file);
    fclose(file);
}

/* CHOIR_TEST_KILLS kills, 10 when it is not set. */
static void kills_at_random_moments_do_not_change_a_byte(void **state)
{
    (void)state;
    const char *wish = getenv("CHOIR_TEST_KILLS");
    size_t kills = 0, n = wish == NULL ? 10 : (size_t)strtoul(wish, NULL, 10);
    uint64_t random = 3, run_ns = make_reference();
    while (kills < n) {
        pid_t child = start_shard(RLIM_INFINITY);
        sleep_ns(fixture_random(&random) % run_ns);
        kill(child, SIGKILL);
        if (await(child) == -1) {
            kills++;
            if (kills % 3 == 0 && !finished())
                tear_a_file(&random);
        }
        if (finished()) {
            expect_reference();
            fixture_remove(fixture_in("store").text);
        }
    }
    assert_int_equal(await(start_shard(RLIM_INFINITY)), 0);
    expect_reference();
}

static void what_is_finished_is_kept(void **state)
{
    (void)state;
    fixture_path_t partial;
    struct stat before, after;
    make_reference();
    /* Room for the first blocks only. */
    assert_int_equal(await(start_shard(400000)), -FAIL_FILE);
    assert_true(find_partial(&partial));
    fixture_path_t first = fixture_join(partial.text, "data-00000.choir");
    assert_int_equal(stat(first.text, &before), 0);
    assert_true(before.st_size > 100000);
    assert_int_equal(await(start_shard(RLIM_INFINITY)), 0);
    assert_int_equal(
        stat(fixture_join(fixture_in("store").text, "data-00000.choir").text, &after), 0);
    assert_true(before.st_ino == after.st_ino); /* the same file, gone on with */
    expect_reference();
}

static size_t questions, patience;

static bool lose_patience(void)
{
    return questions++ >= patience;
}

/* After so many batches, or frames of an earlier attempt. */
static void interrupts_anywhere_keep_what_is_finished_and_remove_nothing(void **state)
{
    (void)state;
    fixture_path_t partial;
    fixture_options_t options = options_of_model();
    uint64_t most = 0;
    make_reference();
    options.interrupted = lose_patience;
    for (patience = 0; !finished(); patience++) {
        fail_t fail = {0};
        struct stat info;
        uint64_t bytes = 0;
        questions = 0;
        if (fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail) == 0)
            break;
        assert_int_equal(fail.status, FAIL_INTERRUPTED);
        assert_true(find_partial(&partial));
        assert_non_null(strstr(fail.message, partial.text));
        for (size_t d = 0; d < 6; d++) {
            char name[STORE_DATA_NAME_BYTES];
            store_data_name(d, name);
            if (stat(fixture_join(partial.text, name).text, &info) == 0)
                bytes += (uint64_t)info.st_size;
        }
        assert_true(bytes >= most);
        most = bytes;
    }
    assert_true(patience > 6 && most > 1000000);
    expect_reference();
}

static void another_source_does_not_go_on_with_the_first_ones_blocks(void **state)
{
    (void)state;
    fail_t fail = {0};
    fixture_path_t partial;
    fixture_options_t options = options_of_model();
    size_t bytes;
    assert_int_equal(await(start_shard(400000)), -FAIL_FILE);
    assert_true(find_partial(&partial));
    /* The same headers, other values. */
    fixture_path_t source = fixture_join(fixture_in("model").text, "model.safetensors");
    unsigned char *data = fixture_read(source.text, &bytes);
    data[bytes - 1] ^= 1;
    data[1000] ^= 1;
    fixture_write(source.text, data, bytes);
    free(data);
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1234567}};
    assert_int_equal(utimensat(AT_FDCWD, source.text, times, 0), 0);
    assert_int_equal(
        fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail), 0);
    assert_int_equal(fixture_unpack(fixture_in("store").text, fixture_in("again").text, &fail), 0);
    assert_true(fixture_same(fixture_in("model").text, fixture_in("again").text));
}

/* ---- Room ------------------------------------------------------------------------------------ */

static void a_disk_that_fills_up_ends_it_with_one_message(void **state)
{
    (void)state;
    size_t bytes;
    make_reference();
    assert_int_equal(await(start_shard(300000)), -FAIL_FILE);
    char *text = (char *)fixture_read(fixture_in("message").text, &bytes);
    assert_non_null(strstr(text, "data-00000.choir"));
    assert_non_null(strstr(text, "no room"));
    free(text);
    assert_false(finished());
    assert_int_equal(await(start_shard(RLIM_INFINITY)), 0);
    expect_reference();
}

static void a_full_disk_is_refused_before_anything_is_written(void **state)
{
    (void)state;
    fail_t fail = {0};
    fixture_path_t partial;
    fixture_options_t options = options_of_model();
    options.free_bytes = 2000000;
    assert_int_equal(
        fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail),
        FAIL_FILE);
    assert_non_null(strstr(fail.message, "room"));
    assert_non_null(strstr(fail.message, "2 MB free"));
    assert_false(find_partial(&partial));
    assert_false(finished());
}

static void room_is_asked_for_what_is_left_only(void **state)
{
    (void)state;
    fail_t fail = {0};
    fixture_options_t options = options_of_model();
    make_reference();
    assert_int_equal(await(start_shard(400000)), -FAIL_FILE);
    options.free_bytes = 2000000;
    assert_int_equal(
        fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail),
        FAIL_FILE);
    options.free_bytes = 3200000; /* the whole would need 3.3 MB and a MB to spare */
    fail = (fail_t){0};
    if (fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail) != 0)
        fail_msg("%s", fail.message);
    expect_reference();
}

static void two_runs_do_not_write_one_file(void **state)
{
    (void)state;
    fail_t fail = {0};
    fixture_path_t partial;
    fixture_options_t options = options_of_model();
    assert_int_equal(await(start_shard(400000)), -FAIL_FILE);
    assert_true(find_partial(&partial));
    int other = open(fixture_join(partial.text, "data-00000.choir").text, O_RDWR);
    assert_true(other >= 0);
    assert_int_equal(flock(other, LOCK_EX), 0);
    assert_int_equal(
        fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail),
        FAIL_FILE);
    assert_non_null(strstr(fail.message, "another choir shard"));
    close(other);
    fail = (fail_t){0};
    assert_int_equal(
        fixture_shard(fixture_in("model").text, fixture_in("store").text, &options, &fail), 0);
}

static void a_source_that_shrinks_is_a_clean_failure(void **state)
{
    (void)state;
    fail_t fail = {0};
    store_layout_t layout;
    fixture_options_t options = options_of_model();
    unsigned char block[16];
    assert_int_equal(
        store_layout_open(&layout, fixture_in("model").text, &options.store, &fail), 0);
    assert_int_equal(
        truncate(fixture_join(fixture_in("model").text, "model.safetensors").text, 5000), 0);
    assert_int_equal(store_layout_read(&layout, 1, 6000, sizeof block, block, &fail), FAIL_FILE);
    assert_non_null(strstr(fail.message, "ends"));
    store_layout_close(&layout);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, fixture_tear_down)
    const struct CMUnitTest tests[] = {
        CASE(kills_at_random_moments_do_not_change_a_byte),
        CASE(what_is_finished_is_kept),
        CASE(interrupts_anywhere_keep_what_is_finished_and_remove_nothing),
        CASE(another_source_does_not_go_on_with_the_first_ones_blocks),
        CASE(a_disk_that_fills_up_ends_it_with_one_message),
        CASE(a_full_disk_is_refused_before_anything_is_written),
        CASE(room_is_asked_for_what_is_left_only),
        CASE(two_runs_do_not_write_one_file),
        CASE(a_source_that_shrinks_is_a_clean_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
