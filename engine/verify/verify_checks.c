#include "engine/verify/verify_checks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/text/tokenizer.h"

/* ---- Configuration --------------------------------------------------------------------------- */

typedef struct field {
    const char *name;
    double reference, model;
    bool is_size; /* of tensors: nothing can be compared when it differs */
} field_t;

static int check_ids(const reference_t *reference, const config_t *config, fail_t *fail)
{
    for (size_t k = 0; k < reference->n_prompts; k++) {
        const reference_prompt_t *p = &reference->prompts[k];
        const int32_t *lists[] = {p->ids, p->new_ids[0], p->new_ids[1]};
        const size_t counts[] = {p->n_ids, p->n_new[0], p->n_new[1]};
        for (size_t l = 0; l < 3; l++)
            for (size_t i = 0; i < counts[l]; i++)
                if ((size_t)lists[l][i] >= config->vocab_size)
                    return fail_set(fail, FAIL_MODEL,
                        "%s: prompt %zu: expected ids below the model's vocab_size %zu, found %d",
                        reference->path, k, config->vocab_size, lists[l][i]);
        if (!config_has_positions(config, p->n_ids + p->n_new[0]))
            return fail_set(fail, FAIL_MODEL,
                "%s: prompt %zu: expected at most the model's %zu positions, found %zu tokens",
                reference->path, k, config->max_position_embeddings, p->n_ids + p->n_new[0]);
    }
    return 0;
}

static int compare_fields(
    const reference_t *reference, const field_t *fields, size_t n, report_t *report, fail_t *fail)
{
    size_t n_different = 0;
    for (size_t i = 0; i < n; i++) {
        const field_t *f = &fields[i];
        if (f->reference == f->model)
            continue;
        if (f->is_size)
            return fail_set(fail, FAIL_MODEL,
                "%s: a reference of another model: %s: the reference has %.17g, the model %.17g",
                reference->path, f->name, f->reference, f->model);
        report_check(report, "configuration", REPORT_FAIL,
            "%s: the reference has %.17g, the model %.17g", f->name, f->reference, f->model);
        n_different++;
    }
    if (n_different == 0)
        report_check(report, "configuration", REPORT_PASS, "%zu fields equal", n);
    return 0;
}

int check_configuration(
    const reference_t *reference, const config_t *config, report_t *report, fail_t *fail)
{
    const char *text = checkpoint_metadata(reference->file, "config");
    config_t r;
    if (text == NULL) {
        report_check(report, "configuration", REPORT_SKIP, "the reference has no config");
        return check_ids(reference, config, fail);
    }
    char name[512];
    snprintf(name, sizeof name, "%.400s: metadata config", reference->path);
    if (config_load_text(&r, text, name, fail) != 0)
        return fail->status;
    const config_t *m = config;
    const field_t fields[] = {
        {"hidden_size", (double)r.hidden_size, (double)m->hidden_size, true},
        {"intermediate_size", (double)r.intermediate_size, (double)m->intermediate_size, true},
        {"num_hidden_layers", (double)r.num_hidden_layers, (double)m->num_hidden_layers, true},
        {"num_attention_heads", (double)r.num_attention_heads, (double)m->num_attention_heads,
            true},
        {"num_key_value_heads", (double)r.num_key_value_heads, (double)m->num_key_value_heads,
            true},
        {"head_dim", (double)r.head_dim, (double)m->head_dim, true},
        {"vocab_size", (double)r.vocab_size, (double)m->vocab_size, true},
        {"num_experts", (double)r.n_experts, (double)m->n_experts, true},
        {"num_experts_per_tok", (double)r.n_experts_per_token, (double)m->n_experts_per_token,
            true},
        {"moe_intermediate_size", (double)r.expert_intermediate_size,
            (double)m->expert_intermediate_size, true},
        {"sparse layers", (double)config_sparse_layers(&r), (double)config_sparse_layers(m), true},
        {"norm_topk_prob", r.norm_topk_prob, m->norm_topk_prob, false},
        {"rope_theta", r.rope_theta, m->rope_theta, false},
        {"rms_norm_eps", r.rms_norm_eps, m->rms_norm_eps, false},
        {"tie_word_embeddings", r.tie_word_embeddings, m->tie_word_embeddings, false},
        {"use_sliding_window", r.use_sliding_window, m->use_sliding_window, false},
        {"sliding_window", (double)r.sliding_window, (double)m->sliding_window, false},
        {"max_window_layers", (double)r.max_window_layers, (double)m->max_window_layers, false},
        {"rope_scaling.rope_type", r.rope.type, m->rope.type, false},
        {"rope_scaling.factor", r.rope.factor, m->rope.factor, false},
        {"rope_scaling.original_max_position_embeddings",
            (double)r.rope.original_max_position_embeddings,
            (double)m->rope.original_max_position_embeddings, false},
        {"rope_scaling.attention_factor", r.rope.attention_factor, m->rope.attention_factor, false},
        {"rope_scaling.beta_fast", r.rope.beta_fast, m->rope.beta_fast, false},
        {"rope_scaling.beta_slow", r.rope.beta_slow, m->rope.beta_slow, false},
        {"rope_scaling.low_freq_factor", r.rope.low_freq_factor, m->rope.low_freq_factor, false},
        {"rope_scaling.high_freq_factor", r.rope.high_freq_factor, m->rope.high_freq_factor, false},
    };
    if (compare_fields(reference, fields, sizeof fields / sizeof *fields, report, fail) != 0)
        return fail->status;
    return check_ids(reference, config, fail);
}

