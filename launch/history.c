#include "launch/history.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/out_file.h"

#define MAX_FILE_BYTES ((size_t)64 << 20)

/* ---- The file -------------------------------------------------------------------------------- */

static bool find_path(char *path)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (state != NULL && state[0] == '/')
        n = snprintf(path, HISTORY_PATH_BYTES, "%s/choir/history", state);
    else if (home != NULL && home[0] == '/')
        n = snprintf(path, HISTORY_PATH_BYTES, "%s/.local/state/choir/history", home);
    return n > 0 && n < HISTORY_PATH_BYTES;
}

/* All folders above a path that are not there; the user's alone, as the standard of their places
 * says. */
static void make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* Opened for appending; -1 where that is not possible. A FIFO or a device cannot be a history. */
static int open_file(const char *path, int flags)
{
    struct stat status;
    int fd = open(path, flags | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0600);
    if (fd >= 0 && (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static char *next_line(char *line)
{
    char *newline = strchr(line, '\n');
    if (newline == NULL)
        return line + strlen(line);
    *newline = 0;
    return newline + 1;
}

/* Lines that are no JSON strings are skipped: another program's, or incomplete ones. */
static void give_lines(
    char *text, size_t skip, void (*take)(void *context, const char *text), void *context)
{
    for (char *line = text; *line != 0;) {
        char *next = next_line(line);
        json_t *value = skip > 0 ? NULL : json_loads(line, JSON_DECODE_ANY, NULL);
        skip -= skip > 0;
        if (json_is_string(value))
            take(context, json_string_value(value));
        json_decref(value);
        line = next;
    }
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;
    for (; *text != 0; text++)
        lines += *text == '\n';
    return lines;
}

/* The last lines in place of all. */
static void cut(const char *path, const char *text, size_t skip)
{
    fail_t ignored = {0};
    while (skip-- > 0)
        text = strchr(text, '\n') + 1;
    out_file_write(path, text, strlen(text), &ignored);
}

void history_open(history_t *history, void (*take)(void *context, const char *text), void *context)
{
    char *text = NULL;
    size_t bytes;
    fail_t fail = {0};
    *history = (history_t){0};
    if (!find_path(history->path))
        return;
    make_folders(history->path);
    int fd = open_file(history->path, O_RDONLY);
    if (fd < 0 || close(fd) != 0 ||
        file_read(history->path, MAX_FILE_BYTES, &text, &bytes, &fail) != 0) {
        log_write(LOG_DEBUG, "no history: %s cannot be read", history->path);
        history->path[0] = 0;
        return;
    }
    size_t lines = count_lines(text);
    size_t skip = lines > HISTORY_MAX_TEXTS ? lines - HISTORY_MAX_TEXTS : 0;
    if (lines >= 2 * HISTORY_MAX_TEXTS)
        cut(history->path, text, skip);
    give_lines(text, skip, take, context);
    free(text);
}

/* ---- Writing --------------------------------------------------------------------------------- */

bool history_add(const history_t *history, const char *text, size_t bytes)
{
    if (bytes == 0 || bytes > HISTORY_MAX_TEXT_BYTES || text[0] == ' ')
        return false;
    json_t *value = json_stringn(text, bytes);
    char *line = value == NULL ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    int fd =
        line == NULL || history->path[0] == 0 ? -1 : open_file(history->path, O_WRONLY | O_APPEND);
    if (fd >= 0) {
        size_t n = strlen(line);
        line[n] =
            '\n'; /* in place of the final zero: one write, which other sessions' do not cut */
        if (write(fd, line, n + 1) != (ssize_t)(n + 1))
            log_write(LOG_DEBUG, "%s: cannot be written", history->path);
        close(fd);
    }
    free(line);
    json_decref(value);
    return value != NULL;
}
