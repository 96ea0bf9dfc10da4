/* The parts of a tokenizer, for the files that fill it in and use it. */
#ifndef CHOIR_TEXT_TOKENIZER_INTERNAL_H
#define CHOIR_TEXT_TOKENIZER_INTERNAL_H

#include "engine/base/json.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/normalizer.h"
#include "engine/text/pretokenize.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

/* Spaces become a mark that is a part of words. */
typedef struct metaspace {
    bool replaces; /* false: a text is one word as it is */
    bool splits;   /* before every mark; else a text is one word */
    /* Whether a text that does not begin with a mark gets one: `first` at the very beginning only,
     * `always` behind every added token too. */
    enum { METASPACE_NEVER, METASPACE_FIRST, METASPACE_ALWAYS } scheme;
    text_buffer_t mark;
} metaspace_t;

/* What a token adds to a text, where tokens are texts. */
typedef struct token_text {
    uint32_t begin, bytes; /* in texts_arena */
    bool is_byte;          /* one byte of a character */
} token_text_t;

struct tokenizer {
    vocabulary_t vocabulary;
    bpe_t bpe;
    added_tokens_t added;
    bool is_text;                 /* tokens are texts, as SentencePiece makes them, and not bytes */
    pretokenizer_t *pretokenizer; /* of tokens that are bytes */
    metaspace_t metaspace;        /* of tokens that are texts */
    /* The same, made when all tokens are known: in every token `decode_from` becomes `decode_to`, and
     * up to `strip` spaces at the beginning of a text go. */
    text_buffer_t decode_from, decode_to, texts_arena;
    size_t strip;
    token_text_t *texts; /* [vocabulary.size] */
    uint8_t *properties; /* see unicode.h */
    normalizer_t normalizer;
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

/* Its pre_tokenizer, decoder and post_processor, before the model. */
int tokenizer_read_pipeline(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail);

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
/* Makes `texts`; after the last token. */
int tokenizer_make_texts(tokenizer_t *tokenizer, fail_t *fail);
/* Call after the last of them. */
int tokenizer_finish_added(tokenizer_t *tokenizer, const char *file, fail_t *fail);
/* The added tokens of a tokenizer.json: *specs is freshly allocated. */
int tokenizer_json_specs(
    json_t *root, const char *name, added_spec_t **specs, size_t *n, fail_t *fail);

#endif
