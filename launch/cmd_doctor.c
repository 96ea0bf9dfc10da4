#include <stdlib.h>

#include "engine/base/log.h"
#include "engine/doctor/doctor.h"
#include "launch/bench_report.h"
#include "launch/command.h"
#include "launch/doctor_report.h"
#include "launch/model_dir.h"
#include "sharding/store/store.h"

#ifndef CHOIR_VERSION
#define CHOIR_VERSION "not recorded by this build"
#endif

#define MIB ((size_t)1 << 20)
#define COMMAND_BYTES 1024

/* *has: whether a model was asked about. */
static int load_config(const options_t *flags, config_t *config, bool *has, fail_t *fail)
{
    char directory[4096];
    *has = flags->config != NULL || flags->model != NULL;
    if (flags->config != NULL && flags->model != NULL)
        return fail_set(fail, FAIL_USAGE, "expected --config or --model, found both");
    if (flags->config != NULL)
        return config_load_file(config, flags->config, fail);
    if (flags->model != NULL &&
        model_dir_find(flags->model, directory, sizeof directory, fail) == 0 &&
        store_check_copied(directory, fail) == 0)
        config_load(config, directory, fail);
    return fail->status;
}

/* What is badly wrong is the command's failure. */
static void judge(const doctor_findings_t *findings, fail_t *fail)
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
    judge(findings, fail);
    free(findings);
}

int cmd_doctor(invocation_t *invocation, fail_t *fail)
{
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    const options_t *flags = &invocation->options;
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
            .mode = modes[flags->dtype],
            .kv_tokens = flags->kv_tokens,
            .read_bytes =
                args_was_given(&invocation->given, "--read-mib") ? flags->read_mib * MIB : 0};
        log_write(LOG_INFO, "looking at nodes, measuring links, memory and cores");
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
