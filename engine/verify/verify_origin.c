#include "engine/verify/verify_origin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/run/engine_choices.h"

/* What decides which order of additions PyTorch takes. */
static const char *const isa_flags[] = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"};
enum {
    N_FLAGS = sizeof isa_flags / sizeof *isa_flags,
    AVX2 = 0,
    AVX512F = 1,
    AVX512_BF16 = 2,
    AMX_BF16 = 3
};

/* A host, from the metadata of a dump. */
typedef struct host {
    bool flags[N_FLAGS];
    char text[160]; /* the flags, and PyTorch's settings */
    const char *model, *capability, *limit, *onednn_bf16;
    bool known; /* the order of bf16 sums */
    order_t order;
    const char *why_unknown;
} host_t;

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

static bool is(const char *text, const char *expected)
{
    return text != NULL && strcmp(text, expected) == 0;
}

/* Which order of additions the host's settings lead to (docs/parity.md has the table). */
static void find_order(host_t *host)
{
    bool own_avx2 = is(host->capability, "AVX2"), avx512 = host->flags[AVX512F];
    bool own_avx512 = host->capability == NULL || is(host->capability, "AVX512");
    bool limited_avx2 = is(host->limit, "AVX2");
    bool limited_avx512 = is(host->limit, "AVX512_CORE") || is(host->limit, "AVX512_CORE_VNNI");
    bool has_bf16 = host->flags[AVX512_BF16] && !limited_avx512;
    if (own_avx2 && is(host->onednn_bf16, "1") && !avx512 && !limited_avx2)
        host->why_unknown = "oneDNN multiplies bf16 by AVX-NE-CONVERT there";
    else if (own_avx2 && (limited_avx2 || (host->flags[AVX2] && !avx512)))
        host->order = ORDER_TORCH_AVX2;
    else if (own_avx512 && has_bf16 && !limited_avx2 &&
             (!host->flags[AMX_BF16] || is(host->limit, "AVX512_CORE_BF16")))
        host->order = ORDER_TORCH;
    else if (host->flags[AMX_BF16] && has_bf16 && own_avx512 && !limited_avx2)
        host->why_unknown =
            "with AMX it depends on rows, threads and cache sizes; ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 would make it torch";
    else if (avx512 && own_avx512 && !limited_avx2)
        host->why_unknown =
            "without BF16 instructions AVX-512 has leaves of other lengths, and a row alone in a thread has another order; "
            "ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 would make it torch-avx2";
    else
        host->why_unknown =
            "PyTorch and oneDNN are limited to different instruction sets, or have less than AVX2";
    host->known = host->why_unknown == NULL;
}

/* False where the dump has no information. */
static bool read_host(const checkpoint_t *file, host_t *host)
{
    const char *words = checkpoint_metadata(file, "cpu_flags");
    char flags[64];
    *host = (host_t){.model = checkpoint_metadata(file, "cpu_model"),
        .capability = checkpoint_metadata(file, "torch_capability"),
        .limit = checkpoint_metadata(file, "onednn_max_cpu_isa"),
        .onednn_bf16 = checkpoint_metadata(file, "onednn_bf16")};
    read_flags(words, host->flags);
    join_flags(host->flags, flags, sizeof flags);
    bool limited = host->limit != NULL && host->limit[0] != 0;
    snprintf(host->text, sizeof host->text, "%s; PyTorch's kernels %.20s%s%.40s", flags,
        host->capability != NULL ? host->capability : "unknown", limited ? ", oneDNN up to " : "",
        limited ? host->limit : "");
    find_order(host);
    return words != NULL;
}

order_t origin_order(const reference_t *reference)
{
    host_t host;
    bool decides = reference->dtype == DTYPE_BF16 && read_host(reference->file, &host);
    return decides && host.known ? host.order : ORDER_TORCH;
}

#define SAME_EVERYWHERE "norms, RoPE, SwiGLU and residual sums have the same bits on every host"

