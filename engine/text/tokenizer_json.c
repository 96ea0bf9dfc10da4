/* Reads tokenizer.json, the form of Hugging Face `tokenizers`:
 *
 *   added_tokens    [{id, content, special, normalized, lstrip, rstrip, single_word}]
 *   normalizer      null or NFC
 *   pre_tokenizer   Sequence of Split (regular expression, Isolated) and ByteLevel (without an
 * expression)
 *   post_processor  null, ByteLevel, which leaves ids alone, or TemplateProcessing: tokens around a
 * text decoder         ByteLevel model           BPE: vocab {token: id}, merges ["left right"] or
 * [["left", "right"]]
 *
 * truncation and padding are for batches of training data and play no part here. Whatever else
 * would change ids is refused, so that a tokenizer that opens gives the ids that `tokenizers`
 * gives. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer_internal.h"

/* The "type" of a part, "" when there is none. */
static const char *type_of(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    return type != NULL ? type : "";
}

static int refuse(
    const char *name, const char *part, const char *expected, const json_t *found, fail_t *fail)
{
    char *text = found != NULL ? json_dumps(found, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    fail_set(fail, FAIL_MODEL, "%s: %s: expected %s, found %.200s", name, part, expected,
        text != NULL ? text : "nothing");
    free(text);
    return fail->status;
}

/* The one element of a Sequence of one, or the part itself. */
static json_t *unwrap(json_t *part, const char *list)
{
    json_t *elements = json_object_get(part, list);
    if (strcmp(type_of(part), "Sequence") == 0 && json_array_size(elements) == 1)
        return json_array_get(elements, 0);
    return part;
}

static bool is_absent(const json_t *part)
{
    return part == NULL || json_is_null(part);
}

static int read_normalizer(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    json_t *normalizer = json_object_get(root, "normalizer");
    if (is_absent(normalizer))
        return 0;
    tokenizer->normalizes = true;
    if (strcmp(type_of(unwrap(normalizer, "normalizers")), "NFC") != 0)
        refuse(name, "normalizer", "null or NFC", normalizer, fail);
    return fail->status;
}

/* A ByteLevel part that maps bytes and does nothing else. `tokenizers` takes absent members for
 * true. */
static bool is_plain_byte_level(const json_t *part)
{
    return strcmp(type_of(part), "ByteLevel") == 0 &&
           json_is_false(json_object_get(part, "add_prefix_space")) &&
           json_is_false(json_object_get(part, "use_regex"));
}

static int read_pretokenizer(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    static const char part[] = "pre_tokenizer";
    json_t *whole = json_object_get(root, part);
    json_t *parts = json_object_get(whole, "pretokenizers");
    json_t *split = json_array_get(parts, 0), *bytes = json_array_get(parts, 1);
    if (strcmp(type_of(whole), "Sequence") != 0 || json_array_size(parts) != 2 ||
        strcmp(type_of(split), "Split") != 0 || strcmp(type_of(bytes), "ByteLevel") != 0)
        return refuse(name, part, "a Sequence of Split and ByteLevel", whole, fail);
    if (!is_plain_byte_level(bytes))
        return refuse(name, part, "ByteLevel without prefix space and regex", bytes, fail);
    const json_t *behavior = json_object_get(split, "behavior");
    if (!json_is_string(behavior) || strcmp(json_string_value(behavior), "Isolated") != 0)
        return refuse(name, part, "Split with behavior \"Isolated\"", behavior, fail);
    if (json_is_true(json_object_get(split, "invert")))
        return refuse(
            name, part, "Split with invert false", json_object_get(split, "invert"), fail);
    json_t *pattern = json_object_get(split, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    if (!json_is_string(regex))
        return refuse(name, part, "Split with a pattern {\"Regex\": string}", pattern, fail);
    return pretokenizer_open(
        &tokenizer->pretokenizer, json_string_value(regex), json_string_length(regex), name, fail);
}

static int append_template_ids(json_t *ids, tokenizer_ids_t *side, fail_t *fail)
{
    size_t i;
    json_t *id;
    json_array_foreach (ids, i, id) {
        if (tokenizer_ids_reserve(side, 1, fail) != 0)
            return fail->status;
        side->ids[side->count++] = (int32_t)json_integer_value(id);
    }
    return 0;
}

static bool are_ids(json_t *ids)
{
    size_t i;
    json_t *id;
    json_array_foreach (ids, i, id)
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > VOCABULARY_ID_MAX)
            return false;
    return json_array_size(ids) > 0;
}

/* TemplateProcessing: special tokens before and behind a text, which is {"Sequence": {"id": "A"}}.
 */
static int read_template(tokenizer_t *tokenizer, json_t *post, const char *name, fail_t *fail)
{
    json_t *single = json_object_get(post, "single"), *piece;
    size_t i, n_texts = 0;
    json_array_foreach (single, i, piece) {
        const char *special =
            json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        if (json_object_get(piece, "Sequence") != NULL) {
            n_texts++;
            continue;
        }
        json_t *tokens = json_object_get(post, "special_tokens");
        json_t *ids =
            special == NULL ? NULL : json_object_get(json_object_get(tokens, special), "ids");
        if (!are_ids(ids))
            return refuse(name, "post_processor: TemplateProcessing",
                "a Sequence or a SpecialToken with ids", piece, fail);
        if (append_template_ids(ids, n_texts > 0 ? &tokenizer->suffix : &tokenizer->prefix, fail) !=
            0)
            return fail->status;
    }
    if (n_texts != 1)
        return refuse(name, "post_processor: TemplateProcessing", "a \"single\" with one Sequence",
            post, fail);
    return 0;
}

/* ByteLevel does not change ids. */
static int read_post_processor(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    json_t *post = json_object_get(root, "post_processor"), *part;
    if (is_absent(post))
        return 0;
    bool sequence = strcmp(type_of(post), "Sequence") == 0;
    json_t *parts = json_object_get(post, "processors");
    size_t i, n = sequence ? json_array_size(parts) : 1;
    for (i = 0; i < n; i++) {
        part = sequence ? json_array_get(parts, i) : post;
        if (strcmp(type_of(part), "TemplateProcessing") == 0 && tokenizer->prefix.count == 0 &&
            tokenizer->suffix.count == 0)
            read_template(tokenizer, part, name, fail);
        else if (strcmp(type_of(part), "ByteLevel") != 0)
            refuse(name, "post_processor", "null, ByteLevel or TemplateProcessing", post, fail);
        if (fail->status != 0)
            return fail->status;
    }
    return 0;
}

static int check_decoder(json_t *root, const char *name, fail_t *fail)
{
    json_t *decoder = json_object_get(root, "decoder");
    if (strcmp(type_of(unwrap(decoder, "decoders")), "ByteLevel") != 0)
        return refuse(name, "decoder", "ByteLevel", decoder, fail);
    return 0;
}

/* null, or the value that means nothing. */
static bool is_neutral_string(const json_t *value)
{
    return is_absent(value) || (json_is_string(value) && json_string_length(value) == 0);
}

static int check_model(tokenizer_t *tokenizer, json_t *model, const char *name, fail_t *fail)
{
    if (!json_is_object(model))
        return fail_set(fail, FAIL_FORMAT, "%s: model: expected an object", name);
    if (strcmp(type_of(model), "BPE") != 0)
        return fail_set(
            fail, FAIL_MODEL, "%s: model: expected type BPE, found \"%s\"", name, type_of(model));
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_absent(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0.0))
        return fail_set(fail, FAIL_MODEL, "%s: model: dropout is not supported", name);
    if (!is_neutral_string(json_object_get(model, "continuing_subword_prefix")))
        return fail_set(
            fail, FAIL_MODEL, "%s: model: continuing_subword_prefix is not supported", name);
    if (!is_neutral_string(json_object_get(model, "end_of_word_suffix")))
        return fail_set(fail, FAIL_MODEL, "%s: model: end_of_word_suffix is not supported", name);
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
    if (bpe_init(&tokenizer->bpe, &tokenizer->vocabulary, json_array_size(merges), name, fail) != 0)
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
    if (!is_absent(added) && !json_is_array(added))
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
    if (read_normalizer(tokenizer, root, name, fail) == 0 &&
        read_post_processor(tokenizer, root, name, fail) == 0 &&
        check_decoder(root, name, fail) == 0 && read_model(tokenizer, root, name, fail) == 0)
        read_pretokenizer(tokenizer, root, name, fail);
    return fail->status;
}
