/* choir serve: an OpenAI-compatible server on the coordinator. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/input.h"
#include "engine/base/log.h"
#include "engine/base/path.h"
#include "engine/run/engine_choices.h"
#include "engine/serve/server.h"
#include "launch/before_end.h"
#include "launch/command.h"
#include "launch/mesh.h"
#include "launch/model_dir.h"
#include "launch/request_fields.h"
#include "launch/signals.h"
#include "sharding/checkpoint/content_digest.h"

typedef struct serve_flags {
    common_flags_t common;
    run_flags_t run;
    chat_choice_t template;
    const char *host, *allow_origin, *key_file, *name, *access_log;
    args_strings_t keys;
    size_t port, max_queue, max_body, max_connections, receive_seconds, max_tokens, drain_seconds;
    bool sample;
} serve_flags_t;

#define MODEL_DIR_BYTES 4096
#define NAME_BYTES 256
#define HEADER_BYTES 32768
#define KEY_FILE_BYTES 65536
#define MIB ((size_t)1 << 20)

/* What the coordinator has open. */
typedef struct job {
    const serve_flags_t *flags;
    char name[NAME_BYTES], fingerprint[40];
    char *key_text; /* of the file: its lines are keys */
    const char *keys[2 * ARGS_MAX_STRINGS];
    size_t n_keys;
    chat_t *chat;
    server_t *server;
} job_t;

/* ---- Before the model is loaded -------------------------------------------------------------- */

static int read_keys(job_t *job, fail_t *fail)
{
    const serve_flags_t *flags = job->flags;
    size_t bytes, most = sizeof job->keys / sizeof *job->keys;
    for (size_t i = 0; i < flags->keys.count; i++)
        job->keys[job->n_keys++] = flags->keys.items[i];
    if (flags->key_file != NULL &&
        input_read_stream(flags->key_file, KEY_FILE_BYTES, &job->key_text, &bytes, fail) != 0)
        return fail->status;
    char *rest, *text = job->key_text;
    for (char *key; text != NULL && (key = strtok_r(text, "\r\n", &rest)) != NULL; text = NULL) {
        if (job->n_keys == most)
            return fail_set(fail, FAIL_USAGE, "%s: more than %zu keys", flags->key_file, most);
        job->keys[job->n_keys++] = key;
    }
    for (size_t i = 0; i < job->n_keys; i++)
        if (job->keys[i][0] == 0)
            return fail_set(fail, FAIL_USAGE, "--api-key: expected a key, found an empty text");
    if (flags->key_file != NULL && job->n_keys == flags->keys.count)
        fail_set(fail, FAIL_USAGE, "%s: expected a key on each line, found none", flags->key_file);
    return fail->status;
}

/* What requests call the model: --served-name, or the last part of its directory's path. */
static int find_name(job_t *job, const char *directory, fail_t *fail)
{
    const char *name = job->flags->name;
    char path[MODEL_DIR_BYTES];
    snprintf(path, sizeof path, "%s", directory);
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = 0;
    if (name == NULL) {
        name = strrchr(path, '/');
        name = name == NULL || name[1] == 0 ? path : name + 1;
    }
    size_t bytes = strlen(name);
    if (bytes >= sizeof job->name)
        return fail_set(fail, FAIL_USAGE, "--served-name: expected at most %zu bytes, found %zu",
            sizeof job->name - 1, bytes);
    memcpy(job->name, name, bytes + 1);
    return 0;
}

static int open_server(job_t *job, const char *directory, fail_t *fail)
{
    const serve_flags_t *flags = job->flags;
    if (find_name(job, directory, fail) != 0 || read_keys(job, fail) != 0)
        return fail->status;
    const server_options_t options = {.http = {.host = flags->host,
                                          .port = flags->port,
                                          .keys = job->keys,
                                          .n_keys = job->n_keys,
                                          .allow_origin = flags->allow_origin,
                                          .max_body_bytes = flags->max_body * MIB,
                                          .max_header_bytes = HEADER_BYTES,
                                          .max_connections = flags->max_connections,
                                          .receive_seconds = flags->receive_seconds},
        .max_queue = flags->max_queue,
        .max_tokens = flags->max_tokens,
        .model = job->name,
        .version = CHOIR_VERSION,
        .access_log = flags->access_log,
        .drain_seconds = flags->drain_seconds,
        .asked_to_drain = signals_draining,
        .asked_to_reopen = signals_take_sighup};
    return server_open(&job->server, &options, fail);
}

