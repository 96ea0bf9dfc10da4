#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "launch/answer.h"
#include "launch/command.h"
#include "launch/mesh.h"
#include "launch/model_dir.h"
#include "launch/npy.h"
#include "launch/output.h"
#include "launch/prompts.h"
#include "launch/session.h"

#define MODEL_DIR_BYTES 4096
#define LOGITS_ROWS 64 /* of a step, with --logits-out */

/* What the coordinator works on. */
typedef struct job {
    session_t *session;
    const options_t *options;
    prompts_t prompts;
    answer_t *answers; /* [prompts.count], by handle: requests are submitted in order */
    size_t n_shown;    /* answers that were written whole */
    size_t n_to_show;  /* all, until the run is interrupted */
    output_t output;
    npy_t npy;
} job_t;

/* ---- Before the model is loaded -------------------------------------------------------------- */

static int check_options(const invocation_t *invocation, fail_t *fail)
{
    const options_t *options = &invocation->options;
    if (args_was_given(&invocation->given, "--logprobs") && !options->json)
        return fail_set(fail, FAIL_USAGE, "--logprobs: needs --json");
    if (options->logits_out != NULL && options->prompts != NULL)
        return fail_set(fail, FAIL_USAGE, "--logits-out: takes one prompt, not --prompts");
    if (options->mesh != NULL && options->prompts == NULL)
        return fail_set(fail, FAIL_USAGE, "--mesh: needs --prompts, many to share out");
    if (options->mesh != NULL && options->logprobs > 0)
        return fail_set(
            fail, FAIL_USAGE, "--logprobs: with --mesh, expected 0, found %zu", options->logprobs);
    for (size_t i = 0; i < options->stop.count; i++)
        if (options->stop.items[i][0] == 0)
            return fail_set(fail, FAIL_USAGE, "--stop: expected a text, found an empty one");
    if (options->stop.count > 0 && options->ids != NULL)
        return fail_set(fail, FAIL_USAGE, "--stop: needs text; with --ids there is none");
    return 0;
}

/* Collective. The coordinator reads the prompts, for however long that takes; *count is their
 * number on all ranks, and its failure is everyone's. */
static int read_prompts(
    job_t *job, const invocation_t *invocation, const char *directory, size_t *count, fail_t *fail)
{
    if (comm_rank(invocation->comm) == 0) {
        prompts_open(&job->prompts, invocation, directory, fail);
        *count = job->prompts.count;
    }
    comm_bcast_patient(invocation->comm, count, sizeof *count);
    comm_bcast(invocation->comm, fail, sizeof *fail);
    return fail->status;
}

/* ---- Running --------------------------------------------------------------------------------- */

static int open_logits(job_t *job, fail_t *fail)
{
    const options_t *options = job->options;
    if (options->logits_out == NULL)
        return 0;
    engine_info_t info = engine_info(job->session->engine);
    return npy_open(&job->npy, options->logits_out, job->prompts.items[0].count,
        info.config->vocab_size, options->dtype == 2, fail);
}

/* The answer to prompt i, which takes the prompt's ids over, and how it is to be drawn. */
static answer_t *begin_answer(job_t *job, size_t i, request_fields_t *fields, fail_t *fail)
{
    answer_t *answer = &job->answers[i];
    answer->tokenizer = job->prompts.tokenizer;
    answer->stops = &job->options->stop;
    answer->prompt_ids = job->prompts.items[i];
    job->prompts.items[i] = (tokenizer_ids_t){0};
    answer->begin_ns = clock_ns();
    if (session_answer(job->session, i, job->prompts.fields[i], fields, fail) != 0)
        return NULL;
    answer->keep_choices = fields->sampling.want_logprob;
    if (job->prompts.fields[i] == NULL)
        return answer;
    answer->own_stops = malloc(sizeof *answer->own_stops);
    if (answer->own_stops == NULL) {
        fail_set(fail, FAIL_MEMORY, "answers: out of memory for prompt %zu", i + 1);
        return NULL;
    }
    *answer->own_stops = fields->stops;
    answer->stops = answer->own_stops;
    return answer;
}

static int submit_all(job_t *job, fail_t *fail)
{
    const options_t *options = job->options;
    int32_t stop_ids[CONFIG_MAX_STOP_IDS + 1];
    int32_t chat_end = chat_end_id(job->prompts.chat, job->prompts.tokenizer);
    size_t n_stop_ids = session_stop_ids(job->session, false, chat_end, stop_ids);
    for (size_t i = 0; i < job->prompts.count && fail->status == 0; i++) {
        request_fields_t fields;
        answer_t *answer = begin_answer(job, i, &fields, fail);
        if (answer == NULL)
            return fail->status;
        engine_request_t request = {.prompt_ids = answer->prompt_ids.ids,
            .n_prompt = answer->prompt_ids.count,
            .max_tokens = fields.max_tokens,
            .stop_ids = stop_ids,
            .n_stop_ids = fields.ignore_eos ? 0 : n_stop_ids,
            .sampling = fields.sampling,
            .want_prompt_logits = options->logits_out != NULL};
        uint64_t handle;
        fail_t refused = {0};
        if (engine_submit(job->session->engine, &request, &handle, &refused) == 0)
            continue;
        if (job->prompts.count > 1)
            fail_set(fail, refused.status, "prompt %zu: %s", i + 1, refused.message);
        else
            *fail = refused;
    }
    return fail->status;
}

