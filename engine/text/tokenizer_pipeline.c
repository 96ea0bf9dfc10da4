/* Reads the parts of tokenizer.json that lie around its model:
 *
 *   pre_tokenizer   Sequence of Split (regular expression, Isolated) and ByteLevel (without an
 *                   expression); or, where tokens are texts, null or Metaspace
 *   post_processor  null, ByteLevel, which leaves ids alone, TemplateProcessing (tokens around a
 *                   text), or a Sequence of these
 *   decoder         ByteLevel; where tokens are texts, a Sequence of Replace, ByteFallback, Fuse and,
 *                   or not, Strip of characters at the start */
#include <string.h>

#include "engine/text/tokenizer_internal.h"
#include "engine/text/tokenizer_parts.h"
#include "engine/text/unicode.h"

/* The one element of a Sequence of one, or the part itself. */
static json_t *unwrap(json_t *part, const char *list)
{
    json_t *elements = json_object_get(part, list);
    if (strcmp(part_type(part), "Sequence") == 0 && json_array_size(elements) == 1)
        return json_array_get(elements, 0);
    return part;
}

/* A ByteLevel part that maps bytes and does nothing else. `tokenizers` takes absent members for
 * true. */
static bool is_plain_byte_level(const json_t *part)
{
    return strcmp(part_type(part), "ByteLevel") == 0 &&
           json_is_false(json_object_get(part, "add_prefix_space")) &&
           json_is_false(json_object_get(part, "use_regex"));
}

static int read_split(tokenizer_t *tokenizer, json_t *split, const char *name, fail_t *fail)
{
    static const char member[] = "pre_tokenizer";
    const json_t *behavior = json_object_get(split, "behavior");
    if (!json_is_string(behavior) || strcmp(json_string_value(behavior), "Isolated") != 0)
        return part_refuse(name, member, "Split with behavior \"Isolated\"", behavior, fail);
    if (json_is_true(json_object_get(split, "invert")))
        return part_refuse(
            name, member, "Split with invert false", json_object_get(split, "invert"), fail);
    json_t *pattern = json_object_get(split, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    if (!json_is_string(regex))
        return part_refuse(name, member, "Split with a pattern {\"Regex\": string}", pattern, fail);
    return pretokenizer_open(
        &tokenizer->pretokenizer, json_string_value(regex), json_string_length(regex), name, fail);
}

static int read_metaspace(tokenizer_t *tokenizer, json_t *part, const char *name, fail_t *fail)
{
    static const char member[] = "pre_tokenizer";
    static const char *const schemes[] = {"never", "first", "always"};
    metaspace_t *m = &tokenizer->metaspace;
    const char *scheme = "always";
    bool prepends = true;
    m->replaces = m->splits = true;
    if (part_text(part, "replacement", &m->mark, name, member, fail) != 0 ||
        json_opt_bool(part, name, "split", &m->splits, fail) != 0 ||
        json_opt_bool(part, name, "add_prefix_space", &prepends, fail) != 0 ||
        json_opt_string(part, name, "prepend_scheme", &scheme, fail) != 0)
        return fail->status;
    if (utf8_length((unsigned char)m->mark.text[0]) != m->mark.bytes)
        return part_refuse(
            name, member, "Metaspace with a replacement of one character", part, fail);
    /* The older name of the scheme. */
    if (!prepends)
        scheme = "never";
    for (m->scheme = METASPACE_NEVER; m->scheme <= METASPACE_ALWAYS; m->scheme++)
        if (strcmp(scheme, schemes[m->scheme]) == 0)
            return 0;
    return part_refuse(
        name, member, "Metaspace with a prepend_scheme never, first or always", part, fail);
}

static int read_pretokenizer(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    static const char member[] = "pre_tokenizer";
    json_t *whole = json_object_get(root, member);
    json_t *part = unwrap(whole, "pretokenizers"), *parts = json_object_get(whole, "pretokenizers");
    json_t *split = json_array_get(parts, 0), *bytes = json_array_get(parts, 1);
    tokenizer->is_text = part_is_absent(whole) || strcmp(part_type(part), "Metaspace") == 0;
    if (tokenizer->is_text)
        return part_is_absent(whole) ? 0 : read_metaspace(tokenizer, part, name, fail);
    if (strcmp(part_type(whole), "Sequence") != 0 || json_array_size(parts) != 2 ||
        strcmp(part_type(split), "Split") != 0 || strcmp(part_type(bytes), "ByteLevel") != 0)
        return part_refuse(
            name, member, "a Sequence of Split and ByteLevel, Metaspace or null", whole, fail);
    if (!is_plain_byte_level(bytes))
        return part_refuse(name, member, "ByteLevel without prefix space and regex", bytes, fail);
    return read_split(tokenizer, split, name, fail);
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
            return part_refuse(name, "post_processor: TemplateProcessing",
                "a Sequence or a SpecialToken with ids", piece, fail);
        if (append_template_ids(ids, n_texts > 0 ? &tokenizer->suffix : &tokenizer->prefix, fail) !=
            0)
            return fail->status;
    }
    if (n_texts != 1)
        return part_refuse(name, "post_processor: TemplateProcessing",
            "a \"single\" with one Sequence", post, fail);
    return 0;
}

