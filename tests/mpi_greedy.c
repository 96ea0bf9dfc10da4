/* Text equal to Hugging Face generate(): the demo model's 400 test questions, greedy, batched,
 * against the ids in golden/demo-greedy.jsonl (made by oracle/greedy.py, one question at a time).
 * bf16 with eager and with sdpa attention: every token. CHOIR_TEST_QUESTIONS: only so many of them,
 * for slow builds. f32: every token but where the two best logits lie closer than 1e-4, which the
 * golden file lists. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/run/engine.h"

enum { MAX_QUESTIONS = 400, MAX_IDS = 512, MAX_TOKENS = 200 };

typedef struct question {
    int32_t prompt[MAX_IDS], got[MAX_TOKENS];
    size_t n_prompt, n_got;
    json_t *golden;
} question_t;

typedef struct mode {
    const char *key; /* in the golden file */
    dtype_t dtype;
    attention_t attention;
} run_mode_t;

static question_t questions[MAX_QUESTIONS];
static size_t n_questions, n_wanted, n_passed, n_failed;

static void die(const fail_t *fail)
{
    fprintf(stderr, "mpi_greedy: %s\n", fail->message);
    comm_abort(1);
}

static void read_questions(fail_t *fail)
{
    static const char *const path = CHOIR_SOURCE_DIR "/tests/golden/demo-greedy.jsonl";
    char *text;
    size_t bytes;
    if (file_read(path, 16 << 20, &text, &bytes, fail) != 0)
        return;
    char *rest = text;
    const char *limit = getenv("CHOIR_TEST_QUESTIONS");
    n_wanted = limit == NULL ? MAX_QUESTIONS : strtoull(limit, NULL, 10);
    for (char *line = strsep(&rest, "\n");
         line != NULL && *line != 0 && fail->status == 0 && n_questions < n_wanted;
         line = strsep(&rest, "\n")) {
        question_t *q = &questions[n_questions++];
        if (json_text_read(line, strlen(line), path, &q->golden, fail) != 0)
            break;
        json_t *ids = json_object_get(q->golden, "prompt_ids");
        for (; q->n_prompt < json_array_size(ids); q->n_prompt++)
            q->prompt[q->n_prompt] = (int32_t)json_integer_value(json_array_get(ids, q->n_prompt));
    }
    free(text);
}

static void take_answers(engine_t *engine, fail_t *fail)
{
    const engine_event_t *events;
    size_t n_events;
    while (engine_step(engine, &events, &n_events, fail) > 0 || n_events > 0) {
        for (size_t i = 0; i < n_events; i++) {
            question_t *q = &questions[events[i].request];
            if (events[i].has_token)
                q->got[q->n_got++] = events[i].choice.token;
        }
    }
}

/* Equal up to the first near tie, if the golden file lists any. */
static bool answer_is_right(const question_t *q, const run_mode_t *mode)
{
    json_t *expected = json_object_get(q->golden, mode->key);
    json_t *ties = json_object_get(q->golden, "f32_near_ties");
    size_t n = json_array_size(expected);
    if (mode->dtype == DTYPE_F32 && json_array_size(ties) > 0)
        n = (size_t)json_integer_value(json_array_get(ties, 0));
    else if (q->n_got != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (i >= q->n_got || q->got[i] != json_integer_value(json_array_get(expected, i)))
            return false;
    return true;
}

static void run_mode(comm_t *comm, const run_mode_t *mode)
{
    fail_t fail = {0};
    engine_t *engine;
    const engine_options_t options = {.model_dir = CHOIR_SOURCE_DIR "/configs/demo",
        .mode = mode->dtype,
        .attention = mode->attention,
        .threads = 1};
    if (engine_open(&engine, comm, &options, &fail) != 0)
        die(&fail);
    if (comm_rank(comm) != 0) {
        engine_serve(engine, &fail);
        engine_close(engine);
        return;
    }
    const config_generation_t *generation = &engine_info(engine).config->generation;
    for (size_t i = 0; i < n_questions; i++) {
        uint64_t handle;
        questions[i].n_got = 0;
        const request_t request = {.prompt_ids = questions[i].prompt,
            .n_prompt = questions[i].n_prompt,
            .max_tokens = MAX_TOKENS,
            .stop_ids = generation->stop_ids,
            .n_stop_ids = generation->n_stop_ids,
            .sampling = {.top_p = 1, .repetition_penalty = 1}};
        if (engine_submit(engine, &request, &handle, &fail) != 0)
            die(&fail);
    }
    take_answers(engine, &fail);
    if (fail.status != 0)
        die(&fail);
    engine_close(engine);
    for (size_t i = 0; i < n_questions; i++) {
        if (answer_is_right(&questions[i], mode)) {
            n_passed++;
            continue;
        }
        n_failed++;
        printf("FAILED: question %zu, %s, %d ranks: the answer is not Hugging Face's\n", i,
            mode->key, comm_size(comm));
    }
}

int main(int argc, char **argv)
{
    static const run_mode_t modes[] = {
        {"bf16_eager", DTYPE_BF16, ATTENTION_EAGER},
        {"bf16_sdpa", DTYPE_BF16, ATTENTION_SDPA},
        {"f32_eager", DTYPE_F32, ATTENTION_EAGER},
    };
    fail_t fail = {0};
    comm_t *comm;
    if (comm_start(&argc, &argv, &fail) != 0 || comm_open_world(&comm, COMM_AUTO, &fail) != 0)
        die(&fail);
    log_set_level(LOG_ERROR);
    read_questions(&fail);
    if (fail.status != 0)
        die(&fail);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        run_mode(comm, &modes[i]);
    for (size_t i = 0; i < n_questions; i++)
        json_decref(questions[i].golden);
    if (comm_rank(comm) == 0)
        printf("%zu passed, %zu failed\n", n_passed, n_failed);
    comm_close(comm);
    comm_stop();
    return n_failed != 0 || n_questions != n_wanted;
}
