#include "engine/eval/eval_results.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/array.h"
#include "engine/base/clock.h"
#include "engine/base/input.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/out_file.h"

#define RESULTS "results.jsonl"
#define SETTINGS "run.json"
#define SYNC_NS UINT64_C(1000000000)
#define MAX_RESULTS_BYTES ((size_t)64 << 30)

/* ---- Lines ----------------------------------------------------------------------------------- */

static int add_line(eval_lines_t *lines, json_t *line, size_t *capacity, fail_t *fail)
{
    if (array_reserve(&lines->lines, capacity, lines->count + 1, sizeof *lines->lines,
            "results: lines", fail) != 0)
        return fail->status;
    lines->lines[lines->count++] = json_incref(line);
    return 0;
}

static int split_lines(
    eval_lines_t *lines, const char *path, const char *text, size_t bytes, fail_t *fail)
{
    size_t capacity = 0, number = 0;
    const char *at = text, *end = text + bytes;
    while (at < end && fail->status == 0) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        fail_t malformed = {0};
        json_t *line = NULL;
        char where[4400];
        number++;
        if (newline == NULL)
            break; /* torn */
        snprintf(where, sizeof where, "%s: line %zu", path, number);
        json_line_read(at, (size_t)(newline - at), where, &line, &malformed);
        if (malformed.status == 0 && !json_is_integer(json_object_get(line, "index")))
            fail_set(&malformed, FAIL_FORMAT, "%s: expected an object with an index", where);
        if (malformed.status == 0) {
            add_line(lines, line, &capacity, fail);
            lines->bytes = (uint64_t)(newline + 1 - text);
        } else if (newline + 1 < end) {
            *fail = malformed; /* not at the end: nothing that a crash leaves */
        }
        json_decref(line);
        at = newline + 1;
    }
    return fail->status;
}

int eval_lines_read(eval_lines_t *lines, const char *given, fail_t *fail)
{
    char path[4200];
    char *text;
    size_t bytes;
    *lines = (eval_lines_t){0};
    snprintf(path, sizeof path, "%s%s", given, input_is_directory(given) ? "/" RESULTS : "");
    if (file_read(path, MAX_RESULTS_BYTES, &text, &bytes, fail) != 0)
        return fail->status;
    size_t in_file = bytes;
    text_drop_bom(text, &bytes);
    split_lines(lines, path, text, bytes, fail);
    lines->bytes += in_file - bytes;
    free(text);
    if (fail->status != 0)
        eval_lines_clear(lines);
    return fail->status;
}

void eval_lines_clear(eval_lines_t *lines)
{
    for (size_t i = 0; i < lines->count; i++)
        json_decref(lines->lines[i]);
    free(lines->lines);
    *lines = (eval_lines_t){0};
}

static int compare_index(const void *a, const void *b)
{
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "index"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "index"));
    return (x > y) - (x < y);
}

void eval_lines_sort(eval_lines_t *lines)
{
    if (lines->count > 0)
        qsort(lines->lines, lines->count, sizeof *lines->lines, compare_index);
}

static char *dump(const json_t *value, size_t flags)
{
    return json_dumps(value, flags | JSON_REAL_PRECISION(17));
}

char *eval_line_text(const json_t *line)
{
    json_t *bare = json_copy((json_t *)line);
    if (bare == NULL)
        return NULL;
    json_object_del(bare, "timings");
    char *text = dump(bare, JSON_COMPACT);
    json_decref(bare);
    return text;
}

/* ---- The folder ------------------------------------------------------------------------------ */

/* mkdir -p */
static int make_folder(const char *folder, fail_t *fail)
{
    char path[4096];
    snprintf(path, sizeof path, "%s", folder);
    for (char *at = path + 1;; at++) {
        if (*at != '/' && *at != 0)
            continue;
        char c = *at;
        *at = 0;
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            return fail_set(
                fail, FAIL_FILE, "%s: cannot make the folder: %s", path, strerror(errno));
        *at = c;
        if (c == 0)
            break;
    }
    return input_check_directory(folder, "a folder for results", fail);
}

