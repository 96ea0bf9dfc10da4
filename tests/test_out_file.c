/* What out_file.h promises of regular files, links, FIFOs, devices and descriptors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/out_file.h"

static char folder[] = "/tmp/choir-out-XXXXXX";

static int enter_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) != NULL && chdir(folder) == 0 ? 0 : -1;
}

static int empty_folder(void **state)
{
    (void)state;
    DIR *listing = opendir(folder);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;)
        if (unlink(entry->d_name) != 0)
            rmdir(entry->d_name);
    closedir(listing);
    return 0;
}

static int leave_folder(void **state)
{
    (void)state;
    return chdir("/") == 0 && rmdir(folder) == 0 ? 0 : -1;
}

static size_t n_entries(void)
{
    size_t n = 0;
    DIR *listing = opendir(folder);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        n += entry->d_name[0] != '.' || strlen(entry->d_name) > 2;
    closedir(listing);
    return n;
}

static void expect_text(const char *path, const char *expected)
{
    char *text;
    size_t bytes;
    fail_t fail = {0};
    assert_int_equal(file_read(path, 4096, &text, &bytes, &fail), 0);
    assert_string_equal(text, expected);
    free(text);
}

static void put(const char *path, const char *text)
{
    fail_t fail = {0};
    if (out_file_write(path, text, strlen(text), &fail) != 0)
        fail_msg("%s", fail.message);
}

static mode_t mode_of(const char *path)
{
    struct stat found;
    assert_int_equal(lstat(path, &found), 0);
    return found.st_mode;
}

static void expect_refused(const char *path, const char *words)
{
    fail_t fail = {0};
    assert_int_equal(out_file_write(path, "x", 1, &fail), FAIL_FILE);
    if (strstr(fail.message, words) == NULL || strstr(fail.message, path) == NULL)
        fail_msg("expected %s and %s in: %s", path, words, fail.message);
}

/* ---- Regular files --------------------------------------------------------------------------- */

static void a_new_file_has_the_usual_mode(void **state)
{
    (void)state;
    mode_t mask = umask(027);
    put("new", "text");
    umask(mask);
    expect_text("new", "text");
    assert_int_equal(mode_of("new") & 0777, 0640);
    assert_int_equal(n_entries(), 1);
}

static void a_replaced_file_keeps_its_mode(void **state)
{
    (void)state;
    put("file", "old and longer");
    assert_int_equal(chmod("file", 0604), 0);
    put("file", "new");
    expect_text("file", "new");
    assert_int_equal(mode_of("file") & 07777, 0604);
    assert_int_equal(n_entries(), 1);
}

static void until_it_is_closed_the_old_file_stays(void **state)
{
    (void)state;
    fail_t fail = {0};
    out_file_t *out;
    put("file", "old");
    assert_int_equal(out_file_open(&out, "file", OUT_REPLACE, &fail), 0);
    fprintf(out_file_stream(out), "new");
    fflush(out_file_stream(out));
    expect_text("file", "old");
    out_file_drop(out);
    expect_text("file", "old");
    assert_int_equal(n_entries(), 1);
    assert_int_equal(out_file_close(NULL, &fail), 0);
    out_file_drop(NULL);
}

static void a_name_as_long_as_names_may_be(void **state)
{
    char name[256];
    (void)state;
    memset(name, 'n', 255);
    name[255] = 0;
    put(name, "text");
    expect_text(name, "text");
}

static void what_another_process_left_is_not_used(void **state)
{
    char part[64];
    (void)state;
    snprintf(part, sizeof part, ".choir-%ld-0", (long)getpid());
    assert_int_equal(symlink("elsewhere", part), 0);
    put("file", "text");
    assert_int_equal(access("elsewhere", F_OK), -1);
    expect_text("file", "text");
}

static void rows_are_appended(void **state)
{
    (void)state;
    fail_t fail = {0};
    for (int i = 0; i < 2; i++) {
        out_file_t *out;
        assert_int_equal(out_file_open(&out, "rows", OUT_APPEND, &fail), 0);
        assert_true(out_file_is_new(out) == (i == 0));
        fprintf(out_file_stream(out), "row %d\n", i);
        assert_int_equal(out_file_close(out, &fail), 0);
    }
    expect_text("rows", "row 0\nrow 1\n");
}

/* ---- Links ----------------------------------------------------------------------------------- */

static void a_link_stays_and_its_file_is_replaced(void **state)
{
    (void)state;
    put("file", "old");
    assert_int_equal(mkdir("d", 0777), 0);
    assert_int_equal(symlink("../file", "d/second"), 0);
    assert_int_equal(symlink("d/second", "first"), 0);
    put("first", "new");
    assert_true(S_ISLNK(mode_of("first")) && S_ISLNK(mode_of("d/second")));
    assert_true(S_ISREG(mode_of("file")));
    expect_text("file", "new");
    unlink("d/second");
}

