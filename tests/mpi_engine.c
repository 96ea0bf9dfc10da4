/* The engine as programs use it, on every rank count: requests, sampling, interrupts, and failures
 * that reach all ranks. Uses the demo model; expected ids are those of Hugging Face
 * (golden/demo-greedy.jsonl) at any rank count. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "engine/base/digest.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/engine.h"

#define HANG_SECONDS 1200
#define MAX_IDS 512
#define N_QUESTIONS 6

typedef struct context {
    comm_t *comm;
    int rank, size;
    int64_t checks, failures;
} context_t;

static void check(context_t *c, bool holds, const char *what, int line)
{
    c->checks++;
    if (holds)
        return;
    c->failures++;
    fprintf(stderr, "mpi_engine.c:%d: rank %d of %d: failed: %s\n", line, c->rank, c->size, what);
}

#define CHECK(c, condition) check(c, condition, #condition, __LINE__)

static const engine_options_t demo_options = {.model_dir = CHOIR_SOURCE_DIR "/configs/demo",
    .mode = DTYPE_BF16,
    .threads = 1,
    .kv_tokens = 2048,
    .prefill_chunk = 24,
    .max_batch = 4,
    .max_logits_rows = 5};

static const sampler_params_t greedy = {.top_p = 1, .repetition_penalty = 1};

static engine_t *open_demo(context_t *c)
{
    engine_t *engine;
    fail_t fail = {0};
    engine_open(&engine, c->comm, &demo_options, &fail);
    CHECK(c, fail.status == 0);
    if (fail.status != 0) {
        fprintf(stderr, "%s\n", fail.message);
        comm_abort(1);
    }
    return engine;
}

/* ---- Questions with known answers ------------------------------------------------------------ */

typedef struct ids {
    int32_t items[MAX_IDS];
    size_t count;
} ids_t;

typedef struct questions {
    ids_t prompts[N_QUESTIONS], expected[N_QUESTIONS], found[N_QUESTIONS];
    engine_finish_t finish[N_QUESTIONS];
} questions_t;

static void read_ids(json_t *array, ids_t *ids)
{
    ids->count = json_array_size(array);
    for (size_t i = 0; i < ids->count && i < MAX_IDS; i++)
        ids->items[i] = (int32_t)json_integer_value(json_array_get(array, i));
}

static void read_questions(context_t *c, questions_t *questions)
{
    char line[1 << 16];
    FILE *file = fopen(CHOIR_SOURCE_DIR "/tests/golden/demo-greedy.jsonl", "r");
    size_t n = 0;
    while (file != NULL && n < N_QUESTIONS && fgets(line, sizeof line, file) != NULL) {
        json_t *object = json_loads(line, 0, NULL);
        if (json_object_get(object, "prompt_ids") != NULL) {
            read_ids(json_object_get(object, "prompt_ids"), &questions->prompts[n]);
            read_ids(json_object_get(object, "bf16_eager"), &questions->expected[n++]);
        }
        json_decref(object);
    }
    if (file != NULL)
        fclose(file);
    CHECK(c, n == N_QUESTIONS);
}

static uint64_t submit(context_t *c, engine_t *engine, const ids_t *prompt, size_t max_tokens,
    const sampler_params_t *sampling)
{
    engine_info_t info = engine_info(engine);
    request_t request = {.prompt_ids = prompt->items,
        .n_prompt = prompt->count,
        .max_tokens = max_tokens,
        .stop_ids = info.config->generation.stop_ids,
        .n_stop_ids = info.config->generation.n_stop_ids,
        .sampling = *sampling};
    uint64_t handle = UINT64_MAX;
    fail_t fail = {0};
    CHECK(c, engine_submit(engine, &request, &handle, &fail) == 0);
    return handle;
}

/* Steps until nothing is left, collecting by handle - first. */
static void collect(context_t *c, engine_t *engine, questions_t *questions, uint64_t first)
{
    fail_t fail = {0};
    for (int more = 1; more > 0;) {
        const engine_event_t *events;
        size_t n;
        more = engine_step(engine, &events, &n, &fail);
        CHECK(c, more >= 0);
        for (size_t i = 0; i < n; i++) {
            size_t q = (size_t)(events[i].request - first);
            ids_t *found = &questions->found[q];
            if (events[i].has_token && found->count < MAX_IDS)
                found->items[found->count++] = events[i].choice.token;
            questions->finish[q] = events[i].finish;
        }
    }
}

