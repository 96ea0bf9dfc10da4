#include "engine/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/printable.h"

int fail_set(fail_t *fail, int status, const char *format, ...)
{
    if (fail->status != 0)
        return fail->status;
    fail->status = status;
    char message[FAIL_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    /* One line of valid UTF-8, whatever text a message quotes. */
    printable(fail->message, sizeof fail->message, message, strlen(message));
    return status;
}

const char *fail_name(int status)
{
    switch (status) {
    case 0:
        return "ok";
    case FAIL_USAGE:
        return "usage";
    case FAIL_FILE:
        return "file";
    case FAIL_FORMAT:
        return "format";
    case FAIL_MODEL:
        return "model";
    case FAIL_MEMORY:
        return "memory";
    case FAIL_LIMIT:
        return "limit";
    case FAIL_COMM:
        return "comm";
    case FAIL_INTERRUPTED:
        return "interrupted";
    default:
        return "internal";
    }
}