/* ByteLevel does not change ids. */
static int read_post_processor(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    json_t *post = json_object_get(root, "post_processor"), *part;
    if (part_is_absent(post))
        return 0;
    bool sequence = strcmp(part_type(post), "Sequence") == 0;
    json_t *parts = json_object_get(post, "processors");
    size_t i, n = sequence ? json_array_size(parts) : 1;
    for (i = 0; i < n; i++) {
        part = sequence ? json_array_get(parts, i) : post;
        if (strcmp(part_type(part), "TemplateProcessing") == 0 && tokenizer->prefix.count == 0 &&
            tokenizer->suffix.count == 0)
            read_template(tokenizer, part, name, fail);
        else if (strcmp(part_type(part), "ByteLevel") != 0)
            part_refuse(name, "post_processor",
                "null, ByteLevel, one TemplateProcessing or a Sequence of these", part, fail);
        if (fail->status != 0)
            return fail->status;
    }
    return 0;
}

/* The text of tokens that are texts: a mark becomes a space, bytes become characters, and spaces at
 * the start go. */
static int read_text_decoder(
    tokenizer_t *tokenizer, json_t *decoder, const char *name, fail_t *fail)
{
    static const char member[] = "decoder";
    static const char expected[] =
        "a Sequence of Replace, ByteFallback, Fuse and, or not, Strip of spaces at the start, as pre_tokenizer has no ByteLevel";
    static const char *const order[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
    json_t *parts = json_object_get(decoder, "decoders");
    size_t n = json_array_size(parts);
    if (strcmp(part_type(decoder), "Sequence") != 0 || n < 3 || n > 4)
        return part_refuse(name, member, expected, decoder, fail);
    for (size_t i = 0; i < n; i++)
        if (strcmp(part_type(json_array_get(parts, i)), order[i]) != 0)
            return part_refuse(name, member, expected, json_array_get(parts, i), fail);
    if (n == 4) {
        json_t *strip = json_array_get(parts, 3);
        const char *content = json_string_value(json_object_get(strip, "content"));
        size_t at_the_end = 0;
        if (content == NULL || strcmp(content, " ") != 0 ||
            json_opt_size(strip, name, "stop", 0, 1024, &at_the_end, fail) != 0 || at_the_end > 0)
            return fail->status != 0 ? fail->status
                                     : part_refuse(name, member, expected, strip, fail);
        if (json_opt_size(strip, name, "start", 0, 1024, &tokenizer->strip, fail) != 0)
            return fail->status;
    }
    return part_replacement(json_array_get(parts, 0), &tokenizer->decode_from,
        &tokenizer->decode_to, name, member, fail);
}

static int read_decoder(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    json_t *decoder = json_object_get(root, "decoder");
    if (tokenizer->is_text)
        return read_text_decoder(tokenizer, decoder, name, fail);
    if (strcmp(part_type(unwrap(decoder, "decoders")), "ByteLevel") != 0)
        return part_refuse(name, "decoder", "ByteLevel, as pre_tokenizer has it", decoder, fail);
    return 0;
}

int tokenizer_read_pipeline(tokenizer_t *tokenizer, json_t *root, const char *name, fail_t *fail)
{
    if (read_pretokenizer(tokenizer, root, name, fail) == 0 &&
        read_decoder(tokenizer, root, name, fail) == 0)
        read_post_processor(tokenizer, root, name, fail);
    return fail->status;
}
