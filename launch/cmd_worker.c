/* choir worker: JSON lines from standard input to the model, answers to standard output, each as
 * soon as it is there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/lines.h"
#include "launch/command.h"
#include "launch/mesh.h"
#include "launch/model_dir.h"
#include "launch/output.h"
#include "launch/request_fields.h"
#include "launch/worker_request.h"

typedef struct worker_flags {
    common_flags_t common;
    run_flags_t run;
    chat_choice_t template;
} worker_flags_t;

#define MODEL_DIR_BYTES 4096
#define IDLE_MS 20 /* between checks for signals while there are no requests */

/* Objects that a worker has open. */
typedef struct job {
    worker_t worker;
    lines_t input;
    output_t output;
} job_t;

static int answer(job_t *job, worker_request_t *request, fail_t *fail)
{
    output_json(&job->output, request->answer, fail);
    worker_request_free(request);
    return fail->status;
}

/* unreadable: as for worker_request_open. */
static int take_line(
    job_t *job, const char *line, size_t bytes, const fail_t *unreadable, fail_t *fail)
{
    worker_request_t *request;
    if (strspn(line, " \t\r") >= bytes)
        return 0;
    if (worker_request_open(
            &job->worker, line, bytes, job->input.number, unreadable, &request, fail) != 0)
        worker_request_free(request);
    else if (request->n_jobs == 0)
        answer(job, request, fail);
    return fail->status;
}

/* Takes the lines that have been read; at the input's end, what is left is one too. */
static int take_lines(job_t *job, fail_t *fail)
{
    char *line;
    size_t bytes;
    while (fail->status == 0) {
        fail_t too_long = {0};
        lines_state_t state = lines_take(&job->input, &line, &bytes);
        if (state == LINES_LONG)
            lines_too_long(&job->input, &too_long);
        else if (state != LINES_LINE)
            break;
        take_line(job, line, bytes, state == LINES_LONG ? &too_long : NULL, fail);
    }
    return fail->status;
}

static int take_results(job_t *job, const fleet_result_t *results, size_t n, fail_t *fail)
{
    for (size_t i = 0; i < n && fail->status == 0; i++) {
        worker_request_t *request = job->worker.by_job[results[i].job];
        job->worker.by_job[results[i].job] = NULL;
        worker_request_take(request, &results[i]);
        if (request->n_done == request->n_jobs && fail->status == 0)
            answer(job, request, fail);
    }
    return fail->status;
}

/* Drops requests that will not be answered: a request's jobs are adjacent. */
static void forget_requests(worker_t *worker)
{
    for (size_t i = 0; i < worker->n_jobs; i++) {
        worker_request_t *request = worker->by_job[i];
        for (size_t j = i; request != NULL && j < worker->n_jobs; j++)
            if (worker->by_job[j] == request)
                worker->by_job[j] = NULL;
            else if (worker->by_job[j] != NULL)
                break;
        worker_request_free(request);
    }
    free(worker->by_job);
}

static int say_hello(job_t *job, fail_t *fail)
{
    json_t *hello = json_object();
    json_object_set_new(hello, "info", worker_info(&job->worker));
    output_json(&job->output, hello, fail);
    json_decref(hello);
    return fail->status;
}

/* The coordinator's part: until the input has ended and everything is answered. */
static int coordinate(
    mesh_t *mesh, const chat_choice_t *template, const char *directory, fail_t *fail)
{
    job_t job = {.worker = {.mesh = mesh, .directory = directory, .template = template}};
    uint64_t begin = clock_ns();
    lines_open(&job.input, STDIN_FILENO, "standard input",
        request_line_bytes(engine_info(fleet_engine(mesh->fleet)).max_context));
    say_hello(&job, fail);
    while (fail->status == 0 && !job.output.closed &&
           (!job.input.ended || fleet_pending(mesh->fleet) > 0)) {
        const fleet_result_t *results;
        size_t n_results = 0;
        if (lines_fill(&job.input, fleet_pending(mesh->fleet) > 0 ? 0 : IDLE_MS, fail) != 0 ||
            take_lines(&job, fail) != 0)
            break;
        if (fleet_step(mesh->fleet, &results, &n_results, fail) >= 0)
            take_results(&job, results, n_results, fail);
    }
    double seconds = (double)(clock_ns() - begin) * 1e-9;
    fleet_end(mesh->fleet, fail);
    if (fail->status == 0)
        mesh_report(mesh, seconds, false);
    forget_requests(&job.worker);
    chat_close(job.worker.chat);
    lines_close(&job.input);
    return fail->status;
}

static int cmd_worker(invocation_t *invocation, fail_t *fail)
{
    const worker_flags_t *flags = invocation->flags;
    char directory[MODEL_DIR_BYTES];
    mesh_t mesh = {0};
    model_dir_find(flags->common.model, directory, sizeof directory, fail);
    if (comm_agree(invocation->comm, fail) != 0)
        return fail->status;
    const mesh_options_t options = {.directory = directory,
        .needs_tokenizer = true,
        .n_sequences = MESH_SERVED_SEQUENCES,
        .logits_rows = MESH_SERVED_LOGITS_ROWS};
    if (mesh_open(&mesh, invocation, &flags->run, &options, fail) == 0) {
        if (mesh.coordinates)
            coordinate(&mesh, &flags->template, directory, fail);
        else
            fleet_serve(mesh.fleet, fail);
    }
    return mesh_close(&mesh, fail);
}

#define AT(member) offsetof(worker_flags_t, member)

static const arg_part_t parts[] = {
    {&flags_model, 0},
    PARTS_OF_MANY_TEXTS(AT(template), AT(run)),
};

static const arg_rule_t rules[] = {
    RULES_OF_MANY_TEXTS(AT(run)),
};

static const worker_flags_t defaults = {.common = COMMON_DEFAULTS, .run = RUN_DEFAULTS};

const command_t command_worker = {"worker", "choir worker [--model DIR] [--mesh DxT] [flags]",
    "answer JSON lines of other programs over pipes", parts, &defaults, sizeof defaults, rules,
    cmd_worker};