/* Writes ids where there is no tokenizer to make text of them. */
static int write_ids(job_t *job, const answer_t *answer, fail_t *fail)
{
    json_t *ids = json_array();
    for (size_t i = 0; i < answer->n_ids; i++)
        json_array_append_new(ids, json_integer(answer->ids[i]));
    output_json(&job->output, ids, fail);
    json_decref(ids);
    return fail->status;
}

static int write_json(job_t *job, const answer_t *answer, fail_t *fail)
{
    json_t *object = answer_json(answer);
    output_json(&job->output, object, fail);
    json_decref(object);
    return fail->status;
}

/* Shows what can be shown: answers in the order of their prompts, the first unfinished one as it
 * grows. */
static int show(job_t *job, fail_t *fail)
{
    while (job->n_shown < job->n_to_show && fail->status == 0) {
        answer_t *answer = &job->answers[job->n_shown];
        bool ended = answer->end != ANSWER_GROWS;
        if (job->options->json) {
            if (ended)
                write_json(job, answer, fail);
        } else if (answer->tokenizer == NULL) {
            if (ended && answer->n_ids > 0)
                write_ids(job, answer, fail);
        } else {
            size_t bytes;
            const char *text = answer_take(answer, &bytes);
            output_write(&job->output, text, bytes, fail);
            if (ended && answer->n_ids > 0)
                output_write(&job->output, "\n", 1, fail);
        }
        if (!ended)
            return fail->status;
        job->n_shown++;
    }
    return fail->status;
}

static int take_event(job_t *job, const engine_event_t *event, fail_t *fail)
{
    answer_t *answer = &job->answers[event->request];
    bool stopped = false;
    if (event->n_logits > 0 && npy_write(&job->npy, event->logits, event->n_logits, fail) != 0)
        return fail->status;
    if (event->has_token && answer_push(answer, &event->choice, &stopped, fail) != 0)
        return fail->status;
    if (stopped) {
        if (event->finish == ENGINE_RUNNING)
            engine_cancel(job->session->engine, event->request);
        return answer_end(answer, ANSWER_STOP, fail);
    }
    if (event->finish == ENGINE_STOP)
        answer_end(answer, ANSWER_STOP, fail);
    else if (event->finish == ENGINE_LENGTH)
        answer_end(answer, ANSWER_LENGTH, fail);
    return fail->status;
}

/* What there is of the answers when the run is interrupted; prompts without an answer are left out.
 */
static void show_partial(job_t *job)
{
    fail_t ignored = {0};
    size_t n_left = 0;
    for (size_t i = job->n_shown; i < job->prompts.count; i++) {
        answer_t *answer = &job->answers[i];
        if (answer->n_ids == 0)
            continue;
        if (answer->end == ANSWER_GROWS)
            answer_end(answer, ANSWER_INTERRUPTED, &ignored);
        answer_t left = *answer;
        *answer = job->answers[job->n_shown + n_left];
        job->answers[job->n_shown + n_left++] = left;
    }
    job->n_to_show = job->n_shown + n_left;
    show(job, &ignored);
}

static int step_all(job_t *job, fail_t *fail)
{
    int more = 1;
    while (more > 0 && fail->status == 0 && !job->output.closed) {
        const engine_event_t *events;
        size_t n_events;
        more = engine_step(job->session->engine, &events, &n_events, fail);
        for (size_t i = 0; i < n_events && fail->status == 0; i++)
            take_event(job, &events[i], fail);
        if (fail->status == 0)
            show(job, fail);
    }
    if (fail->status == FAIL_INTERRUPTED)
        show_partial(job);
    return fail->status;
}

/* The coordinator's part. */
static int coordinate(job_t *job, fail_t *fail)
{
    job->answers = calloc(job->prompts.count, sizeof *job->answers);
    if (job->answers == NULL)
        return fail_set(fail, FAIL_MEMORY, "answers: out of memory for %zu", job->prompts.count);
    job->n_to_show = job->prompts.count;
    if (open_logits(job, fail) == 0 && submit_all(job, fail) == 0)
        step_all(job, fail);
    npy_close(&job->npy, fail);
    return fail->status;
}

/* ---- On a mesh ------------------------------------------------------------------------------- */