static bool same_ids(const ids_t *a, const ids_t *b)
{
    return a->count == b->count && memcmp(a->items, b->items, a->count * sizeof *a->items) == 0;
}

/* The demo model's sizes are whole granules, so that what a rank packs is what it reads, norms
 * included. */
static void each_rank_reads_its_share_only(context_t *c)
{
    engine_t *engine = open_demo(c);
    fail_t fail = {0};
    engine_info_t info = engine_info(engine);
    CHECK(c, info.bytes_read == plan_weight_bytes(info.plan, (size_t)c->rank));
    if (c->rank != 0)
        CHECK(c, engine_serve(engine, &fail) == 0);
    engine_close(engine);
}

/* More requests than fit at once, so that they come and go; prompts are cut into chunks. */
static void answers_equal_hugging_face(context_t *c)
{
    questions_t *questions = calloc(1, sizeof *questions);
    engine_t *engine = open_demo(c);
    fail_t fail = {0};
    read_questions(c, questions);
    if (c->rank == 0) {
        for (uint64_t q = 0; q < N_QUESTIONS; q++)
            CHECK(c, submit(c, engine, &questions->prompts[q], 200, &greedy) == q);
        collect(c, engine, questions, 0);
        for (size_t q = 0; q < N_QUESTIONS; q++) {
            CHECK(c, same_ids(&questions->found[q], &questions->expected[q]));
            CHECK(c, questions->finish[q] == ENGINE_STOP);
        }
        /* Alone, and cut short. */
        memset(questions->found, 0, sizeof questions->found);
        CHECK(c, submit(c, engine, &questions->prompts[1], 5, &greedy) == N_QUESTIONS);
        collect(c, engine, questions, N_QUESTIONS);
        questions->expected[1].count = 5;
        CHECK(c, same_ids(&questions->found[0], &questions->expected[1]));
        CHECK(c, questions->finish[0] == ENGINE_LENGTH);
        engine_totals_t totals = engine_totals(engine);
        CHECK(c, totals.generated_tokens > 5 && totals.prompt_tokens > 100);
    } else {
        CHECK(c, engine_serve(engine, &fail) == 0);
    }
    engine_close(engine);
    free(questions);
}

static void a_cancelled_request_leaves_the_others_alone(context_t *c)
{
    questions_t *questions = calloc(1, sizeof *questions);
    engine_t *engine = open_demo(c);
    fail_t fail = {0};
    read_questions(c, questions);
    if (c->rank == 0) {
        const engine_event_t *events;
        size_t n;
        for (size_t q = 0; q < 3; q++)
            submit(c, engine, &questions->prompts[q], 200, &greedy);
        CHECK(c, engine_step(engine, &events, &n, &fail) == 1);
        engine_cancel(engine, 1);
        CHECK(c, n == 0); /* the first chunk draws nothing */
        collect(c, engine, questions, 0);
        CHECK(c, same_ids(&questions->found[0], &questions->expected[0]));
        CHECK(c, questions->found[1].count == 0);
        CHECK(c, same_ids(&questions->found[2], &questions->expected[2]));
    } else {
        engine_serve(engine, &fail);
    }
    engine_close(engine);
    free(questions);
}

/* Hot enough that candidates often do not suffice, so that all logits are gathered. Expected ids:
 * made at one rank. */
static void draws_do_not_depend_on_the_ranks(context_t *c)
{
    static const int32_t expected[] = {1853, 48, 981, 551, 643, 258, 1650, 320, 1154, 1416, 1909,
        1315, 1736, 1657, 702, 264, 1050, 1253, 1756, 1763};
    static const sampler_params_t hot = {
        .temperature = 2.5, .top_p = 0.995, .repetition_penalty = 1.1, .seed = 11, .n_logprobs = 2};
    questions_t *questions = calloc(1, sizeof *questions);
    engine_t *engine = open_demo(c);
    fail_t fail = {0};
    read_questions(c, questions);
    if (c->rank == 0) {
        submit(c, engine, &questions->prompts[0], 20, &hot);
        collect(c, engine, questions, 0);
        ids_t *found = &questions->found[0];
        bool same = found->count == sizeof expected / sizeof *expected &&
                    memcmp(found->items, expected, sizeof expected) == 0;
        CHECK(c, same);
        for (size_t i = 0; i < found->count && !same; i++)
            fprintf(stderr, "%d, ", found->items[i]);
    } else {
        engine_serve(engine, &fail);
    }
    engine_close(engine);
    free(questions);
}

/* ---- Prompts in common ----------------------------------------------------------------------- */

