#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "launch/answer_json.h"
#include "launch/command.h"
#include "launch/mesh.h"
#include "launch/model_dir.h"
#include "launch/npy.h"
#include "launch/output.h"
#include "launch/prompts.h"
#include "launch/request_fields.h"

#define MODEL_DIR_BYTES 4096
#define LOGITS_ROWS 64 /* of a step, with --logits-out */

typedef struct generate_flags {
    common_flags_t common;
    run_flags_t run;
    prompt_flags_t prompt;
    answer_flags_t answer;
    bool json;
    size_t logprobs;
    const char *logits_out;
} generate_flags_t;

/* What there is of the answer to a prompt. */
typedef struct answer {
    text_buffer_t told; /* its text as far as events have told it */
    size_t n_shown;     /* bytes of text that were written */
    bool there;         /* the result is */
    fleet_result_t result;
    char *kept; /* what that points into */
} answer_t;

/* The coordinator's state. */
typedef struct job {
    mesh_t *mesh;
    const generate_flags_t *flags;
    const args_given_t *given;
    prompts_t prompts;
    answer_t *answers; /* [prompts.count], by job: requests are submitted in order */
    size_t n_shown;    /* answers that were written whole, or left out */
    bool interrupted;  /* answers that did not come are left out */
    output_t output;
    npy_t npy;
} job_t;

/* ---- Before the model is loaded -------------------------------------------------------------- */

static int check_options(const invocation_t *invocation, fail_t *fail)
{
    const generate_flags_t *flags = invocation->flags;
    if (args_was_given(&invocation->given, "--logprobs") && !flags->json)
        return fail_set(fail, FAIL_USAGE, "--logprobs: needs --json");
    if (flags->logits_out != NULL && flags->prompt.prompts != NULL)
        return fail_set(fail, FAIL_USAGE, "--logits-out: takes one prompt, not --prompts");
    if (flags->run.mesh != NULL && flags->prompt.prompts == NULL)
        return fail_set(fail, FAIL_USAGE, "--mesh: needs --prompts, many to share out");
    if (request_flags_check(&flags->answer, fail) != 0)
        return fail->status;
    if (flags->answer.stop.count > 0 && flags->prompt.ids != NULL)
        return fail_set(fail, FAIL_USAGE, "--stop: needs text; with --ids there is none");
    return 0;
}

/* Collective. The coordinator reads the prompts, without a limit of time; *count is their number on
 * all ranks, and its failure is that of all. */
static int read_prompts(
    job_t *job, const invocation_t *invocation, const char *directory, size_t *count, fail_t *fail)
{
    if (comm_rank(invocation->comm) == 0) {
        prompts_open(&job->prompts, &job->flags->prompt, &invocation->given, directory, fail);
        *count = job->prompts.count;
    }
    comm_bcast_idle(invocation->comm, count, sizeof *count);
    comm_bcast(invocation->comm, fail, sizeof *fail);
    return fail->status;
}

/* ---- Asking ---------------------------------------------------------------------------------- */

static int open_logits(job_t *job, fail_t *fail)
{
    const generate_flags_t *flags = job->flags;
    if (flags->logits_out == NULL)
        return 0;
    return npy_open(&job->npy, flags->logits_out, job->prompts.items[0].count,
        mesh_info(job->mesh).config->vocab_size, flags->run.mode == DTYPE_F64, fail);
}

/* How the answer to prompt i is drawn and where it ends: by the flags, and over them by its
 * line. */
static int read_fields(const job_t *job, size_t i, request_fields_t *fields, fail_t *fail)
{
    const generate_flags_t *flags = job->flags;
    const config_generation_t *generation = &mesh_info(job->mesh).config->generation;
    char name[64];
    snprintf(name, sizeof name, "prompt %zu", i + 1);
    if (request_fields_of_flags(&flags->answer, job->given, generation, i, fields, fail) == 0 &&
        job->prompts.fields[i] != NULL)
        request_fields_read(job->prompts.fields[i], name, fields, fail);
    fields->sampling.n_logprobs = (uint32_t)flags->logprobs;
    fields->sampling.want_logprob = args_was_given(job->given, "--logprobs");
    return fail->status;
}

