/* Speculation changes nothing but the steps: every token, log-probability and digest with drafts is
 * the one without, on every rank count, in every mode and order. And drafts that are wrong are not
 * taken, drafts that are right are: the steps for that are planned here. Uses the demo model.
 * One rank, and CHOIR_TEST_PROMPTS, which slow builds set: fewer combinations, and a shorter prompt. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/size.h"
#include "engine/run/engine.h"

#define HANG_SECONDS 1200

enum { N_QUESTIONS = 5, MOST_IDS = 512, MOST_TOKENS = 60 };

typedef struct context {
    comm_t *comm;
    int rank, size;
    int64_t checks, failures;
    bool slow; /* with sanitizers or one rank: all settings, ways and lengths, not each with each */
} context_t;

static void check(context_t *c, bool holds, const char *what, const char *of, int line)
{
    c->checks++;
    if (holds)
        return;
    c->failures++;
    fprintf(stderr, "mpi_speculation.c:%d: rank %d of %d: %s: failed: %s\n", line, c->rank, c->size,
        of, what);
}

#define CHECK(c, of, condition) check(c, condition, #condition, of, __LINE__)

static engine_t *open_demo(context_t *c, const engine_options_t *options)
{
    engine_t *engine;
    fail_t fail = {0};
    engine_open(&engine, c->comm, options, &fail);
    CHECK(c, fail.message, fail.status == 0);
    if (fail.status != 0)
        comm_abort(1);
    return engine;
}

/* ---- Questions and answers ------------------------------------------------------------------- */

typedef struct prompt {
    int32_t ids[MOST_IDS];
    size_t n;
} prompt_t;

typedef struct answer {
    sampler_choice_t choices[MOST_TOKENS];
    size_t n;
    engine_finish_t finish;
} answer_t;

static void read_prompts(context_t *c, prompt_t *prompts)
{
    char line[1 << 16];
    FILE *file = fopen(CHOIR_SOURCE_DIR "/tests/golden/demo-greedy.jsonl", "r");
    size_t n = 0;
    while (file != NULL && n < N_QUESTIONS && fgets(line, sizeof line, file) != NULL) {
        json_t *object = json_loads(line, 0, NULL), *ids = json_object_get(object, "prompt_ids");
        prompts[n].n = size_min(json_array_size(ids), MOST_IDS);
        for (size_t i = 0; i < prompts[n].n; i++)
            prompts[n].ids[i] = (int32_t)json_integer_value(json_array_get(ids, i));
        n += ids != NULL;
        json_decref(object);
    }
    if (file != NULL)
        fclose(file);
    /* One that repeats itself, so that drafts are long; its answer begins a second block of 512 keys, in slow builds
     * one of 64. */
    prompts[1].n = c->slow ? 112 : 496;
    for (size_t i = 3; i < prompts[1].n; i++)
        prompts[1].ids[i] = prompts[1].ids[i % 3];
    CHECK(c, "golden/demo-greedy.jsonl", n == N_QUESTIONS);
}

/* How tokens are drawn. */
typedef struct way {
    const char *name;
    sampler_params_t sampling;
    bool ignores_eos;
} way_t;

static const way_t ways[] = {
    {"greedy", {.top_p = 1, .repetition_penalty = 1, .want_logprob = 1, .want_digest = 1}, true},
    {"temperature 0.8",
        {.temperature = 0.8,
            .top_p = 0.95,
            .repetition_penalty = 1,
            .seed = 5,
            .n_logprobs = 3,
            .want_digest = 1},
        false},
    {"hot, with a penalty",
        {.temperature = 2.5,
            .top_p = 0.995,
            .repetition_penalty = 1.2,
            .seed = 11,
            .want_digest = 1},
        true},
    {"greedy with penalties",
        {.top_p = 1,
            .repetition_penalty = 1.3,
            .presence_penalty = 0.5,
            .frequency_penalty = 0.25,
            .want_logprob = 1},
        true},
};
enum { N_WAYS = sizeof ways / sizeof *ways };