/* Prompts of 384 tokens and more, so that sdpa's sums are alike in all of them (prefix.h). */
enum { SHARED_BLOCKS = 7, SHOTS_TOKENS = 7 * 64, N_SHARING = 16, SHARING_TOKENS = 60 };

/* Questions behind the same shots, of different lengths. */
static ids_t few_shot_prompt(const questions_t *questions, size_t i)
{
    ids_t prompt = {.count = 0};
    for (size_t shot = 0; prompt.count < SHOTS_TOKENS; shot++) {
        const ids_t *ids = &questions->prompts[shot % N_QUESTIONS];
        size_t n = size_min(ids->count, SHOTS_TOKENS - prompt.count);
        memcpy(prompt.items + prompt.count, ids->items, n * sizeof *ids->items);
        prompt.count += n;
    }
    prompt.items[prompt.count++] = (int32_t)(100 + i);
    const ids_t *ids = &questions->prompts[i % N_QUESTIONS];
    size_t n = size_min(ids->count, MAX_IDS - prompt.count);
    memcpy(prompt.items + prompt.count, ids->items, n * sizeof *ids->items);
    prompt.count += n;
    return prompt;
}

/* Bytes of keys and values of one block of the coordinator's heads, of all layers. */
static uint64_t block_bytes(const engine_t *engine)
{
    engine_info_t info = engine_info(engine);
    size_t n_kv = plan_count(info.plan->shares[0].kv_heads);
    return info.config->num_hidden_layers * n_kv * 2 * 64 * info.config->head_dim * 2;
}

/* Answers of all, and whether every step that only decodes read the blocks in common once. */
static void answer_sharing(
    context_t *c, engine_t *engine, const questions_t *questions, bool shares, ids_t *answers)
{
    size_t n_prompt[N_SHARING], n_checked = 0;
    fail_t fail = {0};
    memset(answers, 0, N_SHARING * sizeof *answers);
    for (size_t i = 0; i < N_SHARING; i++) {
        const ids_t prompt = few_shot_prompt(questions, i);
        const request_t request = {.prompt_ids = prompt.items,
            .n_prompt = n_prompt[i] = prompt.count,
            .max_tokens = SHARING_TOKENS - 3 * i,
            .sampling = greedy};
        uint64_t handle;
        CHECK(c, engine_submit(engine, &request, &handle, &fail) == 0 && handle == i);
    }
    for (int more = 1; more > 0;) {
        const engine_event_t *events;
        const engine_totals_t before = engine_totals(engine);
        size_t n, blocks = 0;
        more = engine_step(engine, &events, &n, &fail);
        CHECK(c, more >= 0);
        for (size_t i = 0; i < n; i++) {
            ids_t *answer = &answers[events[i].request];
            blocks += (n_prompt[events[i].request] + answer->count + 63) / 64;
            answer->items[answer->count++] = events[i].choice.token;
        }
        const engine_totals_t after = engine_totals(engine);
        if (n == 0 || after.prefill_ns > before.prefill_ns)
            continue;
        blocks -= shares ? (n - 1) * SHARED_BLOCKS : 0;
        CHECK(c, after.kv_bytes - before.kv_bytes == blocks * block_bytes(engine));
        n_checked += n == N_SHARING;
    }
    CHECK(c, n_checked > 10);
}

static void keys_of_prompts_in_common_are_read_once_a_step(context_t *c)
{
    questions_t *questions = calloc(1, sizeof *questions);
    ids_t *answers[2] = {calloc(N_SHARING, sizeof(ids_t)), calloc(N_SHARING, sizeof(ids_t))};
    fail_t fail = {0};
    read_questions(c, questions);
    for (int shares = 0; shares < 2; shares++) {
        engine_t *engine;
        engine_options_t options = demo_options;
        options.kv_tokens = N_SHARING * 1024;
        options.max_batch = N_SHARING;
        options.prefill_chunk = 512;
        options.attention = ATTENTION_SDPA;
        options.no_prefix_reuse = !shares;
        CHECK(c, engine_open(&engine, c->comm, &options, &fail) == 0);
        if (c->rank == 0)
            answer_sharing(c, engine, questions, shares, answers[shares]);
        else
            engine_serve(engine, &fail);
        engine_close(engine);
    }
    for (size_t i = 0; i < N_SHARING; i++)
        CHECK(c, same_ids(&answers[0][i], &answers[1][i]));
    free(answers[0]);
    free(answers[1]);
    free(questions);
}

