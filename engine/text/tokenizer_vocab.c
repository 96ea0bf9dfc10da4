/* Reads the older form of a byte-level BPE tokenizer, files that do not say how text is normalised
 * and split; that is taken to be Qwen2's way, as transformers does.
 *
 *   vocab.json  {token: id}
 *   merges.txt  a line "#version: ...", then "left right" a line, in the order of ranks
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
        bpe_init(
            &tokenizer->bpe, &tokenizer->vocabulary, false, count_lines(text, bytes), path, fail);
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

int tokenizer_read_vocab(tokenizer_t *tokenizer, const char *directory, fail_t *fail)
{
    static const char *const names[2] = {"vocab.json", "merges.txt"};
    char paths[2][PATH_BYTES];
    for (int i = 0; i < 2; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%s", directory, names[i]);
        if (access(paths[i], F_OK) != 0)
            return fail_set(fail, FAIL_FILE,
                "%s: expected tokenizer.json, or vocab.json and merges.txt; there is no %s",
                directory, i == 0 ? "tokenizer.json and no vocab.json" : names[i]);
    }
    json_t *vocab;
    if (json_file_read(paths[0], &vocab, fail) != 0)
        return fail->status;
    normalizer_set_nfc(&tokenizer->normalizer);
    tokenizer_add_vocab(tokenizer, vocab, paths[0], fail);
    json_decref(vocab);
    if (fail->status == 0 && read_merges(tokenizer, paths[1], fail) == 0)
        pretokenizer_open(&tokenizer->pretokenizer, pretokenizer_qwen2, strlen(pretokenizer_qwen2),
            paths[1], fail);
    return fail->status;
}
