#include "engine/base/status.h"

#include <stdarg.h>
#include <stdio.h>

int fail_set(fail_t *fail, int status, const char *format, ...)
{
    if (fail->status != 0)
        return fail->status;
    fail->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(fail->message, sizeof fail->message, format, args);
    va_end(args);
    /* One line, whatever a quoted file holds. */
    for (char *c = fail->message; *c != 0; c++)
        if ((unsigned char)*c < ' ')
            *c = '?';
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
