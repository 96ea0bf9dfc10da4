#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/text/tokenizer.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/output.h"
#include "launch/prompts.h"
#include "sharding/store/store.h"

typedef struct tokenize_flags {
    common_flags_t common;
    bool lines, decode;
} tokenize_flags_t;

typedef struct converter {
    const tokenizer_t *tokenizer;
    output_t output;
    bool lines;
} converter_t;

static int encode(converter_t *converter, const char *text, size_t bytes, fail_t *fail)
{
    tokenizer_ids_t ids = {0};
    if (tokenizer_encode_whole(converter->tokenizer, text, bytes, &ids, fail) == 0) {
        /* By hand: texts may be large, and a JSON value for each id larger. An id takes at most
         * 10 digits and a comma. */
        char *line = malloc(ids.count * 11 + 4);
        size_t length = 0;
        if (line == NULL) {
            fail_set(fail, FAIL_MEMORY, "output: out of memory for %zu ids", ids.count);
        } else {
            line[length++] = '[';
            for (size_t i = 0; i < ids.count; i++)
                length += (size_t)sprintf(line + length, i > 0 ? ",%d" : "%d", ids.ids[i]);
            length += (size_t)sprintf(line + length, "]\n");
            output_write(&converter->output, line, length, fail);
        }
        free(line);
    }
    tokenizer_ids_clear(&ids);
    return fail->status;
}

static int ids_of(json_t *array, const char *name, tokenizer_ids_t *ids, fail_t *fail)
{
    size_t i, n = json_array_size(array);
    json_t *id;
    if (!json_is_array(array))
        return fail_set(fail, FAIL_FORMAT, "%s: expected an array of ids", name);
    ids->ids = malloc((n + 1) * sizeof *ids->ids);
    if (ids->ids == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory for %zu ids", name, n);
    json_array_foreach (array, i, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return fail_set(fail, FAIL_FORMAT,
                "%s: expected token ids, found something else at index %zu", name, i);
        ids->ids[ids->count++] = (int32_t)json_integer_value(id);
    }
    return 0;
}

static int decode(
    converter_t *converter, const char *text, size_t bytes, const char *name, fail_t *fail)
{
    json_t *array;
    tokenizer_ids_t ids = {0};
    char *decoded = NULL;
    size_t decoded_bytes;
    if ((converter->lines ? json_line_read : json_text_read)(text, bytes, name, &array, fail) != 0)
        return fail->status;
    if (ids_of(array, name, &ids, fail) == 0 &&
        tokenizer_decode(
            converter->tokenizer, ids.ids, ids.count, false, &decoded, &decoded_bytes, fail) == 0)
        output_write(&converter->output, decoded, decoded_bytes, fail);
    if (fail->status == 0 && converter->lines)
        output_write(&converter->output, "\n", 1, fail);
    free(decoded);
    tokenizer_ids_clear(&ids);
    json_decref(array);
    return fail->status;
}

static int convert_lines(
    converter_t *converter, bool decodes, const char *text, size_t bytes, fail_t *fail)
{
    const char *end = text + bytes;
    for (size_t number = 1; text < end && fail->status == 0 && !converter->output.closed;
         number++) {
        char name[64];
        snprintf(name, sizeof name, "standard input: line %zu", number);
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t length = newline != NULL ? (size_t)(newline - text) : (size_t)(end - text);
        if (decodes)
            decode(converter, text, length, name, fail);
        else
            encode(converter, text, length, fail);
        text += length + 1;
    }
    return fail->status;
}

static int cmd_tokenize(invocation_t *invocation, fail_t *fail)
{
    const tokenize_flags_t *flags = invocation->flags;
    char directory[4096];
    tokenizer_t *tokenizer = NULL;
    char *text = NULL;
    size_t bytes;
    if (comm_rank(invocation->comm) != 0)
        return 0;
    if (model_dir_find(flags->common.model, directory, sizeof directory, fail) == 0 &&
        store_check_copied(directory, fail) == 0 &&
        tokenizer_open(&tokenizer, directory, fail) == 0 &&
        prompts_read_stdin(SIZE_MAX, &text, &bytes, fail) == 0) {
        converter_t converter = {.tokenizer = tokenizer, .lines = flags->lines};
        if (flags->lines)
            convert_lines(&converter, flags->decode, text, bytes, fail);
        else if (flags->decode)
            decode(&converter, text, bytes, "standard input", fail);
        else
            encode(&converter, text, bytes, fail);
    }
    free(text);
    tokenizer_close(tokenizer);
    return fail->status;
}

#define AT(member) offsetof(tokenize_flags_t, member)

static const arg_t tokenize_args[] = {
    FLAG_SWITCH(
        "--lines", AT(lines), "Every line is a text (or, with --decode, an array) of its own."),
    FLAG_SWITCH("--decode", AT(decode), "From JSON arrays of ids to text."),
};
static const arg_group_t own = ARG_GROUP("Texts and ids", tokenize_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    PARTS_END,
};

static const tokenize_flags_t defaults = {.common = COMMON_DEFAULTS};

const command_t command_tokenize = {"tokenize",
    "choir tokenize [--model DIR] [--lines] [--decode] < TEXT", "text to token ids and back", parts,
    &defaults, sizeof defaults, NULL, cmd_tokenize};