/* Jobs are the numbers of the prompts. One that can never run is an error before any runs. */
static int submit_all(job_t *job, fail_t *fail)
{
    const generate_flags_t *flags = job->flags;
    fleet_t *fleet = job->mesh->fleet;
    int32_t stop_ids[CONFIG_MAX_STOP_IDS + 1];
    int32_t chat_end = chat_end_id(job->prompts.chat, job->prompts.tokenizer);
    for (size_t i = 0; i < job->prompts.count && fail->status == 0; i++) {
        request_fields_t fields;
        if (read_fields(job, i, &fields, fail) != 0)
            return fail->status;
        request_t request = request_of_fields(
            &fields, &job->prompts.items[i], mesh_engine(job->mesh), chat_end, stop_ids);
        request.want_prompt_logits = flags->logits_out != NULL;
        request.streams = !flags->json && job->prompts.tokenizer != NULL;
        uint64_t number;
        fail_t refused = {0};
        if (fleet_check(fleet, &request, &refused) == 0)
            fleet_submit(fleet, &request, &number, &refused);
        if (refused.status != 0 && job->prompts.count > 1)
            fail_set(fail, refused.status, "prompt %zu: %s", i + 1, refused.message);
        else if (refused.status != 0)
            *fail = refused;
    }
    return fail->status;
}

/* ---- Showing --------------------------------------------------------------------------------- */

/* Writes ids where there is no tokenizer to make text of them. */
static int write_ids(job_t *job, const fleet_result_t *result, fail_t *fail)
{
    json_t *ids = json_from_ids(result->tokens, result->n_tokens);
    output_json(&job->output, ids, fail);
    json_decref(ids);
    return fail->status;
}

static int write_json(job_t *job, size_t i, fail_t *fail)
{
    json_t *object = answer_json(&job->answers[i].result, &job->prompts.items[i],
        job->prompts.tokenizer, args_was_given(job->given, "--logprobs"));
    output_json(&job->output, object, fail);
    json_decref(object);
    return fail->status;
}

/* What of the text can be shown and was not yet. */
static int write_text(job_t *job, answer_t *answer, fail_t *fail)
{
    const char *text = answer->there ? answer->result.text : answer->told.text;
    size_t bytes = answer->there ? answer->result.text_bytes : answer->told.bytes;
    if (bytes > answer->n_shown)
        output_write(&job->output, text + answer->n_shown, bytes - answer->n_shown, fail);
    answer->n_shown = bytes;
    if (answer->there && answer->result.n_tokens > 0)
        output_write(&job->output, "\n", 1, fail);
    return fail->status;
}

static int show_one(job_t *job, size_t i, fail_t *fail)
{
    answer_t *answer = &job->answers[i];
    if (job->interrupted && (!answer->there || answer->result.n_tokens == 0))
        return 0;
    if (!job->flags->json && job->prompts.tokenizer != NULL)
        return write_text(job, answer, fail);
    if (answer->there && job->flags->json)
        return write_json(job, i, fail);
    return answer->there && answer->result.n_tokens > 0 ? write_ids(job, &answer->result, fail) : 0;
}

/* Shows answers in the order of their prompts, the first unfinished one as it grows. */
static int show(job_t *job, fail_t *fail)
{
    while (job->n_shown < job->prompts.count && fail->status == 0) {
        size_t i = job->n_shown;
        if (show_one(job, i, fail) != 0 || (!job->answers[i].there && !job->interrupted))
            break;
        job->n_shown++;
    }
    return fail->status;
}

/* ---- Running --------------------------------------------------------------------------------- */

static int take_events(job_t *job, fail_t *fail)
{
    size_t n_events;
    const fleet_event_t *events = fleet_events(job->mesh->fleet, &n_events);
    for (size_t i = 0; i < n_events && fail->status == 0; i++) {
        answer_t *answer = &job->answers[events[i].job];
        if (events[i].n_logits > 0)
            npy_write(&job->npy, events[i].logits, events[i].n_logits, fail);
        if (events[i].text_bytes > 0 && fail->status == 0)
            text_buffer_append(&answer->told, events[i].text, events[i].text_bytes, fail);
    }
    return fail->status;
}

static int take_results(job_t *job, const fleet_result_t *results, size_t n_results, fail_t *fail)
{
    for (size_t i = 0; i < n_results && fail->status == 0; i++) {
        answer_t *answer = &job->answers[results[i].job];
        if (results[i].status != 0)
            return fail_set(fail, results[i].status, "prompt %zu: %s", (size_t)results[i].job + 1,
                results[i].message);
        answer->there = true;
        answer->result = results[i];
        answer->kept = fleet_keep(job->mesh->fleet, &results[i]);
    }
    return fail->status;
}

/* The incomplete answers when the run is interrupted. */
static void show_partial(job_t *job)
{
    fail_t ignored = {0};
    const fleet_result_t *results;
    size_t n_results;
    if (fleet_partial(job->mesh->fleet, &results, &n_results, &ignored) == 0)
        take_results(job, results, n_results, &ignored);
    job->interrupted = true;
    show(job, &ignored);
}

