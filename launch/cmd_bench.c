#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/topology.h"
#include "comm/watch/progress_record.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/proc_file.h"
#include "engine/base/size.h"
#include "engine/measure/bench_cluster.h"
#include "engine/run/engine_choices.h"
#include "engine/run/load.h"
#include "launch/bench_job.h"
#include "launch/bench_serve.h"
#include "launch/bench_speculate.h"
#include "launch/bench_sweep.h"
#include "launch/command.h"
#include "launch/engine_flags.h"
#include "launch/mesh.h"
#include "launch/model_dir.h"

/* ---- Flags ----------------------------------------------------------------------------------- */

static int load_config(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    if (flags->config != NULL && flags->common.model != NULL)
        return fail_set(fail, FAIL_USAGE, "expected --config or --model, found both");
    if (flags->config != NULL) {
        if (config_load_file(&job->config, flags->config, fail) == 0)
            config_quantise(&job->config, flags->format);
        return fail->status;
    }
    if (model_dir_find(flags->common.model, job->directory, sizeof job->directory, fail) == 0)
        config_load(&job->config, job->directory, fail);
    return fail->status;
}

/* Positions are known before the engine opens, unless RoPE is scaled. */
static int check_lengths(bench_job_t *job, fail_t *fail)
{
    bench_flags_t *flags = job->flags;
    if (flags->context == 0)
        flags->context = flags->prompt_tokens;
    size_t needed = size_max(flags->prompt_tokens, flags->context + flags->gen_tokens);
    /* --cluster has lengths of its own, which it checks. */
    if (flags->cluster == NULL && !config_has_positions(&job->config, needed))
        return fail_set(fail, FAIL_LIMIT,
            "--prompt-tokens %zu, --context %zu, --gen-tokens %zu: %zu positions, and the model has %zu",
            flags->prompt_tokens, flags->context, flags->gen_tokens, needed,
            job->config.max_position_embeddings);
    if (flags->layers > job->config.num_hidden_layers)
        return fail_set(fail, FAIL_USAGE, "--layers: expected at most the model's %zu, found %zu",
            job->config.num_hidden_layers, flags->layers);
    if (mesh_parse(flags->run.mesh, (size_t)comm_size(job->comm), &job->about.replicas, fail) != 0)
        return fail->status;
    bool alone = flags->gemm || flags->kernels;
    if (flags->gemm && flags->kernels)
        return fail_set(fail, FAIL_USAGE, "expected --gemm or --kernels, found both");
    if ((flags->sweep != NULL || flags->cluster != NULL) && (alone || flags->run.mesh != NULL))
        return fail_set(fail, FAIL_USAGE,
            "--sweep, --cluster: expected neither --gemm, --kernels nor --mesh (--sweep has mesh=)");
    if (alone && comm_size(job->comm) != 1)
        return fail_set(fail, FAIL_USAGE, "%s: expected one rank, found %d",
            flags->gemm ? "--gemm" : "--kernels", comm_size(job->comm));
    return 0;
}

/* "/x/qwen2.5-1.5b.json" and "/x/qwen2.5-1.5b/" are both "qwen2.5-1.5b". */
static void name_model(const char *path, char name[BENCH_NAME_BYTES])
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    size_t begin = length;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    if (length - begin > 5 && strncmp(path + length - 5, ".json", 5) == 0)
        length -= 5;
    snprintf(name, BENCH_NAME_BYTES, "%.*s", (int)(length - begin), path + begin);
}

