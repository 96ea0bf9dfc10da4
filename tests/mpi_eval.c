/* Meshes: every job's result is the same, bit for bit, whatever the split into replicas and ranks,
 * the company it has, and whether the beginning of its prompt was computed for it or found in the
 * cache, and whether replicas share their weights; mail between ranks; memory that they share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "comm/mail.h"
#include "comm/shared.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/run/fleet.h"

enum { N_JOBS = 14, MAX_IDS = 700, MAX_RESULT = 128 };

static size_t n_passed, n_failed;

static void check(bool good, const char *what, size_t i, size_t n_replicas)
{
    n_passed += good;
    n_failed += !good;
    if (!good)
        printf("FAILED: %s, job %zu with %zu replicas\n", what, i, n_replicas);
}

static void die(const fail_t *fail)
{
    fprintf(stderr, "mpi_eval: %s\n", fail->message);
    comm_abort(1);
}

/* ---- Mail ------------------------------------------------------------------------------------ */

/* Every rank writes to every other, in pieces of all sizes; order within a pair is kept. */
static void mail_arrives_in_order(comm_t *comm)
{
    enum { LETTERS = 20 };
    static char text[70000];
    fail_t fail = {0};
    mail_t *mail;
    int rank = comm_rank(comm), size = comm_size(comm), *next = calloc((size_t)size, sizeof *next);
    if (mail_open(&mail, comm, &fail) != 0)
        die(&fail);
    for (int i = 0; i < LETTERS; i++)
        for (int to = 0; to < size; to++) {
            memset(text, rank + i, sizeof text);
            mail_send(mail, to, i, text, (size_t)i * (size_t)i * 190, &fail);
        }
    mail_letter_t letter;
    for (int n = 0; n < LETTERS * size;) {
        if (mail_poll(mail, &letter, &fail) <= 0)
            continue;
        const char *bytes = letter.data;
        size_t expected = (size_t)letter.kind * (size_t)letter.kind * 190;
        bool good = letter.kind == next[letter.from]++ && letter.bytes == expected &&
                    (expected == 0 || (bytes[0] == (char)(letter.from + letter.kind) &&
                                          bytes[expected - 1] == bytes[0]));
        check(good, "letter", (size_t)letter.kind, 0);
        n++;
    }
    comm_barrier(comm);
    check(mail_poll(mail, &letter, &fail) == 0, "no letter is left", 0, 0);
    mail_close(mail);
    free(next);
}

/* ---- Jobs ------------------------------------------------------------------------------------ */

typedef struct outcome {
    int32_t tokens[MAX_RESULT];
    double logprobs[MAX_RESULT];
    size_t n_tokens;
    uint64_t digest;
    int status, finish;
} outcome_t;

static int32_t jobs_ids[N_JOBS][MAX_IDS];

/* Prompts that begin alike and end apart, of lengths on both sides of every change of order. The
 * last one is longer than any sequence may be. */
static request_t job_at(size_t i)
{
    static const size_t lengths[N_JOBS] = {
        70, 192, 193, 200, 256, 300, 383, 384, 448, 520, 600, 1, 130, MAX_IDS};
    static const char *const stops[2] = {"er", "!!"};
    int32_t *ids = jobs_ids[i];
    size_t n = lengths[i], own = n < 40 ? 0 : n - 3 - 5 * i % 60;
    for (size_t t = 0; t < n; t++)
        ids[t] = (int32_t)(10 + (t < own ? t * 37 % 1500 : t * 11 + i * 101) % 2000);
    bool scores = i % 3 == 1;
    return (request_t){.prompt_ids = ids,
        .n_prompt = n,
        .n_scored = scores ? 1 + i : 0,
        .max_tokens = 6,
        .stops = stops,
        .n_stops = i % 4 == 0 ? 2 : 0,
        .sampling = {.temperature = i % 5 == 4 ? 0.9 : 0,
            .top_p = 1,
            .repetition_penalty = i == 6 ? 1.2 : 1,
            .want_logprob = 1,
            .want_digest = 1,
            .seed = 3,
            .request = i}};
}

