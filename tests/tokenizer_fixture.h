/* What the tests of the tokenizer share: opening, altering and comparing. All end the test on
 * failure. */
#ifndef CHOIR_TESTS_TOKENIZER_FIXTURE_H
#define CHOIR_TESTS_TOKENIZER_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "engine/text/tokenizer.h"

#define DEMO CHOIR_SOURCE_DIR "/configs/demo"
#define GOLDEN CHOIR_SOURCE_DIR "/tests/golden/tokenizer/"

/* Files of the older form. */
extern const char *const vocab_files[3];

tokenizer_t *open_directory(const char *directory);

char *read_text(const char *directory, const char *name, size_t *bytes);

void write_bytes(const char *directory, const char *name, const char *text, size_t bytes);

/* A new directory with the files of the older form, copied from another. */
void make_vocab_form(char directory[64], const char *from);

void remove_vocab_form(const char *directory);

tokenizer_ids_t encode(const tokenizer_t *tokenizer, const char *text, size_t bytes, bool special);

/* The text of ids, checked to be the same when streamed, in whole UTF-8 sequences. */
char *decode(
    const tokenizer_t *tokenizer, const int32_t *ids, size_t count, bool skip, size_t *bytes);

void check_golden(const tokenizer_t *tokenizer, const char *file);

/* The id of the token with these bytes. */
int32_t token_of(const tokenizer_t *tokenizer, const char *text, size_t bytes);

/* The demo's tokenizer.json, to be altered. */
json_t *demo_json(void);

int open_json(json_t *root, tokenizer_t **tokenizer, fail_t *fail);

/* Sets root[path] = value, path being keys and indices with slashes between. */
void json_set_path(json_t *root, const char *path, json_t *value);

#endif