/* The coordinator's. More requests than run at once; each with a length of its own. */
static void answer_all(
    context_t *c, engine_t *engine, const prompt_t *prompts, const way_t *way, answer_t *answers)
{
    static const sampler_bias_t bias = {.token = 13, .bias = 1.5f};
    engine_info_t info = engine_info(engine);
    fail_t fail = {0};
    uint64_t first = 0;
    memset(answers, 0, N_QUESTIONS * sizeof *answers);
    for (size_t q = 0; q < N_QUESTIONS; q++) {
        const request_t request = {.prompt_ids = prompts[q].ids,
            .n_prompt = prompts[q].n,
            .max_tokens = q == 3 ? 1 : MOST_TOKENS - 7 * q,
            .stop_ids = info.config->generation.stop_ids,
            .n_stop_ids = way->ignores_eos ? 0 : info.config->generation.n_stop_ids,
            .bias = &bias,
            .n_bias = q % 2,
            .sampling = way->sampling};
        uint64_t handle;
        CHECK(c, way->name, engine_submit(engine, &request, &handle, &fail) == 0);
        first = q == 0 ? handle : first;
    }
    for (int more = 1; more > 0;) {
        const engine_event_t *events;
        size_t n;
        more = engine_step(engine, &events, &n, &fail);
        CHECK(c, fail.message, more >= 0);
        for (size_t i = 0; i < n; i++) {
            answer_t *answer = &answers[events[i].request - first];
            CHECK(c, way->name, answer->finish == ENGINE_RUNNING && answer->n < MOST_TOKENS);
            answer->choices[answer->n++] = events[i].choice;
            answer->finish = events[i].finish;
        }
    }
}

static bool same_choice(const sampler_choice_t *a, const sampler_choice_t *b)
{
    return a->token == b->token && memcmp(&a->logprob, &b->logprob, sizeof a->logprob) == 0 &&
           a->digest == b->digest && a->n_top == b->n_top &&
           memcmp(a->top_tokens, b->top_tokens, a->n_top * sizeof *a->top_tokens) == 0 &&
           memcmp(a->top_logprobs, b->top_logprobs, a->n_top * sizeof *a->top_logprobs) == 0;
}

static bool same_answers(const answer_t *a, const answer_t *b)
{
    for (size_t q = 0; q < N_QUESTIONS; q++) {
        if (a[q].n != b[q].n || a[q].finish != b[q].finish)
            return false;
        for (size_t i = 0; i < a[q].n; i++)
            if (!same_choice(&a[q].choices[i], &b[q].choices[i]))
                return false;
    }
    return true;
}

/* ---- With and without ------------------------------------------------------------------------ */

typedef struct setting {
    const char *name;
    engine_options_t options;
} setting_t;

#define DEMO                                                                                       \
    .model_dir = CHOIR_SOURCE_DIR "/configs/demo", .threads = 2, .kv_tokens = 2048,                \
    .prefill_chunk = 24, .max_batch = 3

static const setting_t settings[] = {
    {"chain", {DEMO, .attention = ATTENTION_AUTO, .dot = DOT_CHAIN}},
    {"amx", {DEMO, .attention = ATTENTION_AUTO, .dot = DOT_AMX}},
    {"eager", {DEMO, .attention = ATTENTION_EAGER, .dot = DOT_CHAIN}},
    {"uniform", {DEMO, .attention = ATTENTION_AUTO, .dot = DOT_CHAIN, .order = ORDER_UNIFORM}},
    {"torch-avx2", {DEMO, .attention = ATTENTION_AUTO, .dot = DOT_AUTO, .order = ORDER_TORCH_AVX2}},
    {"f32", {DEMO, .attention = ATTENTION_AUTO, .dot = DOT_CHAIN, .mode = DTYPE_F32}},
};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

/* Drafted tokens of a sequence; 0: as many as pay. */
static const size_t draft_tokens[] = {1, 4, SPECULATION_MOST_DRAFTS, 0};
enum { N_LENGTHS = sizeof draft_tokens / sizeof *draft_tokens };

/* Which combinations a slow build has; 0 also for settings that are not listed. */
static size_t turn_of(const setting_t *setting)
{
    for (size_t i = 0; i < N_SETTINGS; i++)
        if (setting == &settings[i])
            return i;
    return 0;
}

static bool has_way(const context_t *c, const setting_t *setting, size_t way)
{
    return !c->slow || way % 2 == turn_of(setting) % 2;
}

static bool has_length(const context_t *c, const setting_t *setting, size_t length)
{
    size_t turn = turn_of(setting);
    return !c->slow || turn == 0 || length % 2 == turn / 2 % 2;
}

/* Collective. What the engine gives with these drafts in the setting's ways: [N_WAYS][N_QUESTIONS]. greedy: totals after the
 * first way, or NULL. */
static engine_totals_t answer_with(context_t *c, const setting_t *setting,
    speculation_options_t speculation, const prompt_t *prompts, answer_t *answers,
    engine_totals_t *greedy)
{
    engine_options_t options = setting->options;
    engine_totals_t totals = {0};
    fail_t fail = {0};
    options.speculation = speculation;
    engine_t *engine = open_demo(c, &options);
    if (c->rank == 0) {
        for (size_t w = 0; w < N_WAYS; w++) {
            if (has_way(c, setting, w))
                answer_all(c, engine, prompts, &ways[w], answers + w * N_QUESTIONS);
            totals = engine_totals(engine);
            if (w == 0 && greedy != NULL)
                *greedy = totals;
        }
    } else {
        CHECK(c, setting->name, engine_serve(engine, &fail) == 0);
    }
    engine_close(engine);
    return totals;
}