static outcome_t outcome_of(const fleet_result_t *result)
{
    outcome_t outcome = {.n_tokens = result->n_tokens,
        .digest = result->digest,
        .status = result->status,
        .finish = (int)result->finish};
    memcpy(outcome.tokens, result->tokens, result->n_tokens * sizeof *result->tokens);
    memcpy(outcome.logprobs, result->logprobs, result->n_tokens * sizeof *result->logprobs);
    return outcome;
}

/* Collective. One run of all jobs; on the coordinator outcomes are by job. Returns tokens reused.
 */
static size_t run_jobs(comm_t *comm, size_t n_replicas, bool own_weights,
    const engine_options_t *engine, const tokenizer_t *tokenizer, outcome_t *outcomes)
{
    fail_t fail = {0};
    fleet_t *fleet;
    size_t reused = 0, n_results;
    const fleet_options_t options = {.replica = {.engine = *engine,
                                         .n_replicas = n_replicas,
                                         .own_weights = own_weights,
                                         .path = COMM_AUTO},
        .tokenizer = tokenizer};
    const fleet_result_t *results;
    if (fleet_open(&fleet, comm, &options, &fail) != 0)
        die(&fail);
    if (comm_rank(comm) != 0) {
        fleet_serve(fleet, &fail);
    } else {
        bool there[N_JOBS] = {false};
        for (size_t i = 0; i < N_JOBS; i++) {
            request_t job = job_at(i);
            uint64_t handle;
            if (fleet_submit(fleet, &job, &handle, &fail) != 0)
                die(&fail);
        }
        for (int more = 1; more > 0;) {
            more = fleet_step(fleet, &results, &n_results, &fail);
            for (size_t i = 0; more >= 0 && i < n_results; i++) {
                check(!there[results[i].job], "one result", results[i].job, n_replicas);
                there[results[i].job] = true;
                outcomes[results[i].job] = outcome_of(&results[i]);
            }
        }
        for (size_t i = 0; i < N_JOBS; i++)
            check(there[i], "a result", i, n_replicas);
        fleet_end(fleet, &fail);
        size_t n_jobs = 0;
        for (size_t r = 0; r < n_replicas; r++) {
            reused += fleet_stats(fleet)[r].totals.reused_tokens;
            n_jobs += fleet_stats(fleet)[r].n_jobs;
            check(fleet_stats(fleet)[r].n_weight_sharers == (own_weights ? 1 : n_replicas),
                "sharers of the weights", r, n_replicas);
        }
        check(n_jobs == N_JOBS, "jobs of the replicas", n_jobs, n_replicas);
    }
    fleet_close(fleet);
    if (comm_agree(comm, &fail) != 0)
        die(&fail);
    return reused;
}

static void compare(const outcome_t *a, const outcome_t *b, const char *what, size_t n_replicas)
{
    for (size_t i = 0; i < N_JOBS; i++) {
        size_t n = a[i].n_tokens;
        check(n == b[i].n_tokens && a[i].digest == b[i].digest && a[i].status == b[i].status &&
                  a[i].finish == b[i].finish &&
                  memcmp(a[i].tokens, b[i].tokens, n * sizeof(int32_t)) == 0 &&
                  memcmp(a[i].logprobs, b[i].logprobs, n * sizeof(double)) == 0,
            what, i, n_replicas);
    }
}

/* What the jobs ask for is what they get: tokens scored, and the one that is too long refused. */
static void check_shapes(const outcome_t *outcomes)
{
    for (size_t i = 0; i < N_JOBS; i++) {
        const request_t job = job_at(i);
        bool refused = i == N_JOBS - 1;
        check((outcomes[i].status == FAIL_LIMIT) == refused, "refusal", i, 1);
        if (refused)
            continue;
        check(job.n_scored > 0 ? outcomes[i].n_tokens == job.n_scored : outcomes[i].n_tokens > 0,
            "tokens", i, 1);
        check(outcomes[i].digest != 0, "digest", i, 1);
    }
}

