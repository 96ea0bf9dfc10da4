#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/topology.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/load.h"
#include "launch/bench_job.h"
#include "launch/mesh.h"
#include "launch/model_dir.h"
#include "launch/session.h"
#include "launch/signals.h"

#define MIB ((size_t)1 << 20)
#define LEAST_READ (64 * MIB) /* what a cache may hold is no measure of memory */

/* ---- What is asked for ----------------------------------------------------------------------- */

static int load_config(bench_job_t *job, fail_t *fail)
{
    const options_t *flags = &job->invocation->options;
    if (flags->config != NULL && flags->model != NULL)
        return fail_set(fail, FAIL_USAGE, "expected --config or --model, found both");
    if (flags->config != NULL)
        return config_load_file(&job->config, flags->config, fail);
    if (model_dir_find(flags->model, job->directory, sizeof job->directory, fail) == 0)
        config_load(&job->config, job->directory, fail);
    return fail->status;
}

/* Positions are known before the engine opens, unless RoPE is stretched. */
static int check_lengths(bench_job_t *job, fail_t *fail)
{
    options_t *flags = &job->invocation->options;
    if (flags->context == 0)
        flags->context = flags->prompt_tokens;
    size_t needed = size_max(flags->prompt_tokens, flags->context + flags->gen_tokens);
    /* --cluster has lengths of its own, which it checks. */
    if (flags->cluster == NULL && !config_has_positions(&job->config, needed))
        return fail_set(fail, FAIL_LIMIT,
            "--prompt-tokens %zu, --context %zu, --gen-tokens %zu: %zu positions, and the model has %zu",
            flags->prompt_tokens, flags->context, flags->gen_tokens, needed,
            job->config.max_position_embeddings);
    if (flags->n_layers > job->config.num_hidden_layers)
        return fail_set(fail, FAIL_USAGE, "--layers: expected at most the model's %zu, found %zu",
            job->config.num_hidden_layers, flags->n_layers);
    if (mesh_parse(
            flags->mesh, (size_t)comm_size(job->invocation->comm), &job->about.replicas, fail) != 0)
        return fail->status;
    bool alone = flags->gemm || flags->kernels;
    if (flags->gemm && flags->kernels)
        return fail_set(fail, FAIL_USAGE, "expected --gemm or --kernels, found both");
    if ((flags->sweep != NULL || flags->cluster != NULL) && (alone || flags->mesh != NULL))
        return fail_set(fail, FAIL_USAGE,
            "--sweep, --cluster: expected neither --gemm, --kernels nor --mesh (--sweep has mesh=)");
    if (alone && comm_size(job->invocation->comm) != 1)
        return fail_set(fail, FAIL_USAGE, "%s: expected one rank, found %d",
            flags->gemm ? "--gemm" : "--kernels", comm_size(job->invocation->comm));
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
    static const char *const combines[] = {"gather", "reduce"}, *const comms[] = {"auto", "mpi"};
    const options_t *flags = &job->invocation->options;
    bench_about_t *about = &job->about;
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(about->time_utc, sizeof about->time_utc, "%Y-%m-%dT%H:%M:%SZ", &utc);
    bench_cpu_name(about->cpu);
    name_model(flags->config != NULL ? flags->config : job->directory, about->model);
    about->random_weights = flags->config != NULL;
    about->config_digest = config_digest(&job->config);
    about->order = flags->order == 0 ? "torch" : "uniform";
    about->combine = combines[flags->combine];
    about->comm = comms[flags->comm];
    about->model_layers = job->config.num_hidden_layers;
    about->n_layers = flags->n_layers != 0 ? flags->n_layers : about->model_layers;
    about->ranks = (size_t)comm_size(job->invocation->comm);
    about->nodes = (size_t)comm_n_nodes(job->invocation->comm);
}

/* Collective. */
static int prepare(bench_job_t *job, fail_t *fail)
{
    const options_t *flags = &job->invocation->options;
    if (load_config(job, fail) == 0 && check_lengths(job, fail) == 0)
        describe(job);
    if (fail->status == 0 && comm_rank(job->invocation->comm) == 0 &&
        bench_sink_open(&job->json, flags->json_file, fail) == 0)
        bench_sink_open(&job->csv, flags->csv_file, fail);
    return comm_agree(job->invocation->comm, fail);
}

