/* The parts of a tokenizer, for the files that fill it in and use it. */
#ifndef CHOIR_TEXT_TOKENIZER_INTERNAL_H
#define CHOIR_TEXT_TOKENIZER_INTERNAL_H

#include "engine/base/json.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/pretokenize.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

struct tokenizer {
    vocabulary_t vocabulary;
    bpe_t bpe;
    added_tokens_t added;
    pretokenizer_t *pretokenizer;
    uint8_t *properties;   /* see unicode.h */
    bool normalizes;       /* NFC before splitting */
    bool ignores_merges;   /* a word that is a token becomes that token, whatever the merges */
    bool splits_specials;  /* special tokens' text is always ordinary text */
    int32_t n_vocabulary;  /* tokens of the vocabulary itself */
    int32_t last_added_id; /* the largest id of an added token, -1 for none */
    tokenizer_ids_t prefix, suffix; /* tokens added around a text by itself */
};

/* An added token as a file describes it. */
typedef struct added_spec {
    const char *content; /* borrowed */
    size_t bytes;
    int32_t id; /* as the file says, -1 where it does not */
    added_flags_t flags;
    bool says_normalized;
    size_t place; /* in its list */
} added_spec_t;

/* Fill in an empty tokenizer from each of the two forms, but for the added tokens. */
int tokenizer_read_json(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail);
int tokenizer_read_vocab(tokenizer_t *tokenizer, const char *directory, fail_t *fail);

/* Adds the tokens of a tokenizer.json, as `tokenizers` does. */
int tokenizer_read_json_added(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail);

/* Adds the tokens of a model directory, as transformers does, and reads the rest of its
 * tokenizer_config.json. root: its tokenizer.json, or NULL. */
int tokenizer_read_directory_added(
    tokenizer_t *tokenizer, json_t *root, const char *directory, fail_t *fail);

/* Steps that both forms share; file names the object in messages.
 *
 * vocab: object of token to id. */
int tokenizer_add_vocab(tokenizer_t *tokenizer, json_t *vocab, const char *file, fail_t *fail);
/* One merge, given as the two tokens in the alphabet of tokenizer files. */
int tokenizer_add_merge(tokenizer_t *tokenizer, const char *left, size_t left_bytes,
    const char *right, size_t right_bytes, uint32_t rank, const char *file, fail_t *fail);
/* Reads an added token: an object with "content" and flags. what: its name in messages. */
int tokenizer_read_added(
    added_spec_t *spec, json_t *object, const char *file, const char *what, fail_t *fail);
/* Adds tokens as one call of `tokenizers`' add_tokens. A content in the vocabulary has that id, a
 * new one the next that is free, whatever the file says. After the vocabulary. */
int tokenizer_add_tokens(
    tokenizer_t *tokenizer, const added_spec_t *specs, size_t n, const char *file, fail_t *fail);
/* Call after the last of them. */
int tokenizer_finish_added(tokenizer_t *tokenizer, const char *file, fail_t *fail);
/* The added tokens of a tokenizer.json: *specs is freshly allocated. */
int tokenizer_json_specs(
    json_t *root, const char *name, added_spec_t **specs, size_t *n, fail_t *fail);

#endif