static void run_mode(comm_t *comm, const tokenizer_t *tokenizer, const engine_options_t *mode)
{
    static outcome_t whole[N_JOBS], shared[N_JOBS], alone[N_JOBS];
    size_t size = (size_t)comm_size(comm);
    engine_options_t options = *mode;
    options.no_prefix_reuse = true;
    size_t reused = run_jobs(comm, 1, false, &options, tokenizer, whole);
    if (comm_rank(comm) == 0) {
        check(reused == 0, "nothing is reused", 0, 1);
        check_shapes(whole);
    }
    options.no_prefix_reuse = false;
    for (size_t d = 1; d <= size; d++) {
        if (size % d != 0)
            continue;
        reused = run_jobs(comm, d, false, &options, tokenizer, shared);
        if (comm_rank(comm) == 0) {
            check(reused >= (d == 1 ? 64 : 0), "something is reused", reused, d);
            compare(whole, shared, "the same with shared beginnings", d);
        }
    }
    options.max_batch = 1;
    options.prefill_chunk = 100;
    run_jobs(comm, size, true, &options, tokenizer, alone);
    if (comm_rank(comm) == 0)
        compare(whole, alone, "the same one at a time, with weights of their own", size);
}

static void bad_meshes_are_refused(comm_t *comm, const engine_options_t *engine)
{
    const size_t bad[2] = {0, (size_t)comm_size(comm) + 1};
    for (size_t i = 0; i < 2; i++) {
        fail_t fail = {0};
        fleet_t *fleet;
        const fleet_options_t options = {.replica = {.engine = *engine, .n_replicas = bad[i]}};
        check(fleet_open(&fleet, comm, &options, &fail) == FAIL_USAGE && fleet == NULL,
            "a mesh that does not fit is refused", i, bad[i]);
    }
}

/* ---- Streams --------------------------------------------------------------------------------- */

enum { N_STREAMS = 6, CANCELLED_QUEUED = 4, CANCELLED_RUNNING = 5, TWIN = 3 };

/* What events told of a job, and its result. */
typedef struct stream {
    int32_t told[MAX_RESULT];
    size_t n_told;
    text_buffer_t text;
    outcome_t outcome;
    bool there;
} stream_t;

/* Even ones stream, and the two that are cancelled; one has a stop string that its text soon holds. */
static request_t stream_at(size_t i)
{
    static const int32_t prompt[] = {40, 41, 42, 43, 44, 45, 46, 47};
    static const char *const stops[1] = {"e"};
    return (request_t){.prompt_ids = prompt + (i == CANCELLED_RUNNING ? TWIN : i) % 4,
        .n_prompt = 4,
        .max_tokens = i >= TWIN ? 100 : 12,
        .stops = stops,
        .n_stops = i == 2,
        .streams = i % 2 == 0 || i == CANCELLED_RUNNING,
        .sampling = {.top_p = 1, .repetition_penalty = 1}};
}

static void take_stream_events(fleet_t *fleet, stream_t *streams, fail_t *fail)
{
    size_t n_events;
    const fleet_event_t *events = fleet_events(fleet, &n_events);
    for (size_t i = 0; i < n_events; i++) {
        stream_t *stream = &streams[events[i].job];
        check(events[i].choice != NULL && !stream->there, "event", events[i].job, 0);
        stream->told[stream->n_told++] = events[i].choice->token;
        text_buffer_append(&stream->text, events[i].text, events[i].text_bytes, fail);
        if (events[i].job == CANCELLED_RUNNING && stream->n_told == 1)
            fleet_cancel(fleet, CANCELLED_RUNNING, fail);
    }
}