static void a_link_to_nothing_gets_its_file(void **state)
{
    (void)state;
    assert_int_equal(symlink("later", "link"), 0);
    put("link", "text");
    assert_true(S_ISLNK(mode_of("link")));
    expect_text("later", "text");
}

static void links_in_a_circle_are_refused(void **state)
{
    (void)state;
    assert_int_equal(symlink("b", "a"), 0);
    assert_int_equal(symlink("a", "b"), 0);
    expect_refused("a", "symbolic links");
}

/* ---- What is no regular file ----------------------------------------------------------------- */

static void dev_null_stays_what_it_is(void **state)
{
    (void)state;
    const mode_t before = mode_of("/dev/null");
    put("/dev/null", "text");
    assert_int_equal(mode_of("/dev/null"), before);
    assert_int_equal(symlink("/dev/null", "nothing"), 0);
    put("nothing", "text");
    assert_int_equal(mode_of("/dev/null"), before);
    assert_true(S_ISCHR(before) && S_ISLNK(mode_of("nothing")));
}

static void a_full_disk_is_told_with_its_reason(void **state)
{
    fail_t fail = {0};
    (void)state;
    assert_int_equal(out_file_write("/dev/full", "text", 4, &fail), FAIL_FILE);
    assert_string_equal(fail.message, "/dev/full: cannot write: No space left on device");
    assert_true(S_ISCHR(mode_of("/dev/full")));
}

static void *read_fifo(void *text)
{
    FILE *file = fopen("fifo", "r");
    char *end = text;
    if (file != NULL) {
        end += fread(text, 1, 63, file);
        fclose(file);
    }
    *end = 0;
    return NULL;
}

static void a_fifo_is_written_through(void **state)
{
    char text[64];
    pthread_t reader;
    (void)state;
    assert_int_equal(mkfifo("fifo", 0666), 0);
    assert_int_equal(pthread_create(&reader, NULL, read_fifo, text), 0);
    put("fifo", "through");
    pthread_join(reader, NULL);
    assert_string_equal(text, "through");
    assert_true(S_ISFIFO(mode_of("fifo")));
}

static void a_descriptor_goes_on_where_it_is(void **state)
{
    char path[64];
    (void)state;
    int file = open("file", O_RDWR | O_CREAT, 0666);
    assert_true(file >= 0 && write(file, "before ", 7) == 7);
    snprintf(path, sizeof path, "/dev/fd/%d", file);
    assert_int_equal(symlink(path, "link"), 0);
    put(path, "one ");
    put("link", "two ");
    assert_int_equal(write(file, "after", 5), 5);
    expect_text("file", "before one two after");
    close(file);
    expect_refused("/dev/fd/12345", "Bad file descriptor");
}

static void standard_output_is_the_stream(void **state)
{
    static const char *const names[] = {"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"};
    fail_t fail = {0};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        out_file_t *out;
        assert_int_equal(out_file_open(&out, names[i], OUT_REPLACE, &fail), 0);
        assert_ptr_equal(out_file_stream(out), stdout);
        assert_true(out_file_is_stdout(out));
        assert_int_equal(out_file_close(out, &fail), 0);
    }
    printf(" "); /* it is still open */
    assert_int_equal(fflush(stdout), 0);
}

static void what_cannot_be_written_is_refused_with_its_name(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    fail_t fail = {0};
    (void)state;
    assert_int_equal(mkdir("d", 0777), 0);
    expect_refused("d", "found a folder");
    expect_refused("missing/file", "No such file");
    put("file", "");
    expect_refused("file/below", "Not a directory");
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    expect_refused("socket", "found a socket");
    close(listener);
    assert_int_equal(out_file_write("", "x", 1, &fail), FAIL_FILE);
    if (geteuid() != 0) {
        put("read-only", "old");
        assert_int_equal(chmod("read-only", 0444), 0);
        expect_refused("read-only", "Permission denied");
    }
}

#define CASE(function) cmocka_unit_test_teardown(function, empty_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_new_file_has_the_usual_mode),
        CASE(a_replaced_file_keeps_its_mode),
        CASE(until_it_is_closed_the_old_file_stays),
        CASE(a_name_as_long_as_names_may_be),
        CASE(what_another_process_left_is_not_used),
        CASE(rows_are_appended),
        CASE(a_link_stays_and_its_file_is_replaced),
        CASE(a_link_to_nothing_gets_its_file),
        CASE(links_in_a_circle_are_refused),
        CASE(dev_null_stays_what_it_is),
        CASE(a_full_disk_is_told_with_its_reason),
        CASE(a_fifo_is_written_through),
        CASE(a_descriptor_goes_on_where_it_is),
        CASE(standard_output_is_the_stream),
        CASE(what_cannot_be_written_is_refused_with_its_name),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