void check_digest(const reference_t *reference, uint64_t digest, report_t *report)
{
    const char *expected = checkpoint_metadata(reference->file, "model_digest");
    char found[17];
    snprintf(found, sizeof found, "%016llx", (unsigned long long)digest);
    if (expected == NULL)
        report_check(report, "model_digest", REPORT_SKIP, "the reference has none");
    else if (strcmp(found, expected) != 0)
        report_check(report, "model_digest", REPORT_FAIL,
            "weights of another model: the reference has %.64s, the model %s", expected, found);
    else
        report_check(report, "model_digest", REPORT_PASS, "%s", found);
}

/* ---- Tokenization ---------------------------------------------------------------------------- */

/* Whether the directory has a tokenizer in either form. */
static bool has_tokenizer(const char *directory)
{
    static const char *const files[] = {"tokenizer.json", "vocab.json"};
    char path[4096];
    for (size_t i = 0; i < 2; i++) {
        int length = snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        if (length > 0 && (size_t)length < sizeof path && access(path, F_OK) == 0)
            return true;
    }
    return false;
}

/* How often a list begins with the id. */
static size_t count_leading(int32_t id, const int32_t *ids, size_t n)
{
    size_t count = 0;
    while (count < n && ids[count] == id)
        count++;
    return count;
}

/* A prompt that begins with the token which the tokenizer puts in front of a text has it once. A chat
 * template that writes this token, and a tokenizer that adds it, make two. True if one of both sides has more. */
static bool check_bos(int32_t bos, const tokenizer_ids_t *ids, const reference_prompt_t *prompt,
    size_t number, report_t *report)
{
    size_t ours = count_leading(bos, ids->ids, ids->count);
    size_t theirs = count_leading(bos, prompt->ids, prompt->n_ids);
    if (ours < 2 && theirs < 2)
        return false;
    report_check(report, "BOS", REPORT_FAIL,
        "prompt %zu: expected token %d once at the beginning, got %zu of it, the reference has %zu",
        number, bos, ours, theirs);
    return true;
}

/* The token that the tokenizer puts in front of a text; -1: none. */
static int32_t find_bos(const tokenizer_t *tokenizer, fail_t *fail)
{
    tokenizer_ids_t around = {0};
    int32_t bos = -1;
    if (tokenizer_encode_whole(tokenizer, "", 0, &around, fail) == 0 && around.count > 0)
        bos = around.ids[0];
    tokenizer_ids_clear(&around);
    return bos;
}

/* Ids of one prompt's text; counts it in *n_unequal when they differ. */
static int check_text(const tokenizer_t *tokenizer, int32_t bos, const reference_prompt_t *prompt,
    size_t number, size_t *n_unequal, report_t *report, fail_t *fail)
{
    tokenizer_ids_t ids = {0};
    int status =
        prompt->is_whole
            ? tokenizer_encode_whole(tokenizer, prompt->text, prompt->text_bytes, &ids, fail)
            : tokenizer_encode(tokenizer, prompt->text, prompt->text_bytes, true, &ids, fail);
    if (status == 0) {
        size_t at = 0;
        *n_unequal += bos >= 0 && check_bos(bos, &ids, prompt, number, report);
        while (at < ids.count && at < prompt->n_ids && ids.ids[at] == prompt->ids[at])
            at++;
        if (at < ids.count || at < prompt->n_ids) {
            ++*n_unequal;
            report_check(report, "tokenization", REPORT_FAIL,
                "prompt %zu: token %zu: expected %d, got %d (%zu tokens, the reference has %zu)",
                number, at, at < prompt->n_ids ? prompt->ids[at] : -1,
                at < ids.count ? ids.ids[at] : -1, ids.count, prompt->n_ids);
        }
    }
    tokenizer_ids_clear(&ids);
    return fail->status;
}