static void note_order(const host_t *host, order_t order, bool by_flag, report_t *report)
{
    const char *name = choice_name(engine_orders, (int)order), *by = by_flag ? " by --order" : "";
    if (!host->known)
        report_note(report,
            "order %s%s; PyTorch's on the reference's host (%s) is not known: %s. A difference in a "
            "product may be PyTorch's own; " SAME_EVERYWHERE,
            name, by, host->text, host->why_unknown);
    else if (host->order != order)
        report_note(report,
            "order %s%s; PyTorch's on the reference's host (%s) is %s, so products will differ",
            name, by, host->text, choice_name(engine_orders, (int)host->order));
    else
        report_note(report,
            "order %s%s, PyTorch's on the reference's host (%s): every difference is an error, "
            "whatever CPU this host has",
            name, by, host->text);
}

static void note_sdpa(const reference_t *reference, const host_t *host, report_t *report)
{
    bool amd = host->model == NULL || strncmp(host->model, "AuthenticAMD", 12) == 0;
    if (reference->dtype == DTYPE_BF16 && reference_has_attention(reference, ATTENTION_SDPA) &&
        !amd)
        report_note(report,
            "PyTorch's sdpa attention adds in another order on such a CPU (%s); its bits are "
            "promised for AMD's",
            host->model);
}

static void note_flags(const host_t *theirs, const bool *ours, const char *whose, report_t *report)
{
    char their_text[64], our_text[64];
    join_flags(theirs->flags, their_text, sizeof their_text);
    join_flags(ours, our_text, sizeof our_text);
    if (memcmp(theirs->flags, ours, sizeof theirs->flags) != 0)
        report_note(report,
            "the reference was made on a host with another instruction set: %s (%s), %s has %s",
            their_text, theirs->model != NULL ? theirs->model : "unknown CPU", whose, our_text);
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

static void note_versions(const reference_t *reference, report_t *report)
{
    note_version(reference, "torch", "2.13.0", report);
    note_version(reference, "transformers", "5.23.0", report);
}

void check_origin(const reference_t *reference, order_t order, bool by_flag, report_t *report)
{
    host_t theirs;
    bool ours[N_FLAGS];
    if (read_host(reference->file, &theirs)) {
        if (reference->dtype == DTYPE_BF16)
            note_order(&theirs, order, by_flag, report);
        read_host_flags(ours);
        note_flags(&theirs, ours, "this one", report);
        note_sdpa(reference, &theirs, report);
    }
    note_versions(reference, report);
}

/* Whether two hosts add alike. */
static void note_both(const host_t *reference, const host_t *candidate, report_t *report)
{
    const char *name = choice_name(engine_orders, (int)reference->order);
    if (!reference->known || !candidate->known) {
        const host_t *unknown = reference->known ? candidate : reference;
        report_note(report,
            "PyTorch's order on the host of the %s (%s) is not known: %s. A difference in a product may "
            "be PyTorch's own; " SAME_EVERYWHERE,
            reference->known ? "candidate" : "reference", unknown->text, unknown->why_unknown);
    } else if (reference->order != candidate->order) {
        report_note(report,
            "PyTorch's order is %s on the reference's host (%s) and %s on the candidate's (%s), so its "
            "products differ",
            name, reference->text, choice_name(engine_orders, (int)candidate->order),
            candidate->text);
    }
}

void check_origins(const reference_t *reference, const checkpoint_t *candidate, report_t *report)
{
    host_t theirs, ours;
    if (read_host(reference->file, &theirs)) {
        bool both = read_host(candidate, &ours);
        if (both && reference->dtype == DTYPE_BF16)
            note_both(&theirs, &ours, report);
        if (both)
            note_flags(&theirs, ours.flags, "the candidate's", report);
        note_sdpa(reference, &theirs, report);
    }
    note_versions(reference, report);
}