static void prompt_logits_come_in_order(context_t *c)
{
    questions_t *questions = calloc(1, sizeof *questions);
    engine_t *engine = open_demo(c);
    fail_t fail = {0};
    read_questions(c, questions);
    if (c->rank == 0) {
        const ids_t *prompt = &questions->prompts[0];
        request_t request = {.prompt_ids = prompt->items,
            .n_prompt = prompt->count,
            .max_tokens = 1,
            .sampling = greedy,
            .want_prompt_logits = true};
        uint64_t handle;
        CHECK(c, engine_submit(engine, &request, &handle, &fail) == 0);
        size_t next = 0, vocab = engine_info(engine).config->vocab_size;
        for (int more = 1; more > 0;) {
            const engine_event_t *events;
            size_t n;
            more = engine_step(engine, &events, &n, &fail);
            CHECK(c, n == 1 && events[0].n_logits > 0 && events[0].n_logits <= 5);
            CHECK(c, n == 1 && events[0].first_logits_position == next);
            next += events[0].n_logits;
            if (next < prompt->count)
                continue;
            /* The token drawn is the best of the last row. */
            const float *last = (const float *)events[0].logits + (events[0].n_logits - 1) * vocab;
            size_t best = 0;
            for (size_t i = 1; i < vocab; i++)
                best = last[i] > last[best] ? i : best;
            CHECK(c, events[0].has_token && (size_t)events[0].choice.token == best);
        }
        CHECK(c, next == prompt->count);
    } else {
        engine_serve(engine, &fail);
    }
    engine_close(engine);
    free(questions);
}

/* ---- Failures -------------------------------------------------------------------------------- */

static void impossible_requests_are_refused_and_the_engine_goes_on(context_t *c)
{
    engine_t *engine = open_demo(c);
    fail_t fail = {0};
    if (c->rank == 0) {
        static int32_t ids[1100];
        uint64_t handle;
        request_t request = {.prompt_ids = ids, .n_prompt = 1100, .sampling = greedy};
        CHECK(c, engine_submit(engine, &request, &handle, &fail) == FAIL_LIMIT);
        CHECK(c, strstr(fail.message, "1100") != NULL && strstr(fail.message, "1024") != NULL);
        fail = (fail_t){0};
        ids[2] = 2048;
        request.n_prompt = 3;
        CHECK(c, engine_submit(engine, &request, &handle, &fail) == FAIL_USAGE);
        CHECK(c, strstr(fail.message, "2048") != NULL);
        fail = (fail_t){0};
        ids[2] = 1;
        request.sampling.top_p = 2;
        CHECK(c, engine_submit(engine, &request, &handle, &fail) == FAIL_USAGE);
        fail = (fail_t){0};
        request.sampling = greedy;
        CHECK(c, engine_submit(engine, &request, &handle, &fail) == 0);
        const engine_event_t *events;
        size_t n;
        CHECK(c, engine_step(engine, &events, &n, &fail) == 0);
        CHECK(c, n == 1 && !events[0].has_token && events[0].finish == ENGINE_LENGTH);
    } else {
        CHECK(c, engine_serve(engine, &fail) == 0);
    }
    engine_close(engine);
}

static void an_interrupt_of_any_rank_ends_all(context_t *c, int interrupted)
{
    static const int32_t ids[] = {1, 2, 3};
    engine_t *engine = open_demo(c);
    fail_t fail = {0};
    if (c->rank == interrupted)
        engine_interrupt(engine, SIGTERM);
    if (c->rank == 0) {
        request_t request = {
            .prompt_ids = ids, .n_prompt = 3, .max_tokens = 500, .sampling = greedy};
        uint64_t handle;
        engine_submit(engine, &request, &handle, &fail);
        const engine_event_t *events;
        size_t n;
        CHECK(c, engine_step(engine, &events, &n, &fail) == FAIL_INTERRUPTED);
    } else {
        CHECK(c, engine_serve(engine, &fail) == FAIL_INTERRUPTED);
    }
    CHECK(c, strcmp(fail.message, "interrupted") == 0);
    engine_close(engine);
}

static void the_coordinators_own_failure_reaches_all(context_t *c)
{
    engine_t *engine = open_demo(c);
    fail_t fail = {0};
    if (c->rank == 0) {
        fail_set(&fail, FAIL_FILE, "answers.txt: no room");
        engine_end(engine, &fail);
    } else {
        CHECK(c, engine_serve(engine, &fail) == FAIL_FILE);
        CHECK(c, strcmp(fail.message, "answers.txt: no room") == 0);
    }
    engine_close(engine);
}

