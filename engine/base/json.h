/* Checked access to JSON: reading files with messages that name the file and the key.
 *
 * Wraps jansson; the json_t values are jansson's own, borrowed from the document unless stated.
 * Keys may be given as found by jansson's functions as well. Thread safe on different documents. */
#ifndef CHOIR_BASE_JSON_H
#define CHOIR_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

/* Reads a whole regular file (input.h) into freshly allocated memory with a zero byte after its
 * end; the caller frees it. max_bytes guards against absurd files. */
int file_read(const char *path, size_t max_bytes, char **text, size_t *bytes, fail_t *fail);

/* The same for a text: a UTF-8 byte order mark at its start is dropped. */
int text_file_read(const char *path, size_t max_bytes, char **text, size_t *bytes, fail_t *fail);

/* Moves *bytes of text over a byte order mark at its start, and the zero byte behind them. */
void text_drop_bom(char *text, size_t *bytes);

/* Parses a JSON file; duplicate keys are errors. The caller owns *root (json_decref). */
int json_file_read(const char *path, json_t **root, fail_t *fail);

/* Parses what Python's json module parses: of a key given twice the last one counts, and NaN,
 * Infinity and -Infinity, which become strings of these words. For files that Hugging Face's
 * libraries read with it. */
int json_python_file_read(const char *path, json_t **root, fail_t *fail);
int json_python_text_read(
    const char *text, size_t bytes, const char *name, json_t **root, fail_t *fail);

/* Parses a document, which may begin with a byte order mark; `name` is what messages call it. */
int json_text_read(const char *text, size_t bytes, const char *name, json_t **root, fail_t *fail);

/* Parses one line of JSON lines; `name` is the file and line for messages, which add the column. */
int json_line_read(const char *text, size_t bytes, const char *name, json_t **root, fail_t *fail);

/* Typed members of an object. The required forms record a failure that names `name` and the key
 * when the key is absent, null or of another type, or out of [min, max]. The optional forms leave
 * *value unchanged when the key is absent or null. */
int json_get_size(json_t *object, const char *name, const char *key, size_t min, size_t max,
    size_t *value, fail_t *fail);
int json_opt_size(json_t *object, const char *name, const char *key, size_t min, size_t max,
    size_t *value, fail_t *fail);
int json_opt_double(json_t *object, const char *name, const char *key, double min, double max,
    double *value, fail_t *fail);
int json_opt_bool(json_t *object, const char *name, const char *key, bool *value, fail_t *fail);
/* *value is borrowed from the document. A text that holds a zero character is refused: it would end
 * there. */
int json_opt_string(
    json_t *object, const char *name, const char *key, const char **value, fail_t *fail);

/* FAIL_FORMAT when the object has a member whose key is none of keys: [n_keys], which the message
 * lists; an ignored member would give a wrong answer silently. Keys that are NULL are skipped. */
int json_check_keys(
    json_t *object, const char *name, const char *const *keys, size_t n_keys, fail_t *fail);

/* New values. ids: [n]. Of doubles: JSON has no infinities and no NaN, so these become null. */
json_t *json_from_ids(const int32_t *ids, size_t n);
json_t *json_from_double(double value);
json_t *json_from_doubles(const double *values, size_t n);

#endif