int check_tokenization(
    const reference_t *reference, const char *model_dir, report_t *report, fail_t *fail)
{
    tokenizer_t *tokenizer = NULL;
    size_t n_texts = 0, n_unequal = 0;
    for (size_t k = 0; k < reference->n_prompts; k++)
        n_texts += reference->prompts[k].text != NULL;
    if (n_texts == 0) {
        report_check(report, "tokenization", REPORT_SKIP, "all prompts are ids");
        return 0;
    }
    if (!has_tokenizer(model_dir)) {
        report_check(
            report, "tokenization", REPORT_SKIP, "no tokenizer files in the model's directory");
        return 0;
    }
    if (tokenizer_open(&tokenizer, model_dir, fail) != 0)
        return fail->status;
    int32_t bos = find_bos(tokenizer, fail);
    for (size_t k = 0; k < reference->n_prompts && fail->status == 0; k++)
        if (reference->prompts[k].text != NULL)
            check_text(tokenizer, bos, &reference->prompts[k], k, &n_unequal, report, fail);
    tokenizer_close(tokenizer);
    if (n_unequal == 0 && fail->status == 0)
        report_check(report, "tokenization", REPORT_PASS, "ids of %zu text prompts equal", n_texts);
    return fail->status;
}

/* ---- Completeness ---------------------------------------------------------------------------- */

static void check_place(const reference_t *reference, const config_t *config,
    const reference_place_t *place, report_t *report)
{
    char name[REFERENCE_NAME_BYTES], expected[256], found[256];
    size_t dims[3];
    bool differs;
    const checkpoint_tensor_t *tensor = reference_find(reference, config, place, &differs);
    if (tensor != NULL)
        return;
    reference_name(place, name);
    if (!differs) {
        json_array_append_new(report->missing, json_string(name));
        return;
    }
    tensor = checkpoint_find(reference->file, name);
    report_format_dims(
        expected, sizeof expected, reference_shape(reference, config, place, dims), dims);
    report_format_dims(found, sizeof found, tensor->n_dims, tensor->shape);
    json_array_append_new(
        report->shapes_differ, json_sprintf("%s: expected shape %s, the reference has %s of %s",
                                   name, expected, found, tensor->dtype_name));
}

/* With sdpa the reference holds what attention is given and gives. */
static bool is_kept(
    const config_t *config, attention_t attention, component_t component, size_t layer)
{
    return component_is_in(config, component, layer) &&
           (attention == ATTENTION_EAGER || component_info(component)->of_fused);
}

static void check_components(const reference_t *reference, const config_t *config,
    const bool *layers, reference_place_t place, report_t *report)
{
    for (size_t c = 0; c < COMPONENT_LOGITS; c++) {
        bool layered = reference_kind_has_layer(c);
        size_t n_layers = layered ? config->num_hidden_layers : 1;
        for (size_t l = 0; l < n_layers; l++) {
            if (!is_kept(config, place.attention, (component_t)c, l))
                continue;
            place.kind = c;
            place.layer = l;
            if (!layered || (reference_has_layer(reference, l) && (layers == NULL || layers[l])))
                check_place(reference, config, &place, report);
        }
    }
}

static void check_prompt(const reference_t *reference, const config_t *config, const bool *layers,
    attention_t attention, size_t prompt, report_t *report)
{
    static const struct {
        size_t kind;
        const char *run;
        bool decodes;
    } logits[] = {{COMPONENT_LOGITS, "prefill", false}, {KIND_DECODE_LOGITS, "decode", true},
        {KIND_STEPWISE_LOGITS, "stepwise", false}, {KIND_GENERATE_LOGITS, "generate", true}};
    reference_place_t place = {.attention = attention, .prompt = prompt};
    const char *n_decode = checkpoint_metadata(reference->file, "decode");
    bool decodes = reference->prompts[prompt].n_new[attention] > 0;
    bool should_decode =
        n_decode != NULL && strcmp(n_decode, "0") != 0 &&
        (reference_has_run(reference, "decode") || reference_has_run(reference, "generate"));
    if (!decodes && should_decode)
        json_array_append_new(
            report->missing, json_sprintf("prompt.%zu.%snew_ids (and what follows it)", prompt,
                                 attention == ATTENTION_SDPA ? "sdpa." : ""));
    if (reference_has_run(reference, "prefill"))
        check_components(reference, config, layers, place, report);
    place.decode = true;
    if (decodes && reference_has_run(reference, "decode"))
        check_components(reference, config, layers, place, report);
    place.decode = false;
    place.layer = 0;
    for (size_t i = 0; i < sizeof logits / sizeof *logits; i++) {
        place.kind = logits[i].kind;
        if (reference_has_run(reference, logits[i].run) && (decodes || !logits[i].decodes))
            check_place(reference, config, &place, report);
    }
}

void check_completeness(const reference_t *reference, const config_t *config,
    const bool *attentions, const bool *layers, report_t *report)
{
    for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
        for (size_t k = 0; k < reference->n_prompts && attentions[a]; k++)
            check_prompt(reference, config, layers, (attention_t)a, k, report);
}