/* ---- Serving --------------------------------------------------------------------------------- */

/* A digest of all that an answer depends on beside its request: weights, config, numeric settings. */
static int make_fingerprint(job_t *job, const mesh_t *mesh, const char *directory, fail_t *fail)
{
    engine_info_t info = mesh_info(mesh);
    char text[512];
    uint64_t weights = info.weights_digest;
    if (!info.has_weights_digest && checkpoint_directory_digest(directory, &weights, fail) != 0)
        return fail->status;
    /* Sums across ranks depend on how many there are. */
    size_t ranks = info.plan->combine == PLAN_REDUCE ? info.ranks : 0;
    int bytes = snprintf(text, sizeof text, "%s %016" PRIx64 " %016" PRIx64 " %s %s %s %s %s %zu",
        CHOIR_VERSION, weights, config_digest(info.config), choice_name(engine_modes, info.mode),
        choice_name(engine_orders, info.order), choice_name(engine_attentions, info.attention),
        choice_name(engine_used_dots, info.dot), choice_name(engine_combines, info.plan->combine),
        ranks);
    snprintf(job->fingerprint, sizeof job->fingerprint, "fp_%016" PRIx64,
        (uint64_t)XXH3_64bits(text, (size_t)bytes));
    return fail->status;
}

/* Sampling of requests that do not say: OpenAI's, or the checkpoint's. */
static int default_sampling(
    const serve_flags_t *flags, const mesh_t *mesh, sampler_params_t *sampling, fail_t *fail)
{
    const args_given_t none = {.count = 0};
    answer_flags_t answer = ANSWER_DEFAULTS;
    request_fields_t fields;
    answer.temperature = 1;
    answer.sample = flags->sample;
    request_fields_of_flags(&answer, &none, &mesh_info(mesh).config->generation, 0, &fields, fail);
    *sampling = fields.sampling;
    mesh_warn_sampling(mesh, flags->sample);
    return fail->status;
}

static int coordinate(job_t *job, mesh_t *mesh, const char *directory, fail_t *fail)
{
    const serve_flags_t *flags = job->flags;
    server_model_t model = {.fleet = mesh->fleet, .tokenizer = mesh->tokenizer};
    if (default_sampling(flags, mesh, &model.sampling, fail) == 0 &&
        make_fingerprint(job, mesh, directory, fail) == 0 &&
        chat_open(&job->chat, directory, &flags->template, fail) == 0) {
        model.chat = job->chat;
        model.fingerprint = job->fingerprint;
        if (server_ready(job->server, &model, fail) == 0) {
            log_write(LOG_INFO, "serving %s at http://%s:%zu", job->name, flags->host,
                server_port(job->server));
            server_run(job->server, fail);
        }
    }
    fleet_end(mesh->fleet, fail);
    return fail->status;
}

/* The server that open requests are told by when the watchdog ends the process: process-wide, as signals are. */
static _Atomic(server_t *) watched;

static void tell_of_end(void)
{
    server_t *server = atomic_load(&watched);
    if (server != NULL)
        server_fail(server, "a rank has stalled or ended, and the server ends");
}

static void close_job(job_t *job)
{
    atomic_store(&watched, NULL);
    server_close(job->server);
    chat_close(job->chat);
    free(job->key_text);
}

static int cmd_serve(invocation_t *invocation, fail_t *fail)
{
    const serve_flags_t *flags = invocation->flags;
    char directory[MODEL_DIR_BYTES];
    mesh_t mesh = {0};
    job_t job = {.flags = flags};
    model_dir_find(flags->common.model, directory, sizeof directory, fail);
    if (fail->status == 0 && comm_rank(invocation->comm) == 0)
        open_server(&job, directory, fail);
    if (comm_agree(invocation->comm, fail) != 0) {
        close_job(&job);
        return fail->status;
    }
    atomic_store(&watched, job.server);
    before_end_call(tell_of_end);
    const mesh_options_t options = {.directory = directory,
        .needs_tokenizer = true,
        .follows_prefixes = true,
        .digests_weights = true,
        .n_sequences = MESH_SERVED_SEQUENCES,
        .logits_rows = MESH_SERVED_LOGITS_ROWS};
    if (mesh_open(&mesh, invocation, &flags->run, &options, fail) == 0) {
        signals_drain();
        if (mesh.coordinates)
            coordinate(&job, &mesh, directory, fail);
        else
            fleet_serve(mesh.fleet, fail);
    }
    close_job(&job);
    return mesh_close(&mesh, fail);
}

