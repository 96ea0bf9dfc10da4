#include "launch/plan_predict.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/printable.h"
#include "engine/base/size.h"
#include "engine/measure/cluster_file.h"
#include "engine/measure/predict.h"
#include "engine/measure/predict_rows.h"
#include "engine/model/model.h"
#include "engine/run/engine_choices.h"
#include "engine/run/weights_choice.h"
#include "launch/bench_report.h"

#define MOST_RANKS 1024
#define MOST_NETWORKS 16
#define DEFAULT_LATENCY_US 20
#define CHUNK 512       /* prompt tokens of a step unless told (engine.h) */
#define WIRE_SHARE 0.94 /* of an Ethernet link's bits that are payload: 1448 of 1538 bytes */

typedef struct network {
    double gbit; /* 0: as measured */
    predict_network_t rates;
} network_t;

typedef struct job {
    const plan_flags_t *flags;
    const config_t *config;
    predict_cluster_t cluster;
    plan_model_t model, packed; /* with dense and with packed weights */
    predict_query_t query;
    size_t n_networks;
    network_t networks[MOST_NETWORKS];
    bench_sink_t json; /* none: the table */
} job_t;

/* ---- What is asked for ----------------------------------------------------------------------- */

/* "10,25:5,100" */
static int parse_networks(job_t *job, fail_t *fail)
{
    const char *at = job->flags->what_if;
    if (at == NULL) {
        job->networks[0].rates = job->cluster.network;
        job->n_networks = 1;
        return 0;
    }
    for (;;) {
        char *end;
        double gbit = strtod(at, &end), us = DEFAULT_LATENCY_US;
        bool good = end != at && gbit > 0 && gbit < 1e6;
        if (good && *end == ':') {
            at = end + 1;
            us = strtod(at, &end);
            good = end != at && us >= 0 && us < 1e6;
        }
        if (!good || (*end != ',' && *end != 0) || job->n_networks == MOST_NETWORKS)
            return fail_set(fail, FAIL_USAGE,
                "--what-if: expected at most %d times GBIT[:MICROSECONDS] with commas between them, found \"%s\"",
                MOST_NETWORKS, job->flags->what_if);
        job->networks[job->n_networks++] = (network_t){gbit,
            {us * 1e-6, gbit * 1e9 / 8 * WIRE_SHARE, 0, job->cluster.network.processor_byte_s}};
        if (*end == 0)
            return 0;
        at = end + 1;
    }
}

static size_t most_ranks(const predict_cluster_t *cluster)
{
    size_t most = 1;
    for (size_t i = 0; i < cluster->n_rates; i++)
        most = size_max(most, cluster->rates[i].ranks);
    return most;
}

/* Rates that are given count for every set of the file. */
static int read_packed_speed(job_t *job, fail_t *fail)
{
    weights_rates_t rates;
    if (weights_rates_given(&rates, fail) == 0 && rates.given)
        for (size_t i = 0; i < job->cluster.n_rates; i++)
            job->cluster.rates[i].packed_speed = rates.packed / rates.dense;
    return fail->status;
}

static int prepare(job_t *job, fail_t *fail)
{
    const plan_flags_t *flags = job->flags;
    config_t config = *job->config;
    if (flags->cluster == NULL)
        return fail_set(fail, FAIL_USAGE,
            "--predict: expected --cluster FILE, a file that choir bench --cluster wrote");
    if (flags->layers > config.num_hidden_layers)
        return fail_set(fail, FAIL_USAGE, "--layers: expected at most the model's %zu, found %zu",
            config.num_hidden_layers, flags->layers);
    if (cluster_file_read(&job->cluster, flags->cluster, fail) != 0)
        return fail->status;
    if (job->cluster.n_rates == 0)
        return fail_set(fail, FAIL_FORMAT, "%s: rates: expected some, found none", flags->cluster);
    if (flags->layers != 0)
        config.num_hidden_layers = flags->layers;
    if (flags->weights != WEIGHTS_DENSE && read_packed_speed(job, fail) != 0)
        return fail->status;
    job->model = config_plan_model(&config, flags->mode);
    job->packed = model_sizes(&config, flags->mode, DOT_CHAIN, true);
    job->query = (predict_query_t){.cluster = &job->cluster,
        .model = &job->model,
        .combine = flags->combine,
        .ranks_per_node = flags->node_ranks != 0 ? flags->node_ranks : most_ranks(&job->cluster),
        .threads = flags->threads,
        .work = {.batch = flags->batch,
            .prompt_tokens = flags->prompt_tokens,
            .context = flags->context != 0 ? flags->context : flags->prompt_tokens,
            .gen_tokens = flags->gen_tokens,
            .chunk = CHUNK}};
    return parse_networks(job, fail);
}

/* ---- A projection ---------------------------------------------------------------------------- */

