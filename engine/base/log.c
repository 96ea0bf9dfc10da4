#include "engine/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/printable.h"

/* Process-wide by nature: there is one standard error. */
static atomic_int current_level = LOG_INFO;
static atomic_bool is_speaker = true;
static _Atomic(void (*)(void)) before_line;

void log_set_level(log_level_t level)
{
    atomic_store(&current_level, (int)level);
}

void log_set_speaker(bool speaker)
{
    atomic_store(&is_speaker, speaker);
}

void log_set_before(void (*before)(void))
{
    atomic_store(&before_line, before);
}

void log_write(log_level_t level, const char *format, ...)
{
    if ((int)level > atomic_load(&current_level))
        return;
    if (level != LOG_ERROR && !atomic_load(&is_speaker))
        return;
    char message[2048], line[2200];
    const char *tag = level == LOG_ERROR ? "error: " : level == LOG_WARN ? "warning: " : "";
    size_t length = (size_t)snprintf(line, sizeof line, "choir: %s", tag);
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    length += printable(line + length, sizeof line - 1 - length, message, strlen(message));
    line[length++] = '\n';
    void (*before)(void) = atomic_load(&before_line);
    if (before != NULL)
        before();
    /* One write for the whole line. Standard error is unbuffered, so nothing is lost on a crash. */
    ssize_t done = write(STDERR_FILENO, line, length);
    (void)done;
}
