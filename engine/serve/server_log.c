/* The access log: a JSON object a line for each request, when it is over. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/serve/server_internal.h"

#define MODE 0644

int server_log_open(server_t *server, fail_t *fail)
{
    const char *path = server->options.access_log;
    if (path == NULL)
        return 0;
    int fd = strcmp(path, "-") == 0 ? fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)
                                    : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, MODE);
    if (fd < 0)
        return fail_set(
            fail, FAIL_FILE, "%s: cannot open the access log: %s", path, strerror(errno));
    int before = atomic_exchange(&server->log_fd, fd);
    if (before >= 0)
        close(before);
    return 0;
}

void server_log_close(server_t *server)
{
    int fd = atomic_exchange(&server->log_fd, -1);
    if (fd >= 0)
        close(fd);
}

static void add_ask(json_t *line, const ask_t *ask)
{
    size_t n_prompt = 0, n_completion = 0;
    for (size_t i = 0; i < ask->request.n_prompts; i++)
        n_prompt += ask->prompts[i].count;
    for (size_t i = 0; i < ask->n_answers; i++)
        n_completion += ask->parts[i].done ? ask->parts[i].result.n_tokens : 0;
    json_object_set_new(line, "id", json_string(ask->id));
    json_object_set_new(line, "stream", json_boolean(ask->request.stream));
    json_object_set_new(line, "prompt_tokens", json_integer((json_int_t)n_prompt));
    json_object_set_new(line, "completion_tokens", json_integer((json_int_t)n_completion));
    if (ask->error.status != 0)
        json_object_set_new(line, "error", json_string(ask->error.message));
}

void server_log_write(server_t *server, const ask_t *ask, const http_record_t *record)
{
    char when[32];
    time_t now = time(NULL);
    struct tm parts;
    int fd = atomic_load(&server->log_fd);
    if (fd < 0)
        return;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
    json_t *line = json_pack("{s:s, s:s, s:s, s:s, s:i, s:b, s:I, s:f}", "time", when, "client",
        record->address, "method", record->method, "path", record->path, "status",
        (int)record->status, "complete", record->complete, "bytes", (json_int_t)record->bytes,
        "seconds", (double)record->took_ns * 1e-9);
    if (line != NULL && ask != NULL)
        add_ask(line, ask);
    size_t bytes;
    char *text = server_json(line, &bytes);
    if (text != NULL) {
        text[bytes] = '\n'; /* in place of the final zero: one write for the line */
        if (write(fd, text, bytes + 1) < 0 && errno != EINTR && !server->log_failed) {
            log_write(LOG_WARN, "%s: cannot write the access log: %s", server->options.access_log,
                strerror(errno));
            server->log_failed = true;
        }
    }
    free(text);
}