static void check_stream(const stream_t *stream, const fleet_result_t *result, size_t n_replicas)
{
    size_t i = (size_t)result->job, n = stream->n_told;
    bool streams = stream_at(i).streams && i != CANCELLED_QUEUED;
    check(n <= result->n_tokens && memcmp(stream->told, result->tokens, n * sizeof(int32_t)) == 0 &&
              stream->text.bytes <= result->text_bytes &&
              memcmp(stream->text.text, result->text, stream->text.bytes) == 0,
        "events begin the result", i, n_replicas);
    /* The last token of an answer comes with the result. */
    if (result->finish != ENGINE_CANCELLED)
        check(n == (streams ? result->n_tokens - 1 : 0), "events", i, n_replicas);
    if (streams && i < 2)
        check(stream->text.bytes > result->text_bytes / 2, "text of events", i, n_replicas);
    if (i == 2)
        check(result->finish == ENGINE_STOP && strchr(result->text, 'e') == NULL, "stop", i, 0);
    if (i == CANCELLED_QUEUED)
        check(result->finish == ENGINE_CANCELLED && result->n_tokens == 0, "queued", i, n_replicas);
    if (i == CANCELLED_RUNNING && n_replicas == 1)
        check(result->finish == ENGINE_CANCELLED && result->n_tokens == 1, "running", i, 1);
}

/* The coordinator's part. */
static void run_streams(fleet_t *fleet, size_t n_replicas, fail_t *fail)
{
    static stream_t streams[N_STREAMS];
    const fleet_result_t *results;
    size_t n_results;
    uint64_t job;
    memset(streams, 0, sizeof streams);
    for (size_t i = 0; i < N_STREAMS; i++) {
        const request_t request = stream_at(i);
        if (fleet_submit(fleet, &request, &job, fail) != 0)
            die(fail);
        text_buffer_append(&streams[i].text, "", 0, fail);
    }
    fleet_cancel(fleet, CANCELLED_QUEUED, fail);
    fleet_cancel(fleet, N_STREAMS + 5, fail); /* no such job */
    for (int more = 1; more > 0;) {
        more = fleet_step(fleet, &results, &n_results, fail);
        if (more < 0)
            die(fail);
        take_stream_events(fleet, streams, fail);
        for (size_t i = 0; i < n_results; i++) {
            stream_t *stream = &streams[results[i].job];
            check(!stream->there, "one result", results[i].job, n_replicas);
            check_stream(stream, &results[i], n_replicas);
            stream->outcome = outcome_of(&results[i]);
            stream->there = true;
        }
    }
    size_t n = streams[CANCELLED_RUNNING].outcome.n_tokens;
    for (size_t i = 0; i < N_STREAMS; i++) {
        check(streams[i].there, "a result", i, n_replicas);
        text_buffer_clear(&streams[i].text);
    }
    check(n <= streams[TWIN].outcome.n_tokens &&
              memcmp(streams[CANCELLED_RUNNING].outcome.tokens, streams[TWIN].outcome.tokens,
                  n * sizeof(int32_t)) == 0,
        "what there is of a cancelled job", n, n_replicas);
}

static void answers_stream_and_are_cancelled(
    comm_t *comm, size_t n_replicas, const engine_options_t *engine, const tokenizer_t *tokenizer)
{
    fail_t fail = {0};
    fleet_t *fleet;
    const fleet_options_t options = {
        .replica = {.engine = *engine, .n_replicas = n_replicas, .path = COMM_AUTO},
        .tokenizer = tokenizer};
    if (fleet_open(&fleet, comm, &options, &fail) != 0)
        die(&fail);
    if (comm_rank(comm) == 0) {
        run_streams(fleet, n_replicas, &fail);
        fleet_end(fleet, &fail);
    } else {
        fleet_serve(fleet, &fail);
    }
    fleet_close(fleet);
    if (comm_agree(comm, &fail) != 0)
        die(&fail);
}

/* A rank that runs out of memory anywhere on the way ends the opening of all replicas, and leaves
 * nobody waiting. */