/* ---- What is told ---------------------------------------------------------------------------- */

/* Takes the row. The table goes to standard output unless rows do. */
bool bench_job_write(bench_job_t *job, json_t *row, fail_t *fail)
{
    if (row == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory for a report");
    if (row != NULL && job->json.file != NULL) {
        json_dumpf(row, job->json.file, JSON_COMPACT);
        fputc('\n', job->json.file);
        out_file_flush(job->json.out, fail);
    }
    if (row != NULL && job->csv.file != NULL) {
        bench_write_csv(row, job->csv.is_empty, job->csv.file);
        job->csv.is_empty = false;
        out_file_flush(job->csv.out, fail);
    }
    json_decref(row);
    return fail->status == 0 && job->json.file != stdout && job->csv.file != stdout;
}

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

/* Collective. Less than asked for where memory is short. */
size_t bench_job_read_bytes(const bench_job_t *job, comm_t *comm)
{
    size_t wish = job->invocation->options.read_mib * MIB, bytes = wish;
    size_t half = memory_available_bytes() / 2 / (size_t)comm_node_size(comm);
    if (half != 0 && bytes > half)
        bytes = size_max(half / MIB * MIB, size_min(wish, LEAST_READ));
    bytes = (size_t)comm_min(comm, (int64_t)bytes);
    if (bytes < wish)
        log_write(LOG_WARN, "memory is short: the bandwidth is measured on %zu MiB of each rank",
            bytes / MIB);
    return bytes;
}

void bench_job_describe(bench_job_t *job, const engine_info_t *info)
{
    static const char *const attentions[] = {"eager", "sdpa", "auto"};
    job->about.isa = info->isa;
    job->about.threads = info->threads;
    job->about.dtype = dtype_name(info->mode);
    job->about.attention = attentions[info->attention];
    job->about.dot = info->dot == DOT_AMX ? "amx" : "chain";
}

static int measure(bench_job_t *job, session_t *session, fail_t *fail)
{
    const options_t *flags = &job->invocation->options;
    engine_info_t info = engine_info(session->engine);
    bench_report_t report;
    bench_job_describe(job, &info);
    job->about.options = (bench_options_t){.prompt_tokens = flags->prompt_tokens,
        .gen_tokens = flags->gen_tokens,
        .batch = flags->batch,
        .context = flags->context,
        .repeat = flags->repeat,
        .warmup = flags->warmup,
        .read_bytes = bench_job_read_bytes(job, job->invocation->comm),
        .beside = job->about.replicas > 1 ? job->invocation->comm : NULL,
        .progress = session->coordinates ? tell_repetition : NULL,
        .progress_context = job};
    job->begin_ns = clock_ns();
    bench_run(session->engine, &job->about.options, &report, fail);
    if (fail->status == 0 && session->coordinates &&
        bench_job_write(job, bench_json(&job->about, &report), fail))
        bench_print_table(&job->about, &report, stdout);
    bench_clear(&report);
    return fail->status;
}

/* What a replica of --mesh needs besides its engine. */
typedef struct replica {
    comm_t *comm, *sharers;
} replica_t;

/* Collective over all ranks, as session_open; with one replica it is that. */
static int open_replica(bench_job_t *job, replica_t *replica, session_t *session, fail_t *fail)
{
    invocation_t *invocation = job->invocation;
    const options_t *flags = &invocation->options;
    if (job->about.replicas == 1)
        return session_open(session, invocation, job->directory, flags->batch, 1, fail);
    comm_t *all = invocation->comm;
    int each = comm_size(all) / (int)job->about.replicas;
    *session = (session_t){.invocation = invocation, .coordinates = comm_rank(all) == 0};
    engine_options_t options = session_engine_options(flags, job->directory, flags->batch, 1);
    comm_path_t path = flags->comm == 0 ? COMM_AUTO : COMM_MPI;
    if (comm_split(all, comm_rank(all) / each, path, &replica->comm, fail) != 0)
        return fail->status;
    if (!flags->own_weights) {
        if (comm_split(all, comm_rank(all) % each, COMM_MPI, &replica->sharers, fail) != 0)
            return fail->status;
        options.beside = all;
        options.sharers = replica->sharers;
    }
    progress_t progress;
    session_show_loading(&progress, invocation, &options);
    engine_open(&session->engine, replica->comm, &options, fail);
    progress_close(&progress);
    if (comm_agree(all, fail) == 0)
        signals_install(session->engine);
    return fail->status;
}

/* Collective. */
static int bench_model(bench_job_t *job, fail_t *fail)
{
    options_t *flags = &job->invocation->options;
    session_t session = {0};
    replica_t replica = {0};
    const bench_options_t sizes = {.prompt_tokens = flags->prompt_tokens,
        .gen_tokens = flags->gen_tokens,
        .batch = flags->batch,
        .context = flags->context};
    flags->max_batch = flags->batch;
    flags->kv_tokens = bench_kv_tokens(&sizes);
    if (open_replica(job, &replica, &session, fail) == 0)
        measure(job, &session, fail);
    signals_remove();
    engine_close(session.engine);
    comm_close(replica.sharers);
    comm_close(replica.comm);
    return comm_agree(job->invocation->comm, fail);
}

/* As --bind says; each thread on a core of its own where it says nothing and they suffice. */
static topology_bind_t gemm_bind(
    const invocation_t *invocation, const topology_t *topology, size_t threads)
{
    if (args_was_given(&invocation->given, "--bind") || threads > topology->bound_cores)
        return (topology_bind_t)invocation->options.bind;
    return TOPOLOGY_BIND_CORE;
}

/* One rank. */
static int bench_gemm(bench_job_t *job, fail_t *fail)
{
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    const options_t *flags = &job->invocation->options;
    topology_t topology = {0};
    bench_gemm_t gemm;
    isa_t isa;
    if (isa_choose(&isa, fail) != 0 || topology_read(&topology, fail) != 0)
        return fail->status;
    dtype_t mode = modes[flags->dtype];
    size_t threads = topology_threads(&topology, flags->threads, 1);
    const bench_gemm_options_t options = {.config = &job->config,
        .mode = mode,
        .isa = isa,
        .dot = load_choose_dot(job->invocation->comm, (dot_t)flags->dot, mode),
        .order = flags->order == 0 ? ORDER_TORCH : ORDER_UNIFORM,
        .threads = threads,
        .bind = gemm_bind(job->invocation, &topology, threads),
        .repeat = flags->repeat,
        .progress = tell_shape,
        .progress_context = job};
    job->begin_ns = clock_ns();
    job->about.options.repeat = flags->repeat;
    job->about.isa = isa_name(isa);
    job->about.dtype = dtype_name(mode);
    job->about.dot = options.dot == DOT_AMX ? "amx" : "chain";
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
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    const options_t *flags = &job->invocation->options;
    bench_kernels_t kernels = {0};
    isa_t isa;
    if (isa_choose(&isa, fail) != 0)
        return fail->status;
    job->about.options.repeat = flags->repeat;
    job->about.isa = isa_name(isa);
    job->about.dtype = dtype_name(modes[flags->dtype]);
    job->about.threads = 1;
    if (bench_kernels_run(isa, modes[flags->dtype], flags->repeat, &kernels, fail) == 0 &&
        bench_job_write(job, bench_kernels_json(&job->about, &kernels), fail))
        bench_print_kernels(&job->about, &kernels, stdout);
    bench_kernels_clear(&kernels);
    return fail->status;
}

int cmd_bench(invocation_t *invocation, fail_t *fail)
{
    bench_job_t *job = calloc(1, sizeof *job);
    if (job == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    if (comm_agree(invocation->comm, fail) != 0) {
        free(job);
        return fail->status;
    }
    job->invocation = invocation;
    if (prepare(job, fail) == 0) {
        if (invocation->options.gemm)
            bench_gemm(job, fail);
        else if (invocation->options.kernels)
            bench_kernels(job, fail);
        else if (invocation->options.cluster != NULL)
            bench_cluster(job, fail);
        else if (invocation->options.sweep != NULL)
            bench_sweep(job, fail);
        else
            bench_model(job, fail);
    }
    bench_sink_close(&job->json, fail);
    bench_sink_close(&job->csv, fail);
    free(job);
    return fail->status;
}