static void describe(bench_job_t *job)
{
    const bench_flags_t *flags = job->flags;
    bench_about_t *about = &job->about;
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(about->time_utc, sizeof about->time_utc, "%Y-%m-%dT%H:%M:%SZ", &utc);
    if (!proc_value("/proc/cpuinfo", "model name", about->cpu, sizeof about->cpu))
        strcpy(about->cpu, "unknown");
    name_model(flags->config != NULL ? flags->config : job->directory, about->model);
    about->format = flags->format == QUANTISED_KIND_OF_CONFIG
                        ? NULL
                        : choice_name(engine_kinds, (int)flags->format);
    about->random_weights = flags->config != NULL;
    about->config_digest = config_digest(&job->config);
    about->order = choice_name(engine_orders, flags->run.order);
    about->combine = choice_name(engine_combines, flags->run.combine);
    about->comm = choice_name(engine_paths, flags->common.path);
    about->model_layers = job->config.num_hidden_layers;
    about->n_layers = flags->layers != 0 ? flags->layers : about->model_layers;
    about->ranks = (size_t)comm_size(job->comm);
    about->nodes = (size_t)comm_n_nodes(job->comm);
}

/* Collective. */
static int prepare(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    if (load_config(job, fail) == 0 && check_lengths(job, fail) == 0)
        describe(job);
    if (fail->status == 0 && comm_rank(job->comm) == 0 &&
        bench_sink_open(&job->json, flags->json_file, fail) == 0)
        bench_sink_open(&job->csv, flags->csv_file, fail);
    return comm_agree(job->comm, fail);
}

/* ---- Messages -------------------------------------------------------------------------------- */

static const char *count_of(size_t done, size_t total, size_t warmup, char text[64])
{
    if (done <= warmup)
        snprintf(text, 64, "warm-up %zu of %zu", done, warmup);
    else
        snprintf(text, 64, "repetition %zu of %zu", done - warmup, total - warmup);
    return text;
}

static void tell_repetition(void *context, size_t done, size_t total, const double *values)
{
    const bench_job_t *job = context;
    char count[64], left[48] = "";
    double seconds = (double)(clock_ns() - job->begin_ns) * 1e-9;
    if (done < total)
        snprintf(
            left, sizeof left, ", %.0f s left", seconds * (double)(total - done) / (double)done);
    log_write(LOG_INFO, "%s: prefill %.1f tokens/s, decode %.2f tokens/s, read %.1f GB/s%s",
        count_of(done, total, job->about.options.warmup, count), values[BENCH_PREFILL_TOKENS],
        values[BENCH_DECODE_TOKENS], values[BENCH_READ_BANDWIDTH] * 1e-9, left);
}