static json_t *split_json(const predict_split_t *s)
{
    return json_pack("{sf sf sf sf sf sf sf}", "matrix_s", s->matrix, "attention_s", s->attention,
        "elementwise_s", s->elementwise, "exchange_s", s->exchange, "network_s", s->network,
        "waiting_s", s->waiting, "sampling_s", s->sampling);
}

static void write_json(const job_t *job, const network_t *network, size_t ranks, bool prefill,
    bool packed, const predict_mesh_t *mesh)
{
    double rate = prefill ? mesh->prefill_tokens_per_s : mesh->decode_tokens_per_s;
    json_t *row = json_pack("{si ss ss sI sI sI sI sI sI sI sI sI sb sf sf sf sf sf so}", "schema",
        1, "phase", prefill ? "prefill" : "decode", "weights",
        choice_name(engine_weights, packed ? WEIGHTS_PACKED : WEIGHTS_DENSE), "layers",
        (json_int_t)job->model.n_layers, "hidden", (json_int_t)job->model.hidden, "batch",
        (json_int_t)job->query.work.batch, "prompt_tokens",
        (json_int_t)job->query.work.prompt_tokens, "context", (json_int_t)job->query.work.context,
        "ranks", (json_int_t)ranks, "nodes", (json_int_t)mesh->nodes, "replicas",
        (json_int_t)mesh->replicas, "threads", (json_int_t)mesh->threads, "fits", mesh->fits,
        "network_bytes_per_s", network->rates.bytes_per_s, "network_burst_bytes",
        network->rates.burst_bytes, "network_latency_s", network->rates.latency_s,
        "node_weight_bytes", mesh->weight_bytes, "tokens_per_s", rate, "split",
        split_json(prefill ? &mesh->each.prefill : &mesh->each.decode));
    json_dumpf(row, job->json.file, JSON_COMPACT);
    fputc('\n', job->json.file);
    json_decref(row);
}

/* Of so many ranks of a node. */
static const predict_rates_t *rates_of(const job_t *job, size_t ranks)
{
    return predict_choose(&job->cluster, size_min(ranks, job->query.ranks_per_node),
        job->query.threads, job->model.hidden, job->model.head_dim);
}

/* Common to all networks. */
static void print_work(const job_t *job)
{
    const predict_rates_t *rates = rates_of(job, job->query.ranks_per_node);
    printf("Projection, not a measurement: %zu layers, hidden %zu; %zu sequence%s, prompts of %zu "
           "tokens, decode from context %zu\n",
        job->model.n_layers, job->model.hidden, job->query.work.batch,
        plural(job->query.work.batch), job->query.work.prompt_tokens, job->query.work.context);
    printf("Rates of %s, %zu rank%s x %zu thread%s a node, measured with %s\n",
        printable_name(job->cluster.cpu).text, rates->ranks, plural(rates->ranks), rates->threads,
        plural(rates->threads), printable_name(rates->model).text);
    if (job->flags->weights == WEIGHTS_DENSE)
        return;
    printf("Weights: %s; steps of few rows with packed weights at ",
        choice_name(engine_weights, job->flags->weights));
    if (rates->packed_speed > 0)
        printf("%.2f of the speed of dense ones\n", rates->packed_speed);
    else
        printf("the speed of dense ones, as %s has no rate of them\n", job->flags->cluster);
}

static void print_head(const network_t *network)
{
    if (network->gbit > 0)
        printf("\nNetwork: supposed, %g Gbit/s, %g us\n\n", network->gbit,
            network->rates.latency_s * 1e6);
    else if (network->rates.bytes_per_s > 0)
        printf("\nNetwork: measured, %.2f GB/s, %.1f us, bursts of %.2f MB\n\n",
            network->rates.bytes_per_s * 1e-9, network->rates.latency_s * 1e6,
            network->rates.burst_bytes * 1e-6);
    else
        printf("\nNetwork: not measured (--what-if supposes one)\n\n");
    printf("%5s %7s %5s  %9s %10s %8s  %9s %9s %8s  %s\n", "ranks", "threads", "nodes", "mesh",
        "prefill/s", "exchange", "mesh", "decode/s", "exchange", "weights/node");
}

static void print_mesh(
    const predict_mesh_t *mesh, double rate, const predict_split_t *split, int digits)
{
    char name[32];
    snprintf(name, sizeof name, "%zux%zu", mesh->replicas, mesh->ranks_each);
    printf("  %9s %*.*f %7.0f%%", name, digits == 1 ? 10 : 9, digits, rate,
        100 * split->exchange / predict_seconds(split));
}

/* Whether weights are packed (engine/run/load.c): auto does it where it is faster, or dense ones do not fit. */
static int choose_packed(
    const job_t *job, const predict_query_t *dense, size_t ranks, bool *packed, fail_t *fail)
{
    predict_mesh_t mesh = {.fits = true};
    double speed = rates_of(job, ranks)->packed_speed;
    *packed = job->packed.packed && job->flags->weights != WEIGHTS_DENSE;
    if (!*packed || job->flags->weights == WEIGHTS_PACKED)
        return 0;
    *packed = (speed > 0 && weights_packed_is_faster(1, 1 / speed)) ||
              (predict_best_mesh(dense, ranks, false, &mesh, fail) == 0 && !mesh.fits);
    return fail->status;
}