/* The coordinator's part. */
static int coordinate(job_t *job, fail_t *fail)
{
    uint64_t begin = clock_ns();
    job->answers = calloc(job->prompts.count, sizeof *job->answers);
    if (job->answers == NULL)
        return fail_set(fail, FAIL_MEMORY, "answers: out of memory for %zu", job->prompts.count);
    int more = open_logits(job, fail) == 0 && submit_all(job, fail) == 0;
    while (more > 0 && fail->status == 0 && !job->output.closed) {
        const fleet_result_t *results;
        size_t n_results;
        more = fleet_step(job->mesh->fleet, &results, &n_results, fail);
        if (more >= 0 && take_events(job, fail) == 0 &&
            take_results(job, results, n_results, fail) == 0)
            show(job, fail);
    }
    if (fail->status == FAIL_INTERRUPTED)
        show_partial(job);
    npy_close(&job->npy, fail);
    fleet_end(job->mesh->fleet, fail);
    if (fail->status == 0 && job->flags->run.mesh != NULL)
        mesh_report(job->mesh, (double)(clock_ns() - begin) * 1e-9, true);
    return fail->status;
}

/* Collective. */
static int generate(
    job_t *job, const invocation_t *invocation, const char *directory, size_t count, fail_t *fail)
{
    const run_flags_t *run = &job->flags->run;
    size_t n_replicas;
    mesh_parse(run->mesh, (size_t)comm_size(invocation->comm), &n_replicas, fail);
    const mesh_options_t options = {.directory = directory,
        .tokenizer = job->prompts.tokenizer,
        .n_sequences = (count + n_replicas - 1) / n_replicas,
        .logits_rows = job->flags->logits_out != NULL ? LOGITS_ROWS : 0};
    if (mesh_open(job->mesh, invocation, run, &options, fail) == 0) {
        mesh_warn_sampling(job->mesh, job->flags->answer.sample);
        if (job->mesh->coordinates)
            coordinate(job, fail);
        else
            fleet_serve(job->mesh->fleet, fail);
    }
    return run->mesh != NULL ? mesh_close(job->mesh, fail) : mesh_close_and_tell(job->mesh, fail);
}

static void job_clear(job_t *job)
{
    for (size_t i = 0; job->answers != NULL && i < job->prompts.count; i++) {
        text_buffer_clear(&job->answers[i].told);
        free(job->answers[i].kept);
    }
    free(job->answers);
    prompts_close(&job->prompts);
}

static int cmd_generate(invocation_t *invocation, fail_t *fail)
{
    const generate_flags_t *flags = invocation->flags;
    char directory[MODEL_DIR_BYTES];
    mesh_t mesh = {0};
    job_t job = {.mesh = &mesh, .flags = flags, .given = &invocation->given};
    size_t count = 0;
    if (check_options(invocation, fail) == 0)
        model_dir_find(flags->common.model, directory, sizeof directory, fail);
    if (comm_agree(invocation->comm, fail) != 0)
        return fail->status;
    if (read_prompts(&job, invocation, directory, &count, fail) == 0)
        generate(&job, invocation, directory, count, fail);
    job_clear(&job);
    return fail->status;
}

#define AT(member) offsetof(generate_flags_t, member)

static const arg_t output_args[] = {
    FLAG_SWITCH("--json", AT(json),
        "One JSON object a prompt: text, prompt_ids, output_ids, finish_reason, usage, timings."),
    FLAG_SIZE("--logprobs", AT(logprobs), "N", 0, 20,
        "With --json: log-probability of every token, and of the N most likely ones."),
    FLAG_TEXT("--logits-out", AT(logits_out), "FILE.npy",
        "Write the logits of all prompt positions [tokens, vocabulary] as NumPy f32 (f64 with "
        "--dtype f64); for one prompt."),
};
static const arg_group_t own = ARG_GROUP("Output", output_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&flags_prompt, AT(prompt)},
    {&flags_template, AT(prompt.template)},
    {&flags_answer, AT(answer)},
    {&own, 0},
    {&flags_mesh, AT(run)},
    PARTS_NUMERICS_AND_RANKS(AT(run)),
    {&flags_batch, AT(run)},
    PARTS_END,
};

static const arg_rule_t rules[] = {
    {.why = "without --chat or --prompts",
        .without = " --chat --prompts ",
        .flags = " --chat-template --template-vars "},
    /* Lines of --prompts may say a temperature of their own; one that is given as 0 is meant. */
    {.why = "without --temperature or --sample",
        .without = " --temperature --sample --prompts ",
        .flags = " --top-k --top-p --min-p --seed "},
    RULES_OF_MANY_TEXTS(AT(run)),
};

static const generate_flags_t defaults = {
    .common = COMMON_DEFAULTS, .run = RUN_DEFAULTS, .answer = ANSWER_DEFAULTS};

const command_t command_generate = {"generate", "choir generate [--model DIR] [TEXT] [flags]",
    "answer prompts, or continue them", parts, &defaults, sizeof defaults, rules, cmd_generate};
