/* What a tokenizer is made of, for the files that fill it in and use it. */
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
    uint8_t *properties; /* see unicode.h */
    bool normalizes;     /* NFC before splitting */
    bool ignores_merges; /* a word that is a token is that token, whatever the merges say */
};

/* Fill in an empty tokenizer from each of the two forms. */
int tokenizer_read_json(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail);
int tokenizer_read_vocab(tokenizer_t *tokenizer, const char *directory, fail_t *fail);

/* Steps that both forms share; file names the object in messages.
 *
 * vocab: object of token to id. */
int tokenizer_add_vocab(tokenizer_t *tokenizer, json_t *vocab, const char *file, fail_t *fail);
/* One merge, given as the two tokens in the alphabet of tokenizer files. */
int tokenizer_add_merge(tokenizer_t *tokenizer, const char *left, size_t left_bytes,
    const char *right, size_t right_bytes, uint32_t rank, const char *file, fail_t *fail);
/* One added token: an object with "content" and flags. After the vocabulary. */
int tokenizer_add_added(
    tokenizer_t *tokenizer, json_t *object, int32_t id, const char *file, fail_t *fail);

#endif