static int open_file(eval_results_t *results, fail_t *fail)
{
    struct stat found;
    /* An incomplete line is removed again, which only regular files allow. */
    if (stat(results->path, &found) == 0 && !S_ISREG(found.st_mode))
        return fail_set(fail, FAIL_FILE, "%s: expected a regular file", results->path);
    results->file = open(results->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (results->file < 0)
        return fail_set(fail, FAIL_FILE, "%s: cannot open: %s", results->path, strerror(errno));
    if (flock(results->file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return fail_set(fail, FAIL_FILE, "%s: another run is writing it", results->path);
    return 0;
}

static int write_all(int file, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(file, text, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        text += n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* A new name in a folder is permanent once the folder itself is synced. */
static void sync_folder(const char *folder)
{
    int file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file >= 0) {
        fsync(file);
        close(file);
    }
}

int eval_results_write(
    const eval_results_t *results, const char *name, const json_t *value, fail_t *fail)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", results->folder, name);
    char *text = dump(value, JSON_INDENT(2));
    if (text == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", path);
    size_t bytes = strlen(text);
    text[bytes] = '\n'; /* in place of the final zero */
    out_file_write(path, text, bytes + 1, fail);
    free(text);
    return fail->status;
}

/* A value as text for a message: the caller frees. */
static char *shown(const json_t *value)
{
    char *text = value == NULL ? NULL : dump(value, JSON_COMPACT | JSON_ENCODE_ANY);
    return text != NULL ? text : strdup("none");
}

static int refuse(
    const char *path, const char *key, const json_t *theirs, const json_t *ours, fail_t *fail)
{
    char *there = shown(theirs), *here = shown(ours);
    fail_set(fail, FAIL_USAGE,
        "%s: results of another run: %s is %.300s there and %.300s here; --out names another folder",
        path, key, there == NULL ? "?" : there, here == NULL ? "?" : here);
    free(there);
    free(here);
    return fail->status;
}

static int compare_settings(const char *path, json_t *theirs, json_t *ours, fail_t *fail)
{
    const char *key;
    json_t *value;
    json_object_foreach (ours, key, value) {
        if (!json_equal(json_object_get(theirs, key), value))
            return refuse(path, key, json_object_get(theirs, key), value, fail);
    }
    json_object_foreach (theirs, key, value) {
        if (json_object_get(ours, key) == NULL)
            return refuse(path, key, value, NULL, fail);
    }
    return 0;
}

/* Compares the folder's settings with this run's; a new folder gets them. */
static int settle(eval_results_t *results, json_t *settings, bool has_results, fail_t *fail)
{
    char path[4200];
    json_t *theirs = NULL;
    snprintf(path, sizeof path, "%s/" SETTINGS, results->folder);
    if (access(path, F_OK) != 0) {
        if (has_results)
            return fail_set(fail, FAIL_USAGE,
                "%s: results without their settings (%s); --out names another folder",
                results->path, path);
        return eval_results_write(results, SETTINGS, settings, fail);
    }
    if (json_file_read(path, &theirs, fail) == 0)
        compare_settings(path, theirs, settings, fail);
    json_decref(theirs);
    return fail->status;
}

int eval_results_open(eval_results_t *results, const char *folder, json_t *settings,
    eval_lines_t *lines, fail_t *fail)
{
    struct stat info;
    *results = (eval_results_t){.file = -1};
    *lines = (eval_lines_t){0};
    if (strlen(folder) >= sizeof results->folder - 32)
        return fail_set(fail, FAIL_USAGE, "--out: path too long");
    strcpy(results->folder, folder);
    snprintf(results->path, sizeof results->path, "%s/" RESULTS, folder);
    if (make_folder(folder, fail) == 0 && open_file(results, fail) == 0 &&
        eval_lines_read(lines, results->path, fail) == 0 &&
        settle(results, settings, lines->count > 0, fail) == 0) {
        results->bytes = lines->bytes;
        results->synced_ns = clock_ns();
        if (fstat(results->file, &info) == 0 && (uint64_t)info.st_size > results->bytes) {
            log_write(LOG_WARN, "%s: dropped an incomplete last line of %llu bytes", results->path,
                (unsigned long long)info.st_size - results->bytes);
            if (ftruncate(results->file, (off_t)results->bytes) != 0)
                fail_set(fail, FAIL_FILE, "%s: cannot remove the incomplete line: %s",
                    results->path, strerror(errno));
        }
        sync_folder(folder);
    }
    if (fail->status != 0) {
        eval_results_close(results);
        eval_lines_clear(lines);
    }
    return fail->status;
}

int eval_results_append(eval_results_t *results, const json_t *line, fail_t *fail)
{
    char *text = dump(line, JSON_COMPACT);
    if (text == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory for a line", results->path);
    size_t bytes = strlen(text);
    text[bytes] = '\n'; /* in place of the final zero: one write for the line */
    if (write_all(results->file, text, bytes + 1) != 0) {
        fail_set(fail, FAIL_FILE, "%s: cannot append: %s; run the same command again to resume",
            results->path, strerror(errno));
        /* Removes the incomplete line; if that fails, the next run drops it. */
        if (ftruncate(results->file, (off_t)results->bytes) != 0)
            log_write(LOG_WARN, "%s: ends with an incomplete line", results->path);
    } else {
        results->bytes += bytes + 1;
    }
    free(text);
    if (fail->status == 0 && clock_ns() - results->synced_ns > SYNC_NS)
        eval_results_sync(results, fail);
    return fail->status;
}

int eval_results_sync(eval_results_t *results, fail_t *fail)
{
    results->synced_ns = clock_ns();
    if (results->bytes == results->synced_bytes)
        return 0;
    if (fdatasync(results->file) != 0)
        return fail_set(
            fail, FAIL_FILE, "%s: cannot make it durable: %s", results->path, strerror(errno));
    results->synced_bytes = results->bytes;
    return 0;
}

void eval_results_close(eval_results_t *results)
{
    if (results->file >= 0)
        close(results->file);
    results->file = -1;
}