/* Submits all prompts, whose handles are their numbers. */
static int submit_to_mesh(job_t *job, mesh_t *mesh, fail_t *fail)
{
    int32_t stop_ids[CONFIG_MAX_STOP_IDS + 1];
    int32_t chat_end = chat_end_id(job->prompts.chat, job->prompts.tokenizer);
    size_t n_stop_ids = mesh_stop_ids(mesh, chat_end, stop_ids);
    for (size_t i = 0; i < job->prompts.count && fail->status == 0; i++) {
        request_fields_t fields;
        answer_t *answer = begin_answer(job, i, &fields, fail);
        if (answer == NULL)
            return fail->status;
        const fleet_job_t request = {.ids = answer->prompt_ids.ids,
            .n_ids = answer->prompt_ids.count,
            .max_tokens = fields.max_tokens,
            .stop_ids = stop_ids,
            .n_stop_ids = fields.ignore_eos ? 0 : n_stop_ids,
            .stops = fields.stops.items,
            .n_stops = fields.stops.count,
            .sampling = fields.sampling};
        uint64_t handle;
        fleet_submit(mesh->fleet, &request, &handle, fail);
    }
    return fail->status;
}

static int take_result(job_t *job, const fleet_result_t *result, fail_t *fail)
{
    answer_t *answer = &job->answers[result->job];
    bool stopped;
    if (result->status != 0)
        return fail_set(
            fail, result->status, "prompt %zu: %s", (size_t)result->job + 1, result->message);
    for (size_t i = 0; i < result->n_tokens && fail->status == 0; i++) {
        const sampler_choice_t choice = {
            .token = result->tokens[i], .logprob = result->logprobs[i]};
        answer_push(answer, &choice, &stopped, fail);
    }
    /* Times are those of the replica. */
    answer->first_ns = answer->begin_ns + result->first_ns;
    answer->end_ns = answer->begin_ns + result->total_ns;
    answer_end(answer, result->finish == ENGINE_STOP ? ANSWER_STOP : ANSWER_LENGTH, fail);
    return show(job, fail);
}

/* The coordinator's part. */
static int coordinate_mesh(job_t *job, mesh_t *mesh, fail_t *fail)
{
    int more = 1;
    uint64_t begin = clock_ns();
    job->answers = calloc(job->prompts.count, sizeof *job->answers);
    if (job->answers == NULL)
        return fail_set(fail, FAIL_MEMORY, "answers: out of memory for %zu", job->prompts.count);
    job->n_to_show = job->prompts.count;
    submit_to_mesh(job, mesh, fail);
    while (more > 0 && fail->status == 0 && !job->output.closed) {
        const fleet_result_t *results;
        size_t n_results;
        more = fleet_step(mesh->fleet, &results, &n_results, fail);
        for (size_t i = 0; i < n_results && fail->status == 0; i++)
            take_result(job, &results[i], fail);
    }
    if (fail->status == FAIL_INTERRUPTED)
        show_partial(job);
    const fleet_stats_t *stats = mesh_end(mesh, fail);
    if (fail->status == 0)
        mesh_report(mesh, stats, (double)(clock_ns() - begin) * 1e-9, true);
    return fail->status;
}

/* Collective. */
static int generate_on_mesh(
    job_t *job, invocation_t *invocation, const char *directory, size_t count, fail_t *fail)
{
    mesh_t mesh;
    size_t n_replicas;
    mesh_parse(invocation->options.mesh, (size_t)comm_size(invocation->comm), &n_replicas, fail);
    size_t each = (count + n_replicas - 1) / n_replicas;
    if (mesh_open(&mesh, invocation, directory, each, 0, fail) == 0) {
        *job->session = (session_t){.invocation = invocation, .engine = fleet_engine(mesh.fleet)};
        session_warn_sampling(job->session);
        if (mesh.coordinates)
            coordinate_mesh(job, &mesh, fail);
        else
            fleet_serve(mesh.fleet, fail);
    }
    return mesh_close(&mesh, fail);
}

static void job_clear(job_t *job)
{
    for (size_t i = 0; job->answers != NULL && i < job->prompts.count; i++)
        answer_clear(&job->answers[i]);
    free(job->answers);
    prompts_close(&job->prompts);
}

int cmd_generate(invocation_t *invocation, fail_t *fail)
{
    char directory[MODEL_DIR_BYTES];
    session_t session = {0};
    job_t job = {.session = &session, .options = &invocation->options};
    size_t count = 0;
    if (check_options(invocation, fail) == 0)
        model_dir_find(invocation->options.model, directory, sizeof directory, fail);
    if (comm_agree(invocation->comm, fail) != 0)
        return fail->status;
    if (read_prompts(&job, invocation, directory, &count, fail) == 0 &&
        invocation->options.mesh != NULL) {
        generate_on_mesh(&job, invocation, directory, count, fail);
    } else if (fail->status == 0) {
        size_t logits_rows = invocation->options.logits_out != NULL ? LOGITS_ROWS : 0;
        if (session_open(&session, invocation, directory, count, logits_rows, fail) == 0) {
            if (session.coordinates)
                coordinate(&job, fail);
            else
                engine_serve(session.engine, fail);
        }
        session_close(&session, fail);
    }
    job_clear(&job);
    return fail->status;
}
