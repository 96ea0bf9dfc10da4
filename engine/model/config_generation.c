/* Ids that end an answer, and the sampling that a checkpoint recommends. Values of sampling are
 * taken as they stand: only a run that uses one checks it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/config_internal.h"

static int check_id(document_t document, const json_t *value, fail_t *fail)
{
    if (!json_is_integer(value))
        return fail_set(fail, FAIL_FORMAT,
            "%s: eos_token_id: expected token ids from 0 to %d, found something else",
            document.path, INT32_MAX);
    return 0;
}

/* An id that no token can have is never drawn, so it is left out. */
static int add_stop_id(config_t *config, document_t document, const json_t *value, fail_t *fail)
{
    config_generation_t *generation = &config->generation;
    if (check_id(document, value, fail) != 0)
        return fail->status;
    json_int_t id = json_integer_value(value);
    if (id < 0 || id > INT32_MAX) {
        config_note(config, "%s: eos_token_id: no token has the id %lld, so it ends no answer",
            document.path, (long long)id);
        return 0;
    }
    for (size_t i = 0; i < generation->n_stop_ids; i++)
        if (generation->stop_ids[i] == id)
            return 0;
    if (generation->n_stop_ids == CONFIG_MAX_STOP_IDS)
        return fail_set(fail, FAIL_MODEL,
            "%s: eos_token_id: expected at most %d different ids, found more", document.path,
            CONFIG_MAX_STOP_IDS);
    generation->stop_ids[generation->n_stop_ids++] = (int32_t)id;
    return 0;
}

/* One id or an array. */
static int read_stop_ids(config_t *config, document_t document, fail_t *fail)
{
    json_t *eos = member(document.root, "eos_token_id");
    if (eos == NULL)
        return 0;
    if (!json_is_array(eos))
        return add_stop_id(config, document, eos, fail);
    size_t i;
    json_t *value;
    json_array_foreach (eos, i, value)
        if (add_stop_id(config, document, value, fail) != 0)
            return fail->status;
    return 0;
}

/* -1 for values that are no id: files have null, -1 and lists where there is none. */
static int32_t read_id(document_t document, const char *key)
{
    json_t *value = member(document.root, key);
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
}

/* The number unchanged; NaN for values that are none. */
static void read_value(document_t document, const char *key, double *value)
{
    json_t *found = member(document.root, key);
    if (found != NULL)
        *value = json_is_number(found) ? json_number_value(found) : NAN;
}

/* What changes a draw in transformers and is not implemented, and the number that changes nothing. */
static const struct {
    const char *key;
    double neutral;
} unread_keys[] = {{"typical_p", 1}, {"epsilon_cutoff", 0}, {"eta_cutoff", 0}, {"top_h", 1},
    {"min_length", 0}, {"min_new_tokens", 0}, {"no_repeat_ngram_size", 0},
    {"encoder_repetition_penalty", 1}, {"encoder_no_repeat_ngram_size", 0}, {"num_beams", 1},
    {"guidance_scale", 1}, {"bad_words_ids", 0}, {"force_words_ids", 0}, {"constraints", 0},
    {"forced_bos_token_id", -1}, {"forced_eos_token_id", -1}, {"suppress_tokens", 0},
    {"begin_suppress_tokens", 0}, {"sequence_bias", 0}, {"exponential_decay_length_penalty", 0},
    {"stop_strings", 0}, {"watermarking_config", 0}};

static bool changes_nothing(const json_t *value, double neutral)
{
    if (json_is_number(value))
        return json_number_value(value) == neutral;
    if (json_is_array(value) || json_is_object(value))
        return json_array_size(value) + json_object_size(value) == 0;
    return !json_is_true(value) && !json_is_string(value);
}

static void list_unread(config_generation_t *generation, document_t document)
{
    size_t at = 0;
    generation->unread[0] = 0;
    for (size_t i = 0; i < sizeof unread_keys / sizeof *unread_keys; i++) {
        const char *key = unread_keys[i].key;
        json_t *value = member(document.root, key);
        if (value == NULL || changes_nothing(value, unread_keys[i].neutral) ||
            at + strlen(key) + 3 > sizeof generation->unread)
            continue;
        at += (size_t)snprintf(generation->unread + at, sizeof generation->unread - at, "%s%s",
            at > 0 ? ", " : "", key);
    }
}

int config_read_generation(config_t *config, document_t document, fail_t *fail)
{
    config_generation_t *generation = &config->generation;
    if (read_stop_ids(config, document, fail) != 0)
        return fail->status;
    generation->pad_id = read_id(document, "pad_token_id");
    generation->bos_id = read_id(document, "bos_token_id");
    generation->do_sample = json_is_true(member(document.root, "do_sample"));
    read_value(document, "temperature", &generation->temperature);
    read_value(document, "top_p", &generation->top_p);
    read_value(document, "top_k", &generation->top_k);
    read_value(document, "min_p", &generation->min_p);
    read_value(document, "repetition_penalty", &generation->repetition_penalty);
    list_unread(generation, document);
    return 0;
}

static int check_value(double value, bool is_right, const char *key, const char *expected,
    const char *flag, fail_t *fail)
{
    if (is_right)
        return fail->status;
    return fail_set(fail, FAIL_MODEL,
        "generation_config.json: %s: expected %s to draw with, found %g; %s gives another", key,
        expected, value, flag);
}

int config_use_temperature(const config_generation_t *g, double *value, fail_t *fail)
{
    *value = g->temperature;
    return check_value(g->temperature, g->temperature > 0 && isfinite(g->temperature),
        "temperature", "a number above 0", "--temperature", fail);
}

int config_use_top_p(const config_generation_t *g, double *value, fail_t *fail)
{
    *value = g->top_p >= 1 ? 1 : g->top_p; /* 1 and above: off */
    return check_value(g->top_p, g->top_p >= 0, "top_p", "a number from 0 to 1", "--top-p", fail);
}

int config_use_min_p(const config_generation_t *g, double *value, fail_t *fail)
{
    *value = g->min_p;
    return check_value(
        g->min_p, g->min_p >= 0 && g->min_p <= 1, "min_p", "a number from 0 to 1", "--min-p", fail);
}

int config_use_top_k(const config_generation_t *g, size_t *value, fail_t *fail)
{
    bool whole = g->top_k >= 0 && g->top_k == floor(g->top_k);
    *value = !whole ? 0 : g->top_k > INT32_MAX ? INT32_MAX : (size_t)g->top_k;
    return check_value(g->top_k, whole, "top_k", "a whole number, 0 for none,", "--top-k", fail);
}

int config_use_penalty(const config_generation_t *g, double *value, fail_t *fail)
{
    *value = g->repetition_penalty;
    return check_value(g->repetition_penalty,
        g->repetition_penalty > 0 && isfinite(g->repetition_penalty), "repetition_penalty",
        "a number above 0", "--repetition-penalty", fail);
}
