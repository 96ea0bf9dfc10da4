/* BPE as Hugging Face `tokenizers` does it: of bytes, for Qwen, Llama 3 and Mistral's Tekken, or of
 * texts with a fall back to bytes, as SentencePiece makes them, for Llama 2 and Mistral 7B.
 *
 * Reads tokenizer.json, or vocab.json + merges.txt; and from a directory the added tokens as
 * transformers merges them from its files (tokenizer_directory.c). A tokenizer that opens gives the
 * ids that these give; kinds and options that it does not know are refused. It is immutable after
 * opening: any number of threads may encode and decode with it at the same time. A detokenizer and
 * a text_buffer belong to one thread. */
#ifndef CHOIR_TEXT_TOKENIZER_H
#define CHOIR_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/text_buffer.h"
#include "engine/text/token_ids.h"

typedef struct tokenizer tokenizer_t;

/* FAIL_FILE when the directory has neither form, FAIL_FORMAT, FAIL_MODEL for a kind of tokenizer
 * that is not known. */
int tokenizer_open(tokenizer_t **tokenizer, const char *directory, fail_t *fail);

/* From the text of a tokenizer.json; name: for messages. */
int tokenizer_open_json(
    tokenizer_t **tokenizer, const char *text, size_t bytes, const char *name, fail_t *fail);

/* NULL is allowed. */
void tokenizer_close(tokenizer_t *tokenizer);

/* One more than the largest id. */
size_t tokenizer_size(const tokenizer_t *tokenizer);

/* Id of an added token by its content ("<|im_end|>"), or -1. */
int32_t tokenizer_special_id(const tokenizer_t *tokenizer, const char *content);
bool tokenizer_is_special(const tokenizer_t *tokenizer, int32_t id);

/* Appends the ids of text (bytes long, need not end in zero, may hold zero bytes). Invalid UTF-8 is
 * replaced by U+FFFD as Python's bytes.decode("utf-8", "replace") does. parse_special: special
 * tokens' text becomes their ids, as `tokenizers` does; otherwise it is ordinary text. Added tokens
 * that are not marked special ("<tool_call>") are found either way. FAIL_MEMORY, FAIL_LIMIT for
 * text of 2 GiB or more; nothing is appended then. */
int tokenizer_encode(const tokenizer_t *tokenizer, const char *text, size_t bytes,
    bool parse_special, tokenizer_ids_t *ids, fail_t *fail);

/* The same for a text by itself, special tokens included, with the tokens that the tokenizer's
 * post-processor puts around it: transformers' add_special_tokens=True. Not for what a chat
 * template wrote, which says these tokens itself. */
int tokenizer_encode_whole(const tokenizer_t *tokenizer, const char *text, size_t bytes,
    tokenizer_ids_t *ids, fail_t *fail);

/* Text of ids: a freshly allocated string (*bytes long, with a zero byte behind it) that the caller
 * frees. Incomplete or invalid UTF-8 becomes U+FFFD as Python does it. skip_special leaves special
 * tokens out. FAIL_USAGE for an id that does not exist. */
int tokenizer_decode(const tokenizer_t *tokenizer, const int32_t *ids, size_t count,
    bool skip_special, char **text, size_t *bytes, fail_t *fail);

/* The raw bytes of one id (borrowed), a space for a mark; NULL when the id does not exist. */
const char *tokenizer_bytes(const tokenizer_t *tokenizer, int32_t id, size_t *bytes);

/* FAIL_MODEL naming the first id that is not the same token in both; what: the flag that named `other`. */
int tokenizer_check_same(
    const tokenizer_t *tokenizer, const tokenizer_t *other, const char *what, fail_t *fail);

/* Streaming: takes ids one by one and returns only whole UTF-8 sequences. The concatenation of all
 * pieces and of the flush equals tokenizer_decode. Zero-initialise; clear. */
typedef struct detokenizer {
    unsigned char pending[8];
    size_t n_pending;
    /* Where tokens are texts: bytes that follow each other are characters all together, or not. */
    text_buffer_t run;
    size_t n_stripped; /* spaces at the beginning that were left out */
    bool began;        /* something was said, or all was stripped that may be */
} detokenizer_t;

void detokenizer_clear(detokenizer_t *detokenizer);

/* Appends to *out the text that is complete after this id. An id that the tokenizer does not have
 * adds nothing, as with `tokenizers`: models have more rows in lm_head than their tokenizers have
 * tokens. FAIL_USAGE for a negative one. */
int detokenizer_push(detokenizer_t *detokenizer, const tokenizer_t *tokenizer, int32_t id,
    bool skip_special, text_buffer_t *out, fail_t *fail);

/* The end of the text: an incomplete sequence becomes U+FFFD. */
int detokenizer_flush(
    detokenizer_t *detokenizer, const tokenizer_t *tokenizer, text_buffer_t *out, fail_t *fail);

#endif
