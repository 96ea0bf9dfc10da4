/* Which added tokens a model directory has, where its files say different things: as transformers 5
 * merges them for Qwen2 and for LlamaTokenizer, which have their own rules, or by its general class
 * (docs/compatibility.md has the table).
 *
 *   tokenizer_config.json    added_tokens_decoder {"id": token}, which wins over all lists; else
 *   added_tokens.json        {content: id}
 *   tokenizer.json           added_tokens [token with id]
 *   special_tokens_map.json  names and extra tokens, without added_tokens_decoder only
 *
 * Then bos_token and the like, and extra_special_tokens, are special tokens, whether a list has
 * them or not. Ids follow from the order; those of the files are not taken (tokenizer_add_tokens).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/array.h"
#include "engine/base/log.h"
#include "engine/base/size.h"
#include "engine/text/tokenizer_internal.h"
#include "engine/text/unicode.h"

#define PATH_BYTES 4096

static const char *const attributes[] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
#define N_ATTRIBUTES (sizeof attributes / sizeof *attributes)
/* The class of transformers that reads a directory. */
typedef enum rules { RULES_GENERAL, RULES_QWEN2, RULES_LLAMA } rules_t;

/* Those of a class where no file names one. */
static const char *const fallbacks[][N_ATTRIBUTES] = {[RULES_GENERAL] = {NULL},
    [RULES_QWEN2] = {NULL, "<|endoftext|>", "<|endoftext|>", NULL, "<|endoftext|>", NULL, NULL},
    [RULES_LLAMA] = {"<s>", "</s>", "<unk>", NULL, NULL, NULL, NULL}};

typedef struct spec_list {
    added_spec_t *items;
    size_t count, capacity;
} spec_list_t;

/* A directory while it is read. */
typedef struct directory {
    tokenizer_t *tokenizer;
    json_t *root;   /* tokenizer.json, or NULL */
    json_t *config; /* tokenizer_config.json, or NULL */
    json_t *map;    /* special_tokens_map.json where it counts, or NULL */
    json_t *added;  /* added_tokens.json where it counts, or NULL */
    rules_t rules;
    char config_name[PATH_BYTES], map_name[PATH_BYTES], added_name[PATH_BYTES],
        root_name[PATH_BYTES];
    spec_list_t listed, named, extra;
    fail_t *fail;
} directory_t;

/* ---- Lists ----------------------------------------------------------------------------------- */

static int append(directory_t *d, spec_list_t *list, const added_spec_t *spec)
{
    if (array_reserve(&list->items, &list->capacity, list->count + 1, sizeof *list->items,
            "added tokens", d->fail) != 0)
        return d->fail->status;
    list->items[list->count] = *spec;
    list->items[list->count].place = list->count;
    list->count++;
    return 0;
}

static bool same_content(const added_spec_t *a, const added_spec_t *b)
{
    return a->bytes == b->bytes && memcmp(a->content, b->content, a->bytes) == 0;
}

/* The last one with the content, or NULL. */
static const added_spec_t *find(const spec_list_t *list, const added_spec_t *spec)
{
    for (size_t i = list->count; i > 0; i--)
        if (same_content(&list->items[i - 1], spec))
            return &list->items[i - 1];
    return NULL;
}

/* A special token that is given by its text. */
static added_spec_t special_spec(const char *content, size_t bytes)
{
    return (added_spec_t){.content = content, .bytes = bytes, .id = -1, .flags = {.special = true}};
}