static void answers_do_not_depend_on_drafts(
    context_t *c, const setting_t *setting, const prompt_t *prompts)
{
    size_t bytes = N_WAYS * N_QUESTIONS * sizeof(answer_t);
    answer_t *without = malloc(bytes), *with = malloc(bytes);
    answer_with(c, setting, (speculation_options_t){0}, prompts, without, NULL);
    for (size_t l = 0; l < N_LENGTHS; l++) {
        const speculation_options_t speculation = {.on = true, .draft_tokens = draft_tokens[l]};
        if (!has_length(c, setting, l))
            continue;
        engine_totals_t totals = answer_with(c, setting, speculation, prompts, with, NULL);
        for (size_t w = 0; w < N_WAYS && c->rank == 0; w++)
            CHECK(c, setting->name,
                !has_way(c, setting, w) ||
                    same_answers(without + w * N_QUESTIONS, with + w * N_QUESTIONS));
        if (c->rank == 0 && speculation.draft_tokens > 0)
            CHECK(c, setting->name,
                totals.accepted_tokens > 20 && totals.drafted_tokens > totals.accepted_tokens);
        if (c->rank == 0)
            CHECK(c, setting->name, totals.pass_tokens == totals.passes + totals.accepted_tokens);
    }
    free(without);
    free(with);
}

/* ---- A model that drafts --------------------------------------------------------------------- */

#define DEMO_DRAFTS .draft_dir = CHOIR_SOURCE_DIR "/configs/demo"

/* A model that drafts, how many tokens, and at what rate greedy ones are right. */
typedef struct model_draft {
    const char *name;
    size_t draft_tokens;
    engine_options_t options;
    double least_rate, most_rate;
} model_draft_t;

/* The model itself, whose drafts are right; its first layers, whose drafts now and then are; and a model of random
 * weights that knows fewer tokens and fewer positions, so that a text outgrows it. */
static const model_draft_t model_drafts[] = {
    {"the model itself", 9, {DEMO, DEMO_DRAFTS, .dot = DOT_CHAIN}, 0.9, 1},
    {"its first layers", 3, {DEMO, DEMO_DRAFTS, .draft_layers = 3, .dot = DOT_CHAIN}, 0.02, 0.9},
    {"a smaller one", 5,
        {DEMO, .draft_config = CHOIR_SOURCE_DIR "/tests/golden/draft-config.json",
            .dot = DOT_CHAIN},
        0, 0.1},
};
enum { N_MODEL_DRAFTS = sizeof model_drafts / sizeof *model_drafts };

static void answers_do_not_depend_on_a_model_that_drafts(context_t *c, const prompt_t *prompts)
{
    size_t bytes = N_WAYS * N_QUESTIONS * sizeof(answer_t);
    answer_t *without = malloc(bytes), *with = malloc(bytes);
    answer_with(c, &settings[0], (speculation_options_t){0}, prompts, without, NULL);
    for (size_t d = 0; d < N_MODEL_DRAFTS; d++) {
        const model_draft_t *draft = &model_drafts[d];
        const speculation_options_t speculation = {
            .on = true, .model = true, .draft_tokens = draft->draft_tokens};
        setting_t setting = {draft->name, draft->options};
        setting.options.attention = settings[0].options.attention;
        engine_totals_t greedy,
            totals = answer_with(c, &setting, speculation, prompts, with, &greedy);
        double rate = (double)greedy.accepted_tokens / (double)greedy.drafted_tokens;
        if (c->rank != 0)
            continue;
        for (size_t w = 0; w < N_WAYS; w++)
            CHECK(c, setting.name,
                !has_way(c, &setting, w) ||
                    same_answers(without + w * N_QUESTIONS, with + w * N_QUESTIONS));
        CHECK(c, setting.name, totals.pass_tokens == totals.passes + totals.accepted_tokens);
        CHECK(c, setting.name, totals.drafted_tokens > 100);
        CHECK(c, setting.name, rate >= draft->least_rate && rate <= draft->most_rate);
    }
    free(without);
    free(with);
}

/* ---- Drafts of our own ----------------------------------------------------------------------- */

enum { DRAFTS = 6 };

/* A sequence whose steps are planned here. */
typedef struct planned {
    const prompt_t *prompt;
    int32_t blocks[16];
    int32_t rows[1 + DRAFTS];
    size_t n_done;
} planned_t;