static void tell_shape(void *context, size_t done, size_t total, const char *shape)
{
    const bench_job_t *job = context;
    char left[48] = "";
    double seconds = (double)(clock_ns() - job->begin_ns) * 1e-9;
    if (done > 1)
        snprintf(left, sizeof left, ", %.0f s left",
            seconds * (double)(total - done + 1) / (double)(done - 1));
    log_write(LOG_INFO, "shape %zu of %zu: %s%s", done, total, shape, left);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static void take_report(void *context, const bench_taken_t *taken, fail_t *fail)
{
    bench_job_t *job = context;
    bench_job_describe(job, taken);
    if (bench_job_write(job, bench_json(&job->about, taken->report), fail))
        bench_print_table(&job->about, taken->report, stdout);
}

/* Collective. */
static int bench_model(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    job->about.options = (bench_options_t){.prompt_tokens = flags->prompt_tokens,
        .gen_tokens = flags->gen_tokens,
        .batch = flags->batch,
        .context = flags->context,
        .repeat = flags->repeat,
        .warmup = flags->warmup,
        .progress = tell_repetition,
        .progress_context = job};
    bench_part_t part = bench_job_part(job);
    part.runs = &job->about.options;
    part.n_runs = 1;
    part.take = take_report;
    engine_flags_show_loading(&job->loading, job->comm, &flags->common, &part.replica.engine);
    bench_part_run(&part, fail);
    progress_close(&job->loading);
    return fail->status;
}

/* Collective. */
static int bench_cluster(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    const bench_cluster_t options = {.part = bench_job_part(job),
        .config = &job->config,
        .n_layers = job->about.n_layers,
        .model = job->about.model,
        .cpu = job->about.cpu,
        .sweep = flags->sweep,
        .repeat = flags->repeat,
        .warmup = flags->warmup,
        .path = flags->cluster};
    return bench_cluster_run(&options, fail);
}

/* As --bind; without it each thread on its own core if there are enough. */
static topology_bind_t gemm_bind(const bench_job_t *job, const topology_t *topology, size_t threads)
{
    if (args_was_given(job->given, "--bind") || threads > topology->bound_cores)
        return job->flags->run.bind;
    return TOPOLOGY_BIND_CORE;
}

/* One rank. */
static int bench_gemm(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    topology_t topology = {0};
    bench_gemm_t gemm;
    isa_t isa;
    if (isa_choose(&isa, fail) != 0 || topology_read(&topology, fail) != 0)
        return fail->status;
    dtype_t mode = flags->run.mode;
    size_t threads = topology_threads(&topology, flags->run.threads, 1);
    const bench_gemm_options_t options = {.config = &job->config,
        .mode = mode,
        .isa = isa,
        .dot = load_choose_dot(job->comm, flags->run.dot, mode, flags->run.order),
        .order = flags->run.order,
        .threads = threads,
        .bind = gemm_bind(job, &topology, threads),
        .repeat = flags->repeat,
        .progress = tell_shape,
        .progress_context = job};
    job->begin_ns = clock_ns();
    job->about.options.repeat = flags->repeat;
    job->about.isa = isa_name(isa);
    job->about.dtype = dtype_name(mode);
    job->about.dot = choice_name(engine_used_dots, options.dot);
    job->about.threads = options.threads;
    if (bench_gemm_run(&options, &gemm, fail) == 0 &&
        bench_job_write(job, bench_gemm_json(&job->about, &gemm), fail))
        bench_print_gemm(&job->about, &gemm, stdout);
    bench_gemm_clear(&gemm);
    return fail->status;
}

/* One rank, one thread. */
static int bench_kernels(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    bench_kernels_t kernels = {0};
    isa_t isa;
    if (isa_choose(&isa, fail) != 0)
        return fail->status;
    job->about.options.repeat = flags->repeat;
    job->about.isa = isa_name(isa);
    job->about.dtype = dtype_name(flags->run.mode);
    job->about.threads = 1;
    if (bench_kernels_run(isa, flags->run.mode, flags->repeat, &kernels, fail) == 0 &&
        bench_job_write(job, bench_kernels_json(&job->about, &kernels), fail))
        bench_print_kernels(&job->about, &kernels, stdout);
    bench_kernels_clear(&kernels);
    return fail->status;
}

/* Clients of a server: one rank, and no model. */
static int bench_serve(bench_job_t *job, fail_t *fail)
{
    const bench_flags_t *flags = job->flags;
    const bench_serve_options_t options = {.url = flags->serve,
        .key = flags->key,
        .requests = flags->beside > 0 ? flags->batch : flags->requests,
        .beside = flags->beside,
        .clients = flags->batch,
        .prompt_tokens = flags->prompt_tokens,
        .prompt_ids = flags->prompt_ids,
        .gen_tokens = flags->gen_tokens,
        .rate = flags->rate};
    json_t *row = NULL;
    if (comm_size(job->comm) != 1)
        fail_set(fail, FAIL_USAGE, "--serve: expected one rank, found %d", comm_size(job->comm));
    if (comm_agree(job->comm, fail) != 0 ||
        bench_sink_open(&job->json, flags->json_file, fail) != 0 ||
        bench_sink_open(&job->csv, flags->csv_file, fail) != 0)
        return fail->status;
    /* A server may let its clients wait for longer than ranks wait for each other. */
    comm_set_phase(job->comm, PROGRESS_IDLE, 0);
    bench_serve_run(&options, &row, fail);
    if (row != NULL && bench_job_write(job, json_incref(row), fail))
        bench_serve_print(row, stdout);
    json_decref(row);
    return fail->status;
}

static int cmd_bench(invocation_t *invocation, fail_t *fail)
{
    bench_job_t *job = calloc(1, sizeof *job);
    if (job == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    if (comm_agree(invocation->comm, fail) != 0) {
        free(job);
        return fail->status;
    }
    bench_flags_t *flags = invocation->flags;
    job->comm = invocation->comm;
    job->flags = flags;
    job->given = &invocation->given;
    if (flags->serve != NULL) {
        bench_serve(job, fail);
    } else if (prepare(job, fail) == 0) {
        if (flags->gemm)
            bench_gemm(job, fail);
        else if (flags->kernels)
            bench_kernels(job, fail);
        else if (flags->acceptance >= 0)
            bench_speculate(job, fail);
        else if (flags->cluster != NULL)
            bench_cluster(job, fail);
        else if (flags->sweep != NULL)
            bench_sweep(job, fail);
        else
            bench_model(job, fail);
    }
    bench_sink_close(&job->json, fail);
    bench_sink_close(&job->csv, fail);
    free(job);
    return fail->status;
}

#define AT(member) offsetof(bench_flags_t, member)

static const arg_t bench_args[] = {
    FLAG_TEXT("--config", AT(config), "FILE",
        "A model's config.json, such as those of configs/: that shape with random weights made in "
        "memory, in place of --model."),
    FLAG_CHOICE("--format", AT(format), engine_kinds,
        "Of the random matrices of all layers: bf16, int4 of GPTQ with groups of 32, 64 or 128 inputs, int8 with a scale for each output or, of GPTQ, for groups of 128, FP8 with blocks of 128. Default: as the config's quantization_config says. Embedding and lm_head stay as they are."),
    FLAG_SIZE("--layers", AT(layers), "N", 1, 65536,
        "Only the first N layers, for shapes larger than the memory. Default: all."),
    FLAG_PROMPT_TOKENS(AT(prompt_tokens)),
    FLAG_SIZE("--gen-tokens", AT(gen_tokens), "N", 1, 16777216,
        "Decode steps of a repetition. Default 32."),
    FLAG_SIZE("--batch", AT(batch), "N", 1, 4096,
        "Sequences at once, each with a prompt of its own. Default 1."),
    FLAG_SIZE("--context", AT(context), "N", 1, 16777216,
        "Keys in the cache when decoding begins; keys beyond the prompt are copies. Default: the prompt's length."),
    FLAG_SIZE("--repeat", AT(repeat), "N", 1, 1000, "Repetitions. Default 5."),
    FLAG_SIZE("--warmup", AT(warmup), "N", 0, 1000, "Warm-up repetitions before. Default 1."),
    FLAG_SIZE("--read-mib", AT(read_mib), "N", 1, 1048576,
        "MiB that each rank reads to measure the bandwidth of memory. Default 1024."),
    FLAG_SWITCH("--gemm", AT(gemm),
        "Measure the matrix kernels alone, shape by shape, against OpenBLAS; on one rank, with each thread bound to a core unless --bind is given."),
    FLAG_SWITCH("--kernels", AT(kernels),
        "Measure every kernel alone on one thread: its time, its share of this core's limit, and the time of scalar C; needs no model."),
    FLAG_REAL("--speculate", AT(acceptance), "RATE", 0, 1,
        "Measure steps that verify drafts, of 1, 2, 4, 8 and 16 rows, and say what drafts gain that are right with a chance of 0.5, 0.7, 0.9 and RATE."),
    FLAG_TEXT("--draft", AT(draft), "FILE|DIR",
        "With --speculate: a smaller model drafts, a config.json's shape with random weights or a directory. Then --gen-tokens are decoded in turn without and with drafts, which are made and verified as in a run and accepted at RATE."),
    FLAG_SIZE("--draft-layers", AT(draft_layers), "N", 1, 65536,
        "Only the first N layers of --draft. Default: all."),
    FLAG_TEXT("--sweep", AT(sweep), "LISTS",
        "Measure on growing numbers of ranks and threads: \"ranks=1,2 threads=1,2 mesh=1,2 batch=1,16 context=128,2048 scaling=strong,weak\", or \"auto\"; prompts as long as the context unless --prompt-tokens is given (docs/scaling.md)."),
    FLAG_TEXT("--cluster", AT(cluster), "FILE",
        "Measure the rates of this machine and network, and keep them for choir plan --predict. "
        "With --sweep: of those ranks and threads."),
    FLAG_TEXT("--serve", AT(serve), "URL",
        "Load on a server of OpenAI's form, such as choir serve: http://127.0.0.1:8000. --batch clients ask --requests in all, with prompts of --prompt-tokens random words; needs no model (docs/serve.md)."),
    FLAG_SIZE("--requests", AT(requests), "N", 1, 1048576, "With --serve. Default 64."),
    FLAG_REAL("--rate", AT(rate), "R", 0, 1e6,
        "With --serve: R requests a second, at random times, in place of --batch clients."),
    FLAG_SIZE("--prompt-ids", AT(prompt_ids), "N", 1, 2147483647,
        "With --serve: prompts are --prompt-tokens random token ids below N, in place of words."),
    FLAG_SIZE("--beside", AT(beside), "N", 1, 16777216,
        "With --serve: each of --batch clients has one answer, during which a prompt of N tokens arrives; how long that holds up their tokens."),
    FLAG_TEXT("--api-key", AT(key), "KEY", "With --serve: of the server."),
    FLAG_TEXT("--json", AT(json_file), "FILE",
        "Append the results to a file of JSON lines (docs/bench-json.md); - for standard output in "
        "place of the table."),
    FLAG_TEXT("--csv", AT(csv_file), "FILE",
        "Append the results to a file of comma-separated values; - for standard output."),
};
static const arg_group_t own = ARG_GROUP("Measurement", bench_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    {&flags_mesh, AT(run)},
    PARTS_NUMERICS_AND_RANKS(AT(run)),
    PARTS_END,
};

static const arg_rule_t rules[] = {
    {.why = "with --gemm",
        .with = " --gemm ",
        .without = " --kernels ",
        .reads = true,
        .flags =
            " --gemm --config --model --dtype --dot --order --threads --bind --repeat --json --csv "},
    {.why = "with --kernels",
        .with = " --kernels ",
        .without = " --gemm ",
        .reads = true,
        .flags = " --kernels --dtype --repeat --json --csv "},
    {.why = "with --serve",
        .with = " --serve ",
        .reads = true,
        .flags =
            " --serve --requests --rate --prompt-ids --beside --api-key --batch --prompt-tokens --gen-tokens --json "},
    {.why = "without --serve",
        .without = " --serve ",
        .flags = " --requests --rate --prompt-ids --beside --api-key "},
    {.why = "with --rate", .with = " --rate ", .flags = " --batch "},
    {.why = "with --beside", .with = " --beside ", .flags = " --requests --rate "},
    {.why = "with --speculate",
        .with = " --speculate ",
        .flags = " --sweep --cluster --mesh --own-weights --batch --prompt-tokens --read-mib "},
    {.why = "without --speculate", .without = " --speculate ", .flags = " --draft "},
    {.why = "without --draft", .without = " --draft ", .flags = " --draft-layers "},
    {.why = "with --cluster",
        .with = " --cluster ",
        .flags =
            " --prompt-tokens --gen-tokens --batch --context --threads --own-weights --json --csv "},
    {.why = "with --sweep, which has threads=", .with = " --sweep ", .flags = " --threads "},
    {.why = "with --config", .with = " --config ", .flags = " --stage "},
    {.why = "without --config", .without = " --config ", .flags = " --format "},
    {.why = "without --mesh", .without = " --mesh --sweep ", .flags = " --own-weights "},
    RULE_NO_AMX(AT(run)),
    RULE_OWN_DOT(AT(run)),
    RULES_END,
};

static const bench_flags_t defaults = {.common = COMMON_DEFAULTS,
    .run = RUN_DEFAULTS,
    .prompt_tokens = 512,
    .gen_tokens = 32,
    .batch = 1,
    .repeat = 5,
    .acceptance = -1,
    .warmup = 1,
    .read_mib = 1024,
    .requests = 64};

const command_t command_bench = {"bench", "choir bench [--config FILE | --model DIR] [flags]",
    "measure speed against the limits of this machine", parts, &defaults, sizeof defaults, rules,
    cmd_bench};