static bool says_nothing(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

/* A token given by its text or as an object. */
static int read_token(
    directory_t *d, json_t *value, const char *file, const char *key, added_spec_t *spec)
{
    if (json_is_object(value))
        return tokenizer_read_added(spec, value, file, key, d->fail);
    if (!json_is_string(value))
        return fail_set(d->fail, FAIL_FORMAT,
            "%s: %s: expected a token, as a string or as an object with \"content\"", file, key);
    *spec = special_spec(json_string_value(value), json_string_length(value));
    return 0;
}

/* ---- Listed tokens --------------------------------------------------------------------------- */

static int read_decoder(directory_t *d, json_t *decoder)
{
    const char *key;
    json_t *token;
    if (!json_is_object(decoder))
        return fail_set(d->fail, FAIL_FORMAT,
            "%s: added_tokens_decoder: expected an object of ids and added tokens", d->config_name);
    json_object_foreach (decoder, key, token) {
        char *end, what[64];
        added_spec_t spec;
        long id = strtol(key, &end, 10);
        if (*key < '0' || *key > '9' || *end != 0 || id > VOCABULARY_ID_MAX)
            return fail_set(d->fail, FAIL_FORMAT,
                "%s: added_tokens_decoder: expected ids from 0 to %d as keys, found \"%.32s\"",
                d->config_name, VOCABULARY_ID_MAX, key);
        snprintf(what, sizeof what, "added token %ld", id);
        if (tokenizer_read_added(&spec, token, d->config_name, what, d->fail) != 0)
            return d->fail->status;
        spec.id = (int32_t)id;
        append(d, &d->listed, &spec);
    }
    return d->fail->status;
}

/* added_tokens.json: special are those that have a name. */
static int read_added_file(directory_t *d)
{
    const char *content;
    size_t bytes;
    json_t *id;
    json_object_keylen_foreach(d->added, content, bytes, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > VOCABULARY_ID_MAX)
            return fail_set(d->fail, FAIL_FORMAT, "%s: %.64s: expected an id from 0 to %d",
                d->added_name, content, VOCABULARY_ID_MAX);
        added_spec_t spec = special_spec(content, bytes);
        spec.id = (int32_t)json_integer_value(id);
        spec.flags.special = find(&d->named, &spec) != NULL || find(&d->extra, &spec) != NULL;
        append(d, &d->listed, &spec);
    }
    return d->fail->status;
}

static int read_root_tokens(directory_t *d)
{
    added_spec_t *specs;
    size_t n;
    if (d->root != NULL && tokenizer_json_specs(d->root, d->root_name, &specs, &n, d->fail) == 0) {
        for (size_t i = 0; i < n; i++)
            append(d, &d->listed, &specs[i]);
        free(specs);
    }
    return d->fail->status;
}