/* Collective. Whether all ranks hold the same status and message. */
static bool alike(context_t *c, const fail_t *fail)
{
    fail_t all = {0};
    uint64_t digest = digest_u64(DIGEST_START, (uint64_t)(unsigned)fail->status);
    return comm_agree_same(c->comm, digest_string(digest, fail->message), "failure", &all) == 0;
}

/* The n-th allocation fails on the last rank alone. */
static void a_failed_allocation_on_one_rank_fails_on_all(context_t *c)
{
    size_t n = 1, previous = 1, n_failed = 0;
    for (bool failed = true; failed;) {
        engine_t *engine;
        fail_t fail = {0};
        memory_fail_nth(c->rank == c->size - 1 ? n : 0);
        engine_open(&engine, c->comm, &demo_options, &fail);
        memory_fail_nth(0);
        CHECK(c, alike(c, &fail));
        CHECK(c, fail.status == 0 || fail.status == FAIL_MEMORY);
        CHECK(c, (engine == NULL) == (fail.status != 0));
        failed = fail.status != 0;
        n_failed += failed;
        if (!failed && c->rank != 0)
            engine_serve(engine, &fail);
        engine_close(engine);
        /* Opening takes a hundred or more; some of them, the early ones all. */
        size_t next = n + previous;
        previous = n;
        n = next;
    }
    CHECK(c, n_failed >= 5);
}

static void a_missing_model_fails_alike(context_t *c)
{
    engine_options_t options = demo_options;
    engine_t *engine;
    fail_t fail = {0};
    options.model_dir = "/nowhere/at/all";
    CHECK(c, engine_open(&engine, c->comm, &options, &fail) == FAIL_FILE);
    CHECK(c, engine == NULL && alike(c, &fail));
    CHECK(c, strstr(fail.message, "/nowhere/at/all") != NULL);
}

static void ranks_with_different_options_are_refused(context_t *c)
{
    engine_options_t options = demo_options;
    engine_t *engine;
    fail_t fail = {0};
    if (c->size == 1)
        return;
    options.prefill_chunk += c->rank == c->size - 1;
    CHECK(c, engine_open(&engine, c->comm, &options, &fail) == FAIL_MODEL);
    CHECK(c, engine == NULL && alike(c, &fail));
    CHECK(c, strstr(fail.message, "options") != NULL);
}

static void too_little_memory_is_refused_beforehand(context_t *c)
{
    engine_options_t options = demo_options;
    engine_t *engine;
    fail_t fail = {0};
    options.kv_tokens = (size_t)1 << 40;
    CHECK(c, engine_open(&engine, c->comm, &options, &fail) == FAIL_MEMORY);
    CHECK(c, engine == NULL && alike(c, &fail));
}

int main(int argc, char **argv)
{
    context_t c = {0};
    fail_t fail = {0};
    /* If ranks wait for each other without end, the signal ends them and mpirun reports it. */
    alarm(HANG_SECONDS);
    if (comm_start(&argc, &argv, &fail) != 0 || comm_open_world(&c.comm, COMM_AUTO, &fail) != 0) {
        fprintf(stderr, "%s\n", fail.message);
        return 1;
    }
    log_set_level(LOG_ERROR);
    c.rank = comm_rank(c.comm);
    c.size = comm_size(c.comm);
    each_rank_reads_its_share_only(&c);
    each_rank_reads_its_share_only(&c);
    answers_equal_hugging_face(&c);
    a_cancelled_request_leaves_the_others_alone(&c);
    draws_do_not_depend_on_the_ranks(&c);
    keys_of_prompts_in_common_are_read_once_a_step(&c);
    prompt_logits_come_in_order(&c);
    impossible_requests_are_refused_and_the_engine_goes_on(&c);
    an_interrupt_of_any_rank_ends_all(&c, 0);
    an_interrupt_of_any_rank_ends_all(&c, c.size - 1);
    the_coordinators_own_failure_reaches_all(&c);
    a_failed_allocation_on_one_rank_fails_on_all(&c);
    a_missing_model_fails_alike(&c);
    ranks_with_different_options_are_refused(&c);
    too_little_memory_is_refused_beforehand(&c);
    int64_t checks = comm_sum(c.comm, c.checks), failures = comm_sum(c.comm, c.failures);
    if (c.rank == 0)
        printf("mpi_engine: %d ranks, %" PRId64 " checks, %" PRId64 " failures\n", c.size, checks,
            failures);
    comm_close(c.comm);
    comm_stop();
    return failures != 0;
}