static void a_failing_replica_ends_all(comm_t *comm, const engine_options_t *engine)
{
    for (size_t n = 1; n < 12; n += 2) {
        fail_t fail = {0};
        fleet_t *fleet;
        const fleet_options_t options = {
            .replica = {
                .engine = *engine, .n_replicas = (size_t)comm_size(comm), .path = COMM_AUTO}};
        memory_fail_nth(comm_rank(comm) == comm_size(comm) - 1 ? n : 0);
        int status = fleet_open(&fleet, comm, &options, &fail);
        memory_fail_nth(0);
        check(status == FAIL_MEMORY && fleet == NULL, "out of memory", n, 0);
    }
}

/* What each rank writes into its part, all of the node see. */
static void shared_memory_is_one_copy(comm_t *comm)
{
    enum { PART = 1300000 };
    fail_t fail = {0};
    comm_shared_t *shared;
    size_t n = (size_t)comm_node_size(comm), rank = (size_t)comm_node_rank(comm);
    if (comm_shared_open(&shared, comm, n * PART, &fail) != 0)
        die(&fail);
    char *memory = comm_shared_data(shared);
    size_t wrong = (size_t)((uintptr_t)memory % 64 != 0);
    for (size_t i = 0; i < PART; i++)
        wrong += memory[rank * PART + i] != 0;
    comm_barrier(comm);
    memset(memory + rank * PART, (int)rank + 1, PART);
    comm_barrier(comm);
    for (size_t i = 0; i < n * PART; i++)
        wrong += memory[i] != (char)(i / PART + 1);
    check(wrong == 0, "bytes of shared memory", wrong, n);
    comm_shared_close(shared);
    comm_shared_close(NULL);
}

int main(int argc, char **argv)
{
    fail_t fail = {0};
    comm_t *comm;
    tokenizer_t *tokenizer;
    if (comm_start(&argc, &argv, &fail) != 0 || comm_open_world(&comm, COMM_AUTO, &fail) != 0 ||
        tokenizer_open(&tokenizer, CHOIR_SOURCE_DIR "/configs/demo", &fail) != 0)
        die(&fail);
    log_set_speaker(false);
    const engine_options_t modes[] = {
        {.mode = DTYPE_BF16, .attention = ATTENTION_SDPA, .threads = 1, .kv_tokens = 640},
        {.mode = DTYPE_BF16, .attention = ATTENTION_EAGER, .threads = 1, .kv_tokens = 640},
        {.mode = DTYPE_F32, .attention = ATTENTION_EAGER, .threads = 1, .kv_tokens = 640},
    };
    mail_arrives_in_order(comm);
    shared_memory_is_one_copy(comm);
    /* The other orders share all but the classes of prefixes with the first. */
    /* Slow builds set CHOIR_TEST_PROMPTS. */
    size_t n_modes = comm_size(comm) == 1 && getenv("CHOIR_TEST_PROMPTS") == NULL ? 3 : 1;
    for (size_t m = 0; m < n_modes; m++) {
        engine_options_t options = modes[m];
        options.model_dir = CHOIR_SOURCE_DIR "/configs/demo";
        if (m == 0) {
            bad_meshes_are_refused(comm, &options);
            a_failing_replica_ends_all(comm, &options);
            answers_stream_and_are_cancelled(comm, 1, &options, tokenizer);
            if (comm_size(comm) > 1)
                answers_stream_and_are_cancelled(
                    comm, (size_t)comm_size(comm), &options, tokenizer);
        }
        run_mode(comm, tokenizer, &options);
    }
    int64_t failed = comm_sum(comm, (int64_t)n_failed);
    if (comm_rank(comm) == 0)
        printf("mpi_eval: %zu passed, %lld failed at %d ranks\n", n_passed, (long long)failed,
            comm_size(comm));
    tokenizer_close(tokenizer);
    comm_close(comm);
    comm_stop();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
