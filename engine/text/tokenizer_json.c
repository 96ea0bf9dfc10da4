/* Reads tokenizer.json, the form of Hugging Face `tokenizers`:
 *
 *   added_tokens    [{id, content, special, normalized, lstrip, rstrip, single_word}]
 *   normalizer      normalizer.h
 *   pre_tokenizer, post_processor, decoder   tokenizer_pipeline.c
 *   model           BPE: vocab {token: id}, merges ["left right"] or [["left", "right"]]
 *
 * truncation and padding are for batches of training data and play no part here. Whatever else
 * would change ids is refused, so that a tokenizer that opens gives the ids that `tokenizers`
 * gives. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer_internal.h"
#include "engine/text/tokenizer_parts.h"

/* null, or the value that means nothing. */
static bool is_neutral_string(const json_t *value)
{
    return part_is_absent(value) || (json_is_string(value) && json_string_length(value) == 0);
}

static int check_model(tokenizer_t *tokenizer, json_t *model, const char *name, fail_t *fail)
{
    if (!json_is_object(model))
        return fail_set(fail, FAIL_FORMAT, "%s: model: expected an object", name);
    if (strcmp(part_type(model), "BPE") != 0)
        return fail_set(
            fail, FAIL_MODEL, "%s: model: expected type BPE, found \"%s\"", name, part_type(model));
    const json_t *dropout = json_object_get(model, "dropout");
    if (!part_is_absent(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0.0))
        return fail_set(fail, FAIL_MODEL, "%s: model: dropout is not supported", name);
    if (!is_neutral_string(json_object_get(model, "continuing_subword_prefix")))
        return fail_set(
            fail, FAIL_MODEL, "%s: model: continuing_subword_prefix is not supported", name);
    if (!is_neutral_string(json_object_get(model, "end_of_word_suffix")))
        return fail_set(fail, FAIL_MODEL, "%s: model: end_of_word_suffix is not supported", name);
    /* Every byte is a token of byte-level BPE, and then nothing falls back. */
    if (tokenizer->is_text && !json_is_true(json_object_get(model, "byte_fallback")))
        return fail_set(fail, FAIL_MODEL,
            "%s: model: byte_fallback: expected true, as pre_tokenizer has no ByteLevel", name);
    return json_opt_bool(model, name, "ignore_merges", &tokenizer->ignores_merges, fail);
}

/* A merge as one string, "left right", or as two. */
static int read_merge(
    tokenizer_t *tokenizer, const json_t *merge, uint32_t rank, const char *name, fail_t *fail)
{
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    if (json_array_size(merge) == 2 && json_is_string(left) && json_is_string(right))
        return tokenizer_add_merge(tokenizer, json_string_value(left), json_string_length(left),
            json_string_value(right), json_string_length(right), rank, name, fail);
    const char *text = json_string_value(merge);
    const char *space = text != NULL ? strchr(text, ' ') : NULL;
    if (space == NULL || strlen(text) != json_string_length(merge))
        return fail_set(fail, FAIL_FORMAT,
            "%s: merge %u: expected two tokens, as [\"left\", \"right\"] or \"left right\"", name,
            rank);
    return tokenizer_add_merge(
        tokenizer, text, (size_t)(space - text), space + 1, strlen(space + 1), rank, name, fail);
}

static int read_model(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    json_t *model = json_object_get(root, "model");
    if (check_model(tokenizer, model, name, fail) != 0 ||
        tokenizer_add_vocab(tokenizer, json_object_get(model, "vocab"), name, fail) != 0)
        return fail->status;
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges))
        return fail_set(fail, FAIL_FORMAT, "%s: model: merges: expected an array", name);
    if (bpe_init(&tokenizer->bpe, &tokenizer->vocabulary, tokenizer->is_text,
            json_array_size(merges), name, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < json_array_size(merges); i++)
        if (read_merge(tokenizer, json_array_get(merges, i), (uint32_t)i, name, fail) != 0)
            return fail->status;
    return 0;
}

int tokenizer_json_specs(
    json_t *root, const char *name, added_spec_t **specs, size_t *n, fail_t *fail)
{
    json_t *added = json_object_get(root, "added_tokens"), *token;
    size_t i, id;
    *n = 0;
    *specs = malloc((json_array_size(added) + 1) * sizeof **specs);
    if (*specs == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: no memory for its added tokens", name);
    if (!part_is_absent(added) && !json_is_array(added))
        return fail_set(fail, FAIL_FORMAT, "%s: added_tokens: expected an array", name);
    json_array_foreach (added, i, token) {
        char where[512], what[64];
        snprintf(what, sizeof what, "added_tokens[%zu]", i);
        snprintf(where, sizeof where, "%s: %s", name, what);
        if (json_get_size(token, where, "id", 0, (size_t)VOCABULARY_ID_MAX, &id, fail) != 0 ||
            tokenizer_read_added(&(*specs)[i], token, name, what, fail) != 0)
            return fail->status;
        (*specs)[i].id = (int32_t)id;
        *n = i + 1;
    }
    return 0;
}

int tokenizer_read_json_added(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    added_spec_t *specs;
    size_t n;
    if (tokenizer_json_specs(root, name, &specs, &n, fail) == 0)
        tokenizer_add_tokens(tokenizer, specs, n, name, fail);
    free(specs);
    return fail->status;
}

int tokenizer_read_json(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    if (!json_is_object(root))
        return fail_set(fail, FAIL_FORMAT, "%s: expected a JSON object", name);
    if (normalizer_read(&tokenizer->normalizer, json_object_get(root, "normalizer"), name, fail) ==
            0 &&
        tokenizer_read_pipeline(tokenizer, root, name, fail) == 0)
        read_model(tokenizer, root, name, fail);
    return fail->status;
}
