/* What is wrong with a request, in the form of OpenAI's servers. Plain data. */
#ifndef CHOIR_SERVE_API_ERROR_H
#define CHOIR_SERVE_API_ERROR_H

#include <jansson.h>

#define API_PARAM_BYTES 64
#define API_MESSAGE_BYTES 512

typedef struct api_error {
    unsigned status;             /* of HTTP; 0: nothing is wrong */
    const char *type, *code;     /* code: NULL: none */
    char param[API_PARAM_BYTES]; /* the field; "": none */
    char message[API_MESSAGE_BYTES];
} api_error_t;

/* Records an error of a field unless there is one; status 400, type invalid_request_error. Returns
 * its status as an int. param: NULL: none. */
int api_error_set(api_error_t *error, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same with a status, type and code of its own. */
int api_error_of(api_error_t *error, unsigned status, const char *type, const char *code,
    const char *format, ...) __attribute__((format(printf, 5, 6)));

/* {"error": {"message", "type", "param", "code"}}. A new value. */
json_t *api_error_json(const api_error_t *error);

#endif
