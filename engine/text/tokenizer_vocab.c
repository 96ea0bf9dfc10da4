/* Reads the older form of a byte-level BPE tokenizer, three files that do not say how text is
 * normalised and split; that is taken to be Qwen2's way, and tokenizer_config.json must not
 * contradict it.
 *
 *   vocab.json             {token: id}
 *   merges.txt             a line "#version: ...", then "left right" a line, in the order of ranks
 *   tokenizer_config.json  added_tokens_decoder {"id": {content, special, normalized, lstrip, ...}}
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/text/tokenizer_internal.h"
#include "engine/text/unicode.h"

#define PATH_BYTES 4096
#define FILE_BYTES_MAX ((size_t)256 << 20)

static size_t count_lines(const char *text, size_t bytes)
{
    size_t lines = 1;
    for (size_t i = 0; i < bytes; i++)
        lines += text[i] == '\n';
    return lines;
}

static int read_merges(tokenizer_t *tokenizer, const char *path, fail_t *fail)
{
    char *text;
    size_t bytes;
    if (text_file_read(path, FILE_BYTES_MAX, &text, &bytes, fail) != 0)
        return fail->status;
    const char *end = text + bytes, *line = text, *stop;
    uint32_t rank = 0;
    if (utf8_valid_prefix(text, bytes) < bytes)
        fail_set(fail, FAIL_FORMAT, "%s: not valid UTF-8 at byte %zu", path,
            utf8_valid_prefix(text, bytes));
    else
        bpe_init(&tokenizer->bpe, &tokenizer->vocabulary, count_lines(text, bytes), path, fail);
    for (size_t number = 1; line < end && fail->status == 0; line = stop + 1, number++) {
        stop = memchr(line, '\n', (size_t)(end - line));
        if (stop == NULL)
            stop = end;
        size_t length = (size_t)(stop - line);
        if (length > 0 && line[length - 1] == '\r')
            length--;
        if (length == 0 || (length >= 8 && memcmp(line, "#version", 8) == 0))
            continue;
        const char *space = memchr(line, ' ', length);
        if (space == NULL || memchr(space + 1, ' ', length - (size_t)(space + 1 - line)) != NULL)
            fail_set(fail, FAIL_FORMAT, "%s: line %zu: expected two tokens with a space between",
                path, number);
        else
            tokenizer_add_merge(tokenizer, line, (size_t)(space - line), space + 1,
                length - (size_t)(space + 1 - line), rank++, path, fail);
    }
    free(text);
    return fail->status;
}

/* The class decides how text is split; other classes have other expressions. */
static int check_class(json_t *config, const char *path, fail_t *fail)
{
    const char *class = "Qwen2Tokenizer";
    bool prefix_space = false;
    if (json_opt_string(config, path, "tokenizer_class", &class, fail) != 0 ||
        json_opt_bool(config, path, "add_prefix_space", &prefix_space, fail) != 0)
        return fail->status;
    if (strcmp(class, "Qwen2Tokenizer") != 0 && strcmp(class, "Qwen2TokenizerFast") != 0)
        return fail_set(fail, FAIL_MODEL,
            "%s: tokenizer_class: expected Qwen2Tokenizer (others need a tokenizer.json), found %s",
            path, class);
    if (prefix_space)
        return fail_set(fail, FAIL_MODEL, "%s: add_prefix_space: true is not supported", path);
    return 0;
}

static int read_added(tokenizer_t *tokenizer, json_t *config, const char *path, fail_t *fail)
{
    json_t *added = json_object_get(config, "added_tokens_decoder");
    if (!json_is_object(added))
        return fail_set(fail, FAIL_FORMAT,
            "%s: added_tokens_decoder: expected an object of ids and added tokens", path);
    const char *key;
    json_t *token;
    json_object_foreach(added, key, token)
    {
        char *end;
        long id = strtol(key, &end, 10);
        if (*key < '0' || *key > '9' || *end != 0 || id > VOCABULARY_ID_MAX)
            return fail_set(fail, FAIL_FORMAT,
                "%s: added_tokens_decoder: expected ids from 0 to %d as keys, found \"%.32s\"",
                path, VOCABULARY_ID_MAX, key);
        if (tokenizer_add_added(tokenizer, token, (int32_t)id, path, fail) != 0)
            return fail->status;
    }
    return 0;
}

static int read_config(tokenizer_t *tokenizer, const char *path, fail_t *fail)
{
    json_t *config;
    if (json_file_read(path, &config, fail) != 0)
        return fail->status;
    if (!json_is_object(config))
        fail_set(fail, FAIL_FORMAT, "%s: expected a JSON object", path);
    else if (check_class(config, path, fail) == 0)
        read_added(tokenizer, config, path, fail);
    json_decref(config);
    return fail->status;
}

int tokenizer_read_vocab(tokenizer_t *tokenizer, const char *directory, fail_t *fail)
{
    static const char *const names[3] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    char paths[3][PATH_BYTES];
    for (int i = 0; i < 3; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%s", directory, names[i]);
        if (access(paths[i], F_OK) != 0)
            return fail_set(fail, FAIL_FILE,
                "%s: expected tokenizer.json, or vocab.json, merges.txt and tokenizer_config.json; "
                "there is no %s",
                directory, i == 0 ? "tokenizer.json and no vocab.json" : names[i]);
    }
    json_t *vocab;
    if (json_file_read(paths[0], &vocab, fail) != 0)
        return fail->status;
    tokenizer->normalizes = true;
    tokenizer_add_vocab(tokenizer, vocab, paths[0], fail);
    json_decref(vocab);
    if (fail->status == 0 && read_merges(tokenizer, paths[1], fail) == 0 &&
        pretokenizer_open(&tokenizer->pretokenizer, pretokenizer_qwen2, strlen(pretokenizer_qwen2),
            paths[1], fail) == 0)
        read_config(tokenizer, paths[2], fail);
    return fail->status;
}