/* By id, then by place. */
static int compare_ids(const void *left, const void *right)
{
    const added_spec_t *a = left, *b = right;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

/* Sorts by id; of the same id, the last in the files stays. */
static void sort_listed(spec_list_t *list)
{
    size_t n = 0;
    if (list->count > 0)
        qsort(list->items, list->count, sizeof *list->items, compare_ids);
    for (size_t i = 0; i < list->count; i++) {
        if (n > 0 && list->items[n - 1].id == list->items[i].id)
            n--;
        list->items[n++] = list->items[i];
    }
    list->count = n;
}

static int read_listed(directory_t *d)
{
    json_t *decoder = json_object_get(d->config, "added_tokens_decoder");
    if (!says_nothing(decoder))
        read_decoder(d, decoder);
    else if (read_added_file(d) == 0)
        read_root_tokens(d);
    sort_listed(&d->listed);
    return d->fail->status;
}

/* ---- Named and extra tokens ------------------------------------------------------------------ */

/* What the files say of a key: the map, where it counts, wins. */
static json_t *said(directory_t *d, const char *key, const char **file)
{
    json_t *mapped = json_object_get(d->map, key);
    *file = mapped != NULL ? d->map_name : d->config_name;
    return mapped != NULL ? mapped : json_object_get(d->config, key);
}

static int add_named(directory_t *d, json_t *value, const char *file, const char *key)
{
    added_spec_t spec;
    if (read_token(d, value, file, key, &spec) != 0)
        return d->fail->status;
    spec.flags.special = true;
    return append(d, &d->named, &spec);
}

/* A name of the user's own: "image_token". */
static bool is_custom(const char *key, const json_t *value)
{
    size_t length = strlen(key);
    if (length < 6 || strcmp(key + length - 6, "_token") != 0 || !json_is_string(value))
        return false;
    for (size_t i = 0; i < N_ATTRIBUTES; i++)
        if (strcmp(key, attributes[i]) == 0)
            return false;
    return true;
}

static int add_customs(directory_t *d, json_t *object, const char *file)
{
    const char *key;
    json_t *value, *extra = json_object_get(object, "extra_special_tokens");
    json_object_foreach (object, key, value) {
        if (is_custom(key, value) && add_named(d, value, file, key) != 0)
            return d->fail->status;
    }
    if (json_is_object(extra))
        json_object_foreach (extra, key, value) {
            if (add_named(d, value, file, key) != 0)
                return d->fail->status;
        }
    return 0;
}

static int read_named(directory_t *d)
{
    for (size_t i = 0; i < N_ATTRIBUTES; i++) {
        const char *file;
        json_t *value = said(d, attributes[i], &file);
        if (!says_nothing(value) && add_named(d, value, file, attributes[i]) != 0)
            return d->fail->status;
    }
    return 0;
}

/* After the named ones of the files were used to tell what is special. */
static int add_fallbacks(directory_t *d)
{
    for (size_t i = 0; i < N_ATTRIBUTES && d->fail->status == 0; i++) {
        const char *file;
        const char *fallback = fallbacks[d->rules][i];
        if (fallback == NULL || said(d, attributes[i], &file) != NULL)
            continue;
        added_spec_t spec = special_spec(fallback, strlen(fallback));
        append(d, &d->named, &spec);
    }
    if (add_customs(d, d->map, d->map_name) == 0)
        add_customs(d, d->config, d->config_name);
    return d->fail->status;
}

static bool is_empty(const json_t *value)
{
    return says_nothing(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static int add_extras(directory_t *d, json_t *array, const char *file)
{
    static const char key[] = "extra_special_tokens";
    size_t i;
    json_t *value;
    if (!says_nothing(array) && !json_is_array(array) && !json_is_object(array))
        return fail_set(
            d->fail, FAIL_FORMAT, "%s: %s: expected an array or an object of tokens", file, key);
    json_array_foreach (array, i, value) {
        added_spec_t spec;
        if (read_token(d, value, file, key, &spec) != 0)
            return d->fail->status;
        append(d, &d->extra, &spec);
    }
    return d->fail->status;
}

/* "additional_special_tokens" is the older name, which counts where the newer one says nothing. */
static int read_extra(directory_t *d)
{
    static const char extra_key[] = "extra_special_tokens", older[] = "additional_special_tokens";
    json_t *extra = json_object_get(d->config, extra_key);
    json_t *additional = json_object_get(d->config, older);
    bool none = extra == NULL && additional == NULL;
    add_extras(d, is_empty(extra) ? additional : extra, d->config_name);
    json_t *mapped = json_object_get(d->map, extra_key);
    if (d->fail->status == 0 && mapped != NULL)
        add_extras(d, mapped, d->map_name);
    else if (d->fail->status == 0 && none)
        add_extras(d, json_object_get(d->map, older), d->map_name);
    return d->fail->status;
}

/* ---- Adding ---------------------------------------------------------------------------------- */

/* The first call: listed tokens, of which named ones are special, and what is not listed. The
 * general class has all tokens of a tokenizer.json before. */
static int add_first(directory_t *d)
{
    spec_list_t batch = {0};
    if (d->rules == RULES_GENERAL && d->root != NULL &&
        tokenizer_read_json_added(d->tokenizer, d->root, d->root_name, d->fail) != 0)
        return d->fail->status;
    for (size_t i = 0; i < d->listed.count; i++) {
        added_spec_t spec = d->listed.items[i];
        spec.flags.special = spec.flags.special || find(&d->named, &spec) != NULL;
        append(d, &batch, &spec);
    }
    const spec_list_t *others[] = {&d->named, &d->extra};
    for (size_t list = 0; list < 2; list++)
        for (size_t i = 0; i < others[list]->count; i++)
            if (find(&d->listed, &others[list]->items[i]) == NULL)
                append(d, &batch, &others[list]->items[i]);
    if (d->fail->status == 0)
        tokenizer_add_tokens(d->tokenizer, batch.items, batch.count, d->config_name, d->fail);
    free(batch.items);
    return d->fail->status;
}

/* The second: named and extra tokens, without any other flag, which replaces the flags of the
 * lists. The general class leaves them alone. */
static int add_second(directory_t *d)
{
    spec_list_t batch = {0};
    if (d->rules == RULES_GENERAL)
        return 0;
    const spec_list_t *lists[] = {&d->named, &d->extra};
    for (size_t list = 0; list < 2; list++)
        for (size_t i = 0; i < lists[list]->count; i++) {
            const added_spec_t *spec = &lists[list]->items[i];
            added_spec_t plain = special_spec(spec->content, spec->bytes);
            append(d, &batch, &plain);
        }
    if (d->fail->status == 0)
        tokenizer_add_tokens(d->tokenizer, batch.items, batch.count, d->config_name, d->fail);
    free(batch.items);
    return d->fail->status;
}

/* What a user may have meant otherwise. */
static void warn_of(const spec_list_t *list, const tokenizer_t *tokenizer, const char *file)
{
    for (size_t i = 0; i < list->count; i++) {
        const added_spec_t *spec = &list->items[i];
        const added_token_t *token =
            added_tokens_by_content(&tokenizer->added, spec->content, spec->bytes);
        if (token != NULL && token->id == spec->id)
            continue;
        char text[65];
        snprintf(text, sizeof text, "%.*s", (int)size_min(spec->bytes, 64), spec->content);
        utf8_make_printable(text);
        if (token == NULL && spec->bytes > 0)
            log_write(LOG_WARN,
                "%s: added token %d (%s) is not in added_tokens_decoder of tokenizer_config.json, which takes precedence: its text is ordinary text, as in transformers",
                file, spec->id, text);
        else if (token != NULL)
            log_write(LOG_WARN,
                "%s: added token %d (%s) has the id %d, as in transformers, which counts ids by their order",
                file, spec->id, text, token->id);
        return; /* one warning of each kind */
    }
}

static int warn_of_root(directory_t *d)
{
    added_spec_t *specs;
    size_t n;
    if (d->root == NULL)
        return 0;
    if (tokenizer_json_specs(d->root, d->root_name, &specs, &n, d->fail) == 0) {
        spec_list_t list = {.items = specs, .count = n};
        warn_of(&list, d->tokenizer, d->root_name);
    }
    free(specs);
    return d->fail->status;
}

/* ---- The directory --------------------------------------------------------------------------- */

/* *object stays NULL where there is no such file. */
static int open_file(
    directory_t *d, const char *directory, const char *name, char *path, json_t **object)
{
    snprintf(path, PATH_BYTES, "%s/%s", directory, name);
    if (access(path, F_OK) == 0 && json_file_read(path, object, d->fail) == 0 &&
        !json_is_object(*object))
        fail_set(d->fail, FAIL_FORMAT, "%s: expected a JSON object", path);
    return d->fail->status;
}

/* Of a Qwen, and of a directory whose config.json tells no family, Qwen2's. LlamaTokenizer, where
 * tokenizer_config.json names it, has no part in byte-level tokenizers and in Mistral's. */
static rules_t rules_of(const directory_t *d, const char *directory)
{
    char path[PATH_BYTES];
    json_t *config = NULL;
    fail_t ignored = {0};
    snprintf(path, sizeof path, "%s/config.json", directory);
    if (access(path, F_OK) != 0 || json_python_file_read(path, &config, &ignored) != 0)
        return RULES_QWEN2;
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const char *named = json_string_value(json_object_get(d->config, "tokenizer_class"));
    bool is_llama =
        named != NULL && d->tokenizer->is_text &&
        (strcmp(named, "LlamaTokenizer") == 0 || strcmp(named, "LlamaTokenizerFast") == 0);
    rules_t rules = type == NULL || strncmp(type, "qwen", 4) == 0 ? RULES_QWEN2
                    : is_llama && strcmp(type, "mistral") != 0    ? RULES_LLAMA
                                                                  : RULES_GENERAL;
    json_decref(config);
    return rules;
}

/* LlamaTokenizer marks spaces by its own rules, whatever tokenizer.json says. */
static int take_rules_of_llama(directory_t *d)
{
    static const char mark[] = "\xE2\x96\x81"; /* U+2581 */
    tokenizer_t *t = d->tokenizer;
    bool legacy = false, prepends = true;
    json_opt_bool(d->config, d->config_name, "legacy", &legacy, d->fail);
    json_opt_bool(d->config, d->config_name, "add_prefix_space", &prepends, d->fail);
    normalizer_clear(&t->normalizer);
    t->ignores_merges = t->metaspace.splits = false;
    t->metaspace.replaces = true;
    t->metaspace.scheme = !prepends ? METASPACE_NEVER : legacy ? METASPACE_ALWAYS : METASPACE_FIRST;
    t->strip = prepends ? 1 : 0;
    t->metaspace.mark.bytes = t->decode_from.bytes = t->decode_to.bytes = 0;
    if (text_buffer_append(&t->metaspace.mark, mark, sizeof mark - 1, d->fail) == 0 &&
        text_buffer_append(&t->decode_from, mark, sizeof mark - 1, d->fail) == 0)
        text_buffer_append(&t->decode_to, " ", 1, d->fail);
    return d->fail->status;
}

/* Without a tokenizer.json, the config says whether bos and eos stand around a text. */
static int read_sides(directory_t *d)
{
    static const char *const keys[] = {"add_bos_token", "add_eos_token"};
    tokenizer_ids_t *sides[] = {&d->tokenizer->prefix, &d->tokenizer->suffix};
    for (size_t i = 0; i < 2 && d->root == NULL; i++) {
        bool adds = false;
        const char *file;
        added_spec_t spec;
        json_t *value = said(d, attributes[i], &file);
        json_opt_bool(d->config, d->config_name, keys[i], &adds, d->fail);
        if (d->fail->status != 0 || !adds || says_nothing(value) ||
            read_token(d, value, file, attributes[i], &spec) != 0 ||
            tokenizer_ids_reserve(sides[i], 1, d->fail) != 0)
            continue;
        const added_token_t *token =
            added_tokens_by_content(&d->tokenizer->added, spec.content, spec.bytes);
        if (token != NULL)
            sides[i]->ids[sides[i]->count++] = token->id;
    }
    return d->fail->status;
}

static int read_settings(directory_t *d)
{
    static const char spoils[] =
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
    bool prefix_space = false, cleans = false, cleans_bpe = false;
    /* transformers does not clean up the text of a BPE tokenizer unless two settings say so. */
    json_opt_bool(d->config, d->config_name, "clean_up_tokenization_spaces", &cleans, d->fail);
    json_opt_bool(d->config, d->config_name, spoils, &cleans_bpe, d->fail);
    if (d->fail->status == 0 && cleans && cleans_bpe)
        return fail_set(
            d->fail, FAIL_MODEL, "%s: %s: true is not supported", d->config_name, spoils);
    json_opt_bool(d->config, d->config_name, "add_prefix_space", &prefix_space, d->fail);
    json_opt_bool(
        d->config, d->config_name, "split_special_tokens", &d->tokenizer->splits_specials, d->fail);
    if (d->fail->status == 0 && prefix_space && !d->tokenizer->is_text)
        fail_set(
            d->fail, FAIL_MODEL, "%s: add_prefix_space: true is not supported", d->config_name);
    return d->fail->status;
}

int tokenizer_read_directory_added(
    tokenizer_t *tokenizer, json_t *root, const char *directory, fail_t *fail)
{
    directory_t *d = calloc(1, sizeof *d);
    if (d == NULL)
        return fail_set(fail, FAIL_MEMORY, "tokenizer: no memory");
    d->tokenizer = tokenizer;
    d->root = root;
    d->fail = fail;
    snprintf(d->root_name, sizeof d->root_name, "%s/tokenizer.json", directory);
    if (open_file(d, directory, "tokenizer_config.json", d->config_name, &d->config) == 0)
        d->rules = rules_of(d, directory);
    if (d->rules == RULES_LLAMA)
        take_rules_of_llama(d);
    if (fail->status == 0 && says_nothing(json_object_get(d->config, "added_tokens_decoder")) &&
        open_file(d, directory, "special_tokens_map.json", d->map_name, &d->map) == 0)
        open_file(d, directory, "added_tokens.json", d->added_name, &d->added);
    if (fail->status == 0 && read_settings(d) == 0 && read_named(d) == 0 && read_extra(d) == 0 &&
        read_listed(d) == 0 && add_fallbacks(d) == 0 && add_first(d) == 0 && add_second(d) == 0 &&
        read_sides(d) == 0) {
        warn_of(&d->listed, tokenizer, d->config_name);
        warn_of_root(d);
    }
    if (fail->status == 0)
        tokenizer_finish_added(tokenizer, d->config_name, fail);
    json_decref(d->config);
    json_decref(d->map);
    json_decref(d->added);
    free(d->listed.items);
    free(d->named.items);
    free(d->extra.items);
    free(d);
    return fail->status;
}
