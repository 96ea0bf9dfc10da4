/* Jinja templates, as transformers compiles a chat template: jinja2's immutable sandbox with
 * trim_blocks and lstrip_blocks, break and continue, {% generation %}, json.dumps as tojson,
 * raise_exception and strftime_now.
 *
 * A template is parsed once and rendered with any number of jobs. A job owns the variables of one
 * rendering. Both belong to one thread at a time. Every input ends: parsing depth, calls, steps,
 * memory and output are bounded, and what is over a bound is an error as any other.
 *
 * Not here, because a chat template cannot use them or no public one does: template inheritance and
 * imports (transformers gives no loader), automatic escaping, integers beyond 64 bits in
 * arithmetic (in the variables they are kept), filters lipsum, random, urlize, pprint, wordwrap. */
#ifndef CHOIR_TEXT_JINJA_H
#define CHOIR_TEXT_JINJA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

typedef struct jinja_template jinja_template_t;
typedef struct jinja_job jinja_job_t;

/* text need not outlive the call. FAIL_FORMAT with name and line for a syntax error. */
int jinja_template_open(
    jinja_template_t **made, const char *text, size_t bytes, const char *name, fail_t *fail);

/* NULL is allowed. */
void jinja_template_close(jinja_template_t *made);

int jinja_job_open(jinja_job_t **job, fail_t *fail);
void jinja_job_close(jinja_job_t *job);

/* Sets a variable, replacing one of that name; the value is copied. */
int jinja_job_set(jinja_job_t *job, const char *name, const json_t *value, fail_t *fail);

/* Sets every member of the JSON object as a variable. Reads what Python's json.loads reads:
 * integers of any size, NaN and Infinity, lone surrogates; of a key that comes twice the last value
 * counts. `name` is what messages call the text. */
int jinja_job_set_text(
    jinja_job_t *job, const char *json, size_t bytes, const char *name, fail_t *fail);

/* Whether there is a variable of this name that is not null. */
bool jinja_job_has(jinja_job_t *job, const char *name);

/* The clock of strftime_now, in seconds since 1970; without it, the machine's. */
void jinja_job_set_time(jinja_job_t *job, int64_t seconds);

/* Brings the variables `messages`, `tools` and `documents` into the form that transformers'
 * apply_chat_template gives them: at least one message, each an object, without members that are
 * null, reasoning under all of its names; tools and documents null or arrays of objects. `defaults`
 * are variables that are set unless the job has one of that name (special tokens): object or NULL.
 */
int jinja_job_prepare_chat(jinja_job_t *job, const json_t *defaults, fail_t *fail);

/* Appends the text; nothing on failure. FAIL_USAGE: the template refused, by raise_exception or by
 * an error of its own, or a bound was reached; the message in *fail may be cut, jinja_job_error is
 * whole. A job renders once. */
int jinja_job_render(
    jinja_job_t *job, const jinja_template_t *made, text_buffer_t *out, fail_t *fail);

/* The message of the failure of the last call, without the template's name. Lone surrogates are
 * three bytes each, as in the text. Owned by the job. */
const char *jinja_job_error(const jinja_job_t *job, size_t *bytes);

/* Appends text as a JSON string with its quotes, lone surrogates as \ud83d. */
int jinja_quote(const char *text, size_t bytes, text_buffer_t *out, fail_t *fail);

#endif
