#include "engine/serve/api_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/printable.h"

static void record(api_error_t *error, unsigned status, const char *type, const char *code,
    const char *param, const char *format, va_list arguments)
{
    char text[API_MESSAGE_BYTES];
    if (error->status != 0)
        return;
    int bytes = vsnprintf(text, sizeof text, format, arguments);
    size_t n = bytes < 0 ? 0 : (size_t)bytes < sizeof text ? (size_t)bytes : sizeof text - 1;
    printable(error->message, sizeof error->message, text, n);
    if (param != NULL)
        printable(error->param, sizeof error->param, param, strlen(param));
    error->status = status;
    error->type = type;
    error->code = code;
}

int api_error_set(api_error_t *error, const char *param, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    record(error, 400, "invalid_request_error", NULL, param, format, arguments);
    va_end(arguments);
    return (int)error->status;
}

int api_error_of(api_error_t *error, unsigned status, const char *type, const char *code,
    const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    record(error, status, type, code, NULL, format, arguments);
    va_end(arguments);
    return (int)error->status;
}

json_t *api_error_json(const api_error_t *error)
{
    return json_pack("{s:{s:s, s:s, s:o, s:o}}", "error", "message", error->message, "type",
        error->type, "param", error->param[0] != 0 ? json_string(error->param) : json_null(),
        "code", error->code != NULL ? json_string(error->code) : json_null());
}