/* Runs rows of the sequence; the tokens drawn. */
static size_t run_rows(
    context_t *c, engine_t *engine, planned_t *p, size_t n_drafts, int32_t *drawn)
{
    bool decode = p->n_done > 0;
    const scheduler_entry_t entry = {.admitted = !decode,
        .blocks = p->blocks,
        .n_blocks = 16,
        .token_ids = decode ? p->rows : p->prompt->ids,
        .n_rows = decode ? 1 + n_drafts : p->prompt->n,
        .n_drafts = n_drafts,
        .first_position = p->n_done,
        .ref_q_len = decode ? 1 : p->prompt->n,
        .decode = decode,
        .sampling = &ways[2].sampling,
        .samples = true};
    const scheduler_step_t step = {.entries = &entry,
        .n_entries = 1,
        .n_single_rows = decode,
        .n_rows = entry.n_rows,
        .n_draft_rows = n_drafts,
        .n_prompt_rows = decode ? 0 : entry.n_rows};
    step_result_t result;
    fail_t fail = {0};
    CHECK(c, "step", engine_run(engine, &step, &result, &fail) == 0);
    for (size_t i = 0; i < result.n_choices; i++)
        drawn[i] = result.choices[i].token;
    p->n_done += entry.n_rows - n_drafts + result.n_choices - 1;
    p->rows[0] = drawn[result.n_choices - 1];
    return result.n_choices;
}

/* Drafts of which the first n_right are right, from the text that a run without drafts gave. */
static void drafts_are_taken_as_far_as_they_are_right(
    context_t *c, engine_t *engine, const prompt_t *prompt, const int32_t *text, size_t n_text)
{
    planned_t p = {.prompt = prompt};
    int32_t drawn[1 + DRAFTS];
    for (int32_t i = 0; i < 16; i++)
        p.blocks[i] = i;
    CHECK(c, "prompt", run_rows(c, engine, &p, 0, drawn) == 1 && drawn[0] == text[0]);
    for (size_t at = 0, round = 0; at + DRAFTS + 1 < n_text; round++) {
        size_t n_right = round % (DRAFTS + 1);
        for (size_t i = 0; i < DRAFTS; i++)
            p.rows[1 + i] = text[at + 1 + i];
        if (n_right < DRAFTS)
            p.rows[1 + n_right] = p.rows[1 + n_right] == 100 ? 101 : 100;
        size_t n = run_rows(c, engine, &p, DRAFTS, drawn);
        CHECK(c, "as many as are right", n == n_right + 1);
        CHECK(c, "the text", memcmp(drawn, &text[at + 1], n * sizeof *drawn) == 0);
        at += n;
    }
}

static void wrong_drafts_are_not_taken(context_t *c, const prompt_t *prompts)
{
    engine_options_t options = settings[0].options;
    int32_t text[MOST_TOKENS];
    fail_t fail = {0};
    options.prefill_chunk = MOST_IDS;
    options.speculation = (speculation_options_t){.on = true, .draft_tokens = DRAFTS};
    engine_t *engine = open_demo(c, &options);
    if (c->rank == 0) {
        planned_t p = {.prompt = &prompts[0]};
        for (int32_t i = 0; i < 16; i++)
            p.blocks[i] = i;
        for (size_t i = 0; i < MOST_TOKENS; i++)
            run_rows(c, engine, &p, 0, &text[i]);
        drafts_are_taken_as_far_as_they_are_right(c, engine, &prompts[0], text, MOST_TOKENS);
    } else {
        engine_serve(engine, &fail);
    }
    engine_close(engine);
}

int main(int argc, char **argv)
{
    context_t c = {0};
    fail_t fail = {0};
    alarm(HANG_SECONDS);
    if (comm_start(&argc, &argv, &fail) != 0 || comm_open_world(&c.comm, COMM_AUTO, &fail) != 0) {
        fprintf(stderr, "%s\n", fail.message);
        return 1;
    }
    log_set_level(LOG_ERROR);
    c.rank = comm_rank(c.comm);
    c.size = comm_size(c.comm);
    c.slow = c.size == 1 || getenv("CHOIR_TEST_PROMPTS") != NULL;
    prompt_t *prompts = calloc(N_QUESTIONS, sizeof *prompts);
    read_prompts(&c, prompts);
    for (size_t i = 0; i < N_SETTINGS; i++)
        answers_do_not_depend_on_drafts(&c, &settings[i], prompts);
    answers_do_not_depend_on_a_model_that_drafts(&c, prompts);
    wrong_drafts_are_not_taken(&c, prompts);
    int64_t failures = comm_sum(c.comm, c.failures), checks = comm_sum(c.comm, c.checks);
    if (c.rank == 0)
        printf("mpi_speculation: %d ranks, %" PRId64 " checks, %" PRId64 " failures\n", c.size,
            checks, failures);
    free(prompts);
    comm_close(c.comm);
    comm_stop();
    return failures != 0;
}
