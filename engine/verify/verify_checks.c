#include "engine/verify/verify_checks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/text/tokenizer.h"

/* ---- Origin ---------------------------------------------------------------------------------- */

/* What decides which order of additions PyTorch takes. */
static const char *const isa_flags[] = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"};
enum { N_FLAGS = sizeof isa_flags / sizeof *isa_flags, AVX512_BF16 = 2, AMX_BF16 = 3 };

static bool has_word(const char *words, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = words; (at = strstr(at, word)) != NULL; at += length)
        if ((at == words || at[-1] == ' ') && (at[length] == 0 || at[length] == ' '))
            return true;
    return false;
}

static void read_flags(const char *words, bool *flags)
{
    for (size_t i = 0; i < N_FLAGS; i++)
        flags[i] = words != NULL && has_word(words, isa_flags[i]);
}

/* The first line "flags : ..." of /proc/cpuinfo; none elsewhere. */
static void read_host_flags(bool *flags)
{
    char *line = NULL;
    size_t capacity = 0;
    FILE *file = fopen("/proc/cpuinfo", "r");
    read_flags(NULL, flags);
    while (file != NULL && getline(&line, &capacity, file) > 0)
        if (strncmp(line, "flags", 5) == 0) {
            line[strcspn(line, "\n")] = 0;
            read_flags(line, flags);
            break;
        }
    free(line);
    if (file != NULL)
        fclose(file);
}

static void join_flags(const bool *flags, char *text, size_t bytes)
{
    size_t used = 0;
    snprintf(text, bytes, "none of avx2 and later");
    for (size_t i = 0; i < N_FLAGS; i++)
        if (flags[i])
            used += (size_t)snprintf(
                text + used, bytes - used, "%s%s", used > 0 ? " " : "", isa_flags[i]);
}

/* A host, from the metadata of a dump. */
typedef struct host {
    bool flags[N_FLAGS];
    char text[64]; /* the flags */
    const char *model, *capability;
    bool orders_known; /* bf16: PyTorch adds there in the orders that Choir has */
} host_t;

/* False where the dump has no information. */
static bool read_host(const checkpoint_t *file, host_t *host)
{
    const char *words = checkpoint_metadata(file, "cpu_flags");
    const char *limit = checkpoint_metadata(file, "onednn_max_cpu_isa");
    bool limited = limit != NULL && strcmp(limit, "AVX512_CORE_BF16") == 0;
    *host = (host_t){.model = checkpoint_metadata(file, "cpu_model"),
        .capability = checkpoint_metadata(file, "torch_capability")};
    read_flags(words, host->flags);
    join_flags(host->flags, host->text, sizeof host->text);
    host->orders_known = host->flags[AVX512_BF16] && (!host->flags[AMX_BF16] || limited) &&
                         (host->capability == NULL || strcmp(host->capability, "AVX512") == 0);
    return words != NULL;
}

/* What a difference in bf16 means. whose: the dump's name in the sentence. */
static void note_orders(const host_t *host, const char *whose, report_t *report)
{
    if (!host->orders_known)
        report_note(report,
            "a difference may be PyTorch's own: it adds in another order on the host of the %s "
            "(%s, PyTorch's kernels %s); bits are promised for hosts with avx512_bf16, and with "
            "AMX where ONEDNN_MAX_CPU_ISA is AVX512_CORE_BF16",
            whose, host->text, host->capability != NULL ? host->capability : "unknown");
}

static void note_host(const reference_t *reference, const checkpoint_t *candidate, report_t *report)
{
    const bool is_bf16 = reference->dtype == DTYPE_BF16;
    host_t theirs, ours = {0};
    if (!read_host(reference->file, &theirs))
        return;
    const bool knows_ours = candidate == NULL || read_host(candidate, &ours);
    if (is_bf16)
        note_orders(&theirs, "reference", report);
    if (is_bf16 && candidate != NULL && knows_ours)
        note_orders(&ours, "candidate", report);
    if (candidate == NULL) {
        read_host_flags(ours.flags);
        join_flags(ours.flags, ours.text, sizeof ours.text);
        if (is_bf16 && theirs.orders_known && !ours.flags[AVX512_BF16])
            report_note(report,
                "this host has no avx512_bf16: Choir computes the same bits here as on hosts that "
                "have it, so every difference from the reference is an error; PyTorch itself "
                "gives other bits here");
    }
    if (knows_ours && memcmp(theirs.flags, ours.flags, sizeof theirs.flags) != 0)
        report_note(report,
            "the reference was made on a host with another instruction set: %s (%s), %s has %s",
            theirs.text, theirs.model != NULL ? theirs.model : "unknown CPU",
            candidate == NULL ? "this one" : "the candidate's", ours.text);
    if (is_bf16 && reference_has_attention(reference, ATTENTION_SDPA) && theirs.model != NULL &&
        strncmp(theirs.model, "AuthenticAMD", strlen("AuthenticAMD")) != 0)
        report_note(report,
            "PyTorch's sdpa attention adds in another order on such a CPU (%s); its bits are "
            "promised for AMD's",
            theirs.model);
}

static void note_version(
    const reference_t *reference, const char *key, const char *expected, report_t *report)
{
    const char *found = checkpoint_metadata(reference->file, key);
    size_t length = strlen(expected);
    /* A build's own suffix, as in 2.13.0+cpu, does not matter. */
    if (found == NULL || strncmp(found, expected, length) != 0 ||
        (found[length] != 0 && found[length] != '+'))
        report_note(report,
            "%s: expected version %s, whose order of operations is known, the reference has %s",
            key, expected, found != NULL ? found : "none");
}

void check_origin(const reference_t *reference, const checkpoint_t *candidate, report_t *report)
{
    note_host(reference, candidate, report);
    note_version(reference, "torch", "2.13.0", report);
    note_version(reference, "transformers", "5.23.0", report);
}

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

/* Ids of one prompt's text; counts it in *n_unequal when they differ. */
static int check_text(const tokenizer_t *tokenizer, const reference_prompt_t *prompt, size_t number,
    size_t *n_unequal, report_t *report, fail_t *fail)
{
    tokenizer_ids_t ids = {0};
    if (tokenizer_encode(tokenizer, prompt->text, prompt->text_bytes, true, &ids, fail) == 0) {
        size_t at = 0;
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
    for (size_t k = 0; k < reference->n_prompts && fail->status == 0; k++)
        if (reference->prompts[k].text != NULL)
            check_text(tokenizer, &reference->prompts[k], k, &n_unequal, report, fail);
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
static bool is_kept(const config_t *config, attention_t attention, component_t component)
{
    return component_is_in(config, component) &&
           (attention == ATTENTION_EAGER || component_info(component)->of_fused);
}

static void check_components(const reference_t *reference, const config_t *config,
    const bool *layers, reference_place_t place, report_t *report)
{
    for (size_t c = 0; c < COMPONENT_LOGITS; c++) {
        bool layered = reference_kind_has_layer(c);
        size_t n_layers = layered ? config->num_hidden_layers : 1;
        for (size_t l = 0; l < n_layers && is_kept(config, place.attention, (component_t)c); l++) {
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