#define AT(member) offsetof(serve_flags_t, member)

static const arg_t server_args[] = {
    FLAG_TEXT("--host", AT(host), "ADDRESS",
        "Address to listen at. Default 127.0.0.1: only this machine. 0.0.0.0: all of IPv4."),
    FLAG_SIZE("--port", AT(port), "N", 0, 65535, "Default 8000; 0: one that is free."),
    FLAG_TEXTS("--api-key", AT(keys), "KEY",
        "A key that requests have to bring; may be given several times. Other users see it in the list of processes: --api-key-file."),
    FLAG_TEXT("--api-key-file", AT(key_file), "FILE", "A file with a key on each line."),
    FLAG_TEXT("--allow-origin", AT(allow_origin), "ORIGIN",
        "Pages of this origin, as https://example.org, may use the server (CORS); *: all pages. Default: none but the server's own."),
    FLAG_TEXT("--served-name", AT(name), "NAME",
        "What requests call the model. Default: the last part of its directory's path."),
    FLAG_SWITCH("--sample", AT(sample),
        "Requests that do not give temperature, top_p, top_k, min_p or repetition_penalty get those of generation_config.json. Default: OpenAI's, temperature and top_p 1."),
    FLAG_SIZE("--max-tokens", AT(max_tokens), "N", 1, 4294967295.0,
        "Most tokens of a chat's answer whose request does not say. Default 4096."),
    FLAG_TEXT("--access-log", AT(access_log), "FILE",
        "A JSON object a line for each request; -: on standard error. SIGHUP opens the file again."),
    FLAG_SIZE("--drain-seconds", AT(drain_seconds), "N", 0, 86400,
        "After SIGTERM or SIGINT no new request is taken, and those that are open have N seconds to end. Default 30."),
};
static const arg_group_t server_group = ARG_GROUP("Server", server_args);

static const arg_t limit_args[] = {
    FLAG_REAL("--max-step-ratio", AT(run.max_step_ratio), "X", 0, 1000,
        "While answers are generated, a step with prompt tokens takes about X times as long as one without, at most. Changes speed, never a bit. Default 2; 0: no limit but --prefill-chunk."),
    FLAG_SIZE("--max-queue", AT(max_queue), "N", 0, 1048576,
        "Requests that may wait; one more is refused with status 429. Default 256."),
    FLAG_SIZE("--max-body", AT(max_body), "MIB", 1, 1024,
        "Longest body of a request, in MiB. Default 8."),
    FLAG_SIZE("--max-connections", AT(max_connections), "N", 1, 65536, "Default 2048."),
    FLAG_SIZE("--receive-seconds", AT(receive_seconds), "N", 1, 3600,
        "A request that has not arrived whole after N seconds is refused. Default 30."),
};
static const arg_group_t limit_group = ARG_GROUP("Limits", limit_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&server_group, 0},
    {&limit_group, 0},
    PARTS_OF_MANY_TEXTS(AT(template), AT(run)),
};

static const arg_rule_t rules[] = {
    RULES_OF_MANY_TEXTS(AT(run)),
};

static const serve_flags_t defaults = {.common = COMMON_DEFAULTS,
    .run = {.attention = ATTENTION_AUTO, .dot = DOT_AUTO, .max_step_ratio = 2},
    .host = "127.0.0.1",
    .port = 8000,
    .max_queue = 256,
    .max_body = 8,
    .max_connections = 2048,
    .receive_seconds = 30,
    .max_tokens = 4096,
    .drain_seconds = 30};

const command_t command_serve = {"serve", "choir serve [--model DIR] [--port N] [flags]",
    "an OpenAI-compatible server", parts, &defaults, sizeof defaults, rules, cmd_serve};