static int tell_ranks(const job_t *job, const network_t *network, size_t ranks, fail_t *fail)
{
    predict_query_t query = job->query;
    predict_mesh_t prefill, decode;
    bool packed;
    query.network = network->rates;
    if (choose_packed(job, &query, ranks, &packed, fail) != 0)
        return fail->status;
    query.model = packed ? &job->packed : &job->model;
    if (predict_best_mesh(&query, ranks, true, &prefill, fail) != 0 ||
        predict_best_mesh(&query, ranks, false, &decode, fail) != 0)
        return fail->status;
    if (job->json.file != NULL) {
        write_json(job, network, ranks, true, packed, &prefill);
        write_json(job, network, ranks, false, packed, &decode);
        return 0;
    }
    printf("%5zu %7zu %5zu", ranks, decode.threads, decode.nodes);
    if (!decode.fits) {
        printf("  %9s %10s %8s  %9s %9s %8s  %7.1f GiB, more than a node has\n", "-", "-", "-", "-",
            "-", "-", decode.weight_bytes / 1073741824);
        return 0;
    }
    print_mesh(&prefill, prefill.prefill_tokens_per_s, &prefill.each.prefill, 1);
    print_mesh(&decode, decode.decode_tokens_per_s, &decode.each.decode, 2);
    printf("  %7.1f GiB%s\n", decode.weight_bytes / 1073741824, packed ? ", packed" : "");
    return 0;
}

static int project(const job_t *job, fail_t *fail)
{
    for (size_t i = 0; i < job->n_networks; i++) {
        const network_t *network = &job->networks[i];
        size_t first = job->flags->ranks != 0 ? job->flags->ranks : 1;
        size_t last = job->flags->ranks != 0 ? first : MOST_RANKS;
        bool networked = network->rates.bytes_per_s > 0;
        if (!networked && first > job->query.ranks_per_node)
            return fail_set(fail, FAIL_USAGE,
                "--ranks %zu: more than the %zu of a node, and %s has no network: expected --what-if, or a file measured on several nodes",
                first, job->query.ranks_per_node, job->flags->cluster);
        if (!networked)
            last = size_min(last, job->query.ranks_per_node);
        if (i == 0 && job->json.file == NULL)
            print_work(job);
        if (job->json.file == NULL)
            print_head(network);
        for (size_t ranks = first; ranks <= last; ranks *= 2)
            if (tell_ranks(job, network, ranks, fail) != 0)
                return fail->status;
    }
    return 0;
}

/* ---- Beside what was measured ---------------------------------------------------------------- */

static void print_heading(void)
{
    printf("%6s %5s %7s %9s %5s %7s %26s %26s\n", "", "", "", "", "", "", "prefill, tokens/s",
        "decode, tokens/s");
    printf("%6s %5s %7s %9s %5s %7s %9s %9s %6s %9s %9s %6s\n", "layers", "ranks", "threads",
        "mesh", "batch", "context", "measured", "predicted", "error", "measured", "predicted",
        "error");
}

static void print_row(void *context, const predict_row_t *row, const predict_mesh_t *mesh)
{
    bool *headed = context;
    if (!*headed)
        print_heading();
    *headed = true;
    printf("%6zu %5zu %7zu %4zux%-4zu %5zu %7zu %9.1f %9.1f %+5.0f%% %9.2f %9.2f %+5.0f%%\n",
        row->layers, row->ranks, row->threads, row->replicas, row->ranks / row->replicas,
        row->batch, row->context, row->prefill, mesh->prefill_tokens_per_s,
        100 * (mesh->prefill_tokens_per_s / row->prefill - 1), row->decode,
        mesh->decode_tokens_per_s, 100 * (mesh->decode_tokens_per_s / row->decode - 1));
}

static int compare(const job_t *job, fail_t *fail)
{
    predict_query_t query = job->query;
    predict_errors_t errors;
    bool headed = false;
    query.network = job->networks[0].rates;
    if (predict_rows(&query, job->config, job->flags->against, print_row, &headed, &errors, fail) ==
        0)
        printf("\nerror of %zu rates: median %.1f%%, largest %.1f%%\n", errors.n,
            100 * errors.median, 100 * errors.largest);
    return fail->status;
}

int plan_predict(const plan_flags_t *flags, const config_t *config, fail_t *fail)
{
    job_t job = {.flags = flags, .config = config};
    if (prepare(&job, fail) == 0 && bench_sink_open(&job.json, flags->json_file, fail) == 0) {
        if (flags->against != NULL)
            compare(&job, fail);
        else
            project(&job, fail);
        bench_sink_close(&job.json, fail);
    }
    predict_cluster_clear(&job.cluster);
    return fail->status;
}
