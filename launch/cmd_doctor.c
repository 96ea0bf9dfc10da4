#include <stdlib.h>

#include "engine/base/log.h"
#include "engine/doctor/doctor.h"
#include "engine/run/engine_choices.h"
#include "launch/bench_report.h"
#include "launch/command.h"
#include "launch/doctor_report.h"
#include "launch/model_dir.h"
#include "sharding/store/store.h"

#ifndef CHOIR_VERSION
#define CHOIR_VERSION "not recorded by this build"
#endif

typedef struct doctor_flags {
    common_flags_t common;
    const char *config, *json_file;
    dtype_t mode;
    size_t kv_tokens, threads, read_mib;
} doctor_flags_t;

#define MIB ((size_t)1 << 20)
#define COMMAND_BYTES 1024

/* *has: whether a model was asked about. */
static int load_config(const doctor_flags_t *flags, config_t *config, bool *has, fail_t *fail)
{
    char directory[4096];
    *has = flags->config != NULL || flags->common.model != NULL;
    if (flags->config != NULL && flags->common.model != NULL)
        return fail_set(fail, FAIL_USAGE, "expected --config or --model, found both");
    if (flags->config != NULL)
        return config_load_file(config, flags->config, fail);
    if (flags->common.model != NULL &&
        model_dir_find(flags->common.model, directory, sizeof directory, fail) == 0 &&
        store_check_copied(directory, fail) == 0)
        config_load(config, directory, fail);
    return fail->status;
}

/* Bad findings are the command's failure. */
static void check_findings(const doctor_findings_t *findings, fail_t *fail)
{
    size_t bad = 0;
    for (size_t i = 0; i < findings->n; i++)
        bad += findings->items[i].severity == DOCTOR_BAD;
    if (bad > 0)
        fail_set(fail, FAIL_LIMIT, "doctor: %zu of %zu finding%s would make a run fail: %s", bad,
            findings->n, plural(findings->n), findings->items[0].what);
}

/* Rank 0. */
static void tell(const doctor_facts_t *facts, bench_sink_t *json, fail_t *fail)
{
    char command[COMMAND_BYTES];
    doctor_findings_t *findings = malloc(sizeof *findings);
    if (findings == NULL) {
        fail_set(fail, FAIL_MEMORY, "doctor: out of memory for findings");
        return;
    }
    doctor_find(facts, findings);
    doctor_command(facts, findings, command, sizeof command);
    if (json->file != NULL) {
        json_t *object = doctor_json(facts, findings, command);
        if (object == NULL)
            fail_set(fail, FAIL_MEMORY, "doctor: out of memory for a report");
        else
            json_dumpf(object, json->file, JSON_COMPACT);
        fputc('\n', json->file);
        json_decref(object);
    }
    if (json->file != stdout)
        doctor_print(facts, findings, command, stdout);
    check_findings(findings, fail);
    free(findings);
}

static int cmd_doctor(invocation_t *invocation, fail_t *fail)
{
    const doctor_flags_t *flags = invocation->flags;
    comm_t *comm = invocation->comm;
    doctor_facts_t facts = {0};
    bench_sink_t json = {0};
    config_t config;
    bool has_model = false;
    load_config(flags, &config, &has_model, fail);
    if (fail->status == 0 && comm_rank(comm) == 0)
        bench_sink_open(&json, flags->json_file, fail);
    if (comm_agree_same(comm, fail->status == 0 && has_model ? config_digest(&config) : 0,
            "config.json", fail) == 0) {
        const doctor_options_t options = {.version = CHOIR_VERSION,
            .threads = flags->threads,
            .config = has_model ? &config : NULL,
            .mode = flags->mode,
            .kv_tokens = flags->kv_tokens,
            .read_bytes = flags->read_mib * MIB};
        log_write(LOG_INFO, "inspecting nodes, measuring links, memory and cores");
        if (doctor_collect(comm, &options, &facts, fail) == 0) {
            if (comm_rank(comm) == 0)
                tell(&facts, &json, fail);
            comm_bcast(comm, fail, sizeof *fail); /* the run's failure, and not this rank's */
        }
    }
    doctor_clear(&facts);
    bench_sink_close(&json, fail);
    return fail->status;
}

#define AT(member) offsetof(doctor_flags_t, member)

static const arg_t doctor_args[] = {
    FLAG_TEXT("--model", AT(common.model), "DIR",
        "A model directory, store or name on the hub: also check whether that model fits. Without it (and --config) no model is checked."),
    FLAG_TEXT("--config", AT(config), "FILE",
        "The same for a model's config.json alone, such as those of configs/."),
    FLAG_CHOICE("--dtype", AT(mode), engine_modes, "Numeric mode of that model. Default bf16."),
    FLAG_SIZE("--kv-tokens", AT(kv_tokens), "N", 1, 4294967296.0,
        "Tokens that its KV cache is to hold. Default: 1024, the least that a run accepts."),
    FLAG_THREADS(AT(threads)),
    FLAG_SIZE("--read-mib", AT(read_mib), "N", 1, 1048576,
        "MiB that each rank reads to measure the bandwidth of memory. Default: 512 on each node, "
        "but 64 to 256 each."),
    FLAG_TEXT("--json", AT(json_file), "FILE",
        "Append the facts and findings to a file as a line of JSON (docs/clusters.md); - for "
        "standard output in place of the text."),
};
static const arg_group_t own = ARG_GROUP("Examination", doctor_args);

static const arg_part_t parts[] = {
    {&own, 0},
    {&flags_path, 0},
    PARTS_END,
};

static const arg_rule_t rules[] = {
    {.why = "without --model or --config",
        .without = " --model --config ",
        .flags = " --dtype --kv-tokens "},
    RULES_END,
};

static const doctor_flags_t defaults = {.common = COMMON_DEFAULTS};

const command_t command_doctor = {"doctor", "choir doctor [--config FILE | --model DIR] [flags]",
    "find what slows or stops a run on these ranks", parts, &defaults, sizeof defaults, rules,
    cmd_doctor};
