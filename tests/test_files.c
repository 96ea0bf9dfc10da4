/* Names of files, directories, and reads and writes at an offset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/file_at.h"
#include "engine/base/input.h"
#include "engine/base/path.h"

/* This program's own pread and pwrite, which the library calls: every other call is interrupted, the others move three
 * bytes at most, and writes end with `refusal` from an offset on. */
static int n_calls, refusal;
static off_t refused_from;

static bool interrupts(void)
{
    errno = EINTR;
    return ++n_calls % 2 == 0;
}

ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
    if (interrupts())
        return -1;
    return syscall(SYS_pread64, fd, buffer, bytes < 3 ? bytes : 3, offset);
}

ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
    if (interrupts())
        return -1;
    if (refusal != 0 && offset >= refused_from) {
        errno = refusal;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, buffer, bytes < 3 ? bytes : 3, offset);
}

static int open_scratch(void)
{
    char path[] = "/tmp/choir-files-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    unlink(path);
    refusal = 0;
    return file;
}

static void transfers_that_stop_short_go_on(void **state)
{
    (void)state;
    static const char text[] = "0123456789";
    char back[11] = "";
    int error = -1, file = open_scratch();
    assert_int_equal(file_write_at(file, 5, text, 10, &error), 10);
    assert_int_equal(error, 0);
    error = -1;
    assert_int_equal(file_read_at(file, 5, back, 10, &error), 10);
    assert_int_equal(error, 0);
    assert_string_equal(back, text);
    close(file);
}

static void a_file_that_ends_early_is_told_from_one_that_cannot_be_read(void **state)
{
    (void)state;
    char back[10];
    int error, file = open_scratch();
    file_write_at(file, 0, "0123", 4, &error);
    assert_int_equal(file_read_at(file, 1, back, 10, &error), 3);
    assert_int_equal(error, 0);
    assert_string_equal(file_read_error(error), "the file ends there");
    close(file);
    assert_int_equal(file_read_at(file, 1, back, 10, &error), 0);
    assert_int_equal(error, EBADF);
    assert_string_equal(file_read_error(error), strerror(EBADF));
}

static void a_write_that_is_refused_says_how_far_it_came(void **state)
{
    (void)state;
    int error, file = open_scratch();
    refusal = ENOSPC;
    refused_from = 6;
    assert_int_equal(file_write_at(file, 0, "0123456789", 10, &error), 6);
    assert_int_equal(error, ENOSPC);
    close(file);
}

static void a_slash_at_a_directory_s_end_is_not_doubled(void **state)
{
    (void)state;
    static const struct {
        const char *directory, *path;
    } cases[] = {{"a", "a/x"}, {"a/", "a/x"}, {"/", "/x"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = path_join(cases[i].directory, "x");
        assert_string_equal(path, cases[i].path);
        free(path);
    }
    assert_true(path_exists("/dev", "null"));
    assert_false(path_exists("/dev", "nothing-of-this-name"));
}

static void what_is_no_directory_is_named(void **state)
{
    (void)state;
    fail_t fail = {0};
    assert_true(input_is_directory("/dev"));
    assert_false(input_is_directory("/dev/null"));
    assert_int_equal(input_check_directory("/dev", "a folder of devices", &fail), 0);
    assert_int_equal(input_check_directory("/dev/null", "a model directory", &fail), FAIL_FILE);
    assert_string_equal(
        fail.message, "/dev/null: expected a model directory, found a character device");
    fail = (fail_t){0};
    assert_int_equal(input_check_directory("/nowhere", "a model directory", &fail), FAIL_FILE);
    assert_string_equal(
        fail.message, "/nowhere: expected a model directory: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transfers_that_stop_short_go_on),
        cmocka_unit_test(a_file_that_ends_early_is_told_from_one_that_cannot_be_read),
        cmocka_unit_test(a_write_that_is_refused_says_how_far_it_came),
        cmocka_unit_test(a_slash_at_a_directory_s_end_is_not_doubled),
        cmocka_unit_test(what_is_no_directory_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
