/* The promise: one set of bits. Logits of fifteen models must equal Hugging Face's (digests in
 * golden/logits.json and logits-avx2.json, made by oracle/logits.py), prefill and decode, in every combination of ranks,
 * threads, chunks, batching, instruction set and communication path tried here. CHOIR_TEST_PROMPTS:
 * of each model only so many prompts, and everything at one rank only. Scalar C runs at one rank. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "comm/comm.h"
#include "engine/base/json.h"
#include "engine/base/size.h"
#include "tests/forward_fixture.h"

enum { MAX_PROMPTS = 16, MAX_ROWS = 512, MAX_LOGITS = 600, MAX_CONTEXT = 704 };

/* Whose digests: orders torch and torch-avx2 with each attention, and the dot product amx. */
typedef enum golden { GOLDEN_TORCH, GOLDEN_AMX = 2, GOLDEN_AVX2 } golden_t;

typedef struct prompt {
    int32_t ids[MAX_CONTEXT];
    size_t n_prompt, n_all; /* the tokens that are fed one by one follow the prompt */
    char golden[5][2][17];  /* [golden_t][prefill, decode] digests in hexadecimal */
    /* Progress of a run. */
    size_t done;
    int32_t blocks[MAX_CONTEXT / KV_BLOCK];
    XXH3_state_t *digests[3]; /* prefill, decode, and what is not compared */
} prompt_t;

typedef struct suite {
    const char *name;
    config_t config;
    model_source_t source;
    prompt_t prompts[MAX_PROMPTS]; /* by length */
    size_t n_prompts, n_short;     /* short: for scalar C, which would take most of the time */
} suite_t;

typedef struct variant {
    const char *name;
    attention_t attention;
    order_t order;
    isa_t isa;
    size_t threads, chunk;
    bool together; /* all prompts in one batch, chunks and decodes mixed */
    bool plain_mpi;
    size_t n_prompts; /* the first ones only */
    dot_t dot;
} variant_t;

/* Of a prompt's rows: all have logits; all, but some only count; some only. */
typedef enum wanted { WANT_ALL, COUNT_SOME, WANT_SOME } wanted_t;

static wanted_t wanted = WANT_ALL;
static size_t n_passed, n_failed;
static bool with_scalar; /* at one rank: it takes as long as all else together */
static size_t
    n_runs; /* every second one has packed weights: other ones at other numbers of ranks */

static void die(comm_t *comm, const fail_t *fail)
{
    fprintf(stderr, "mpi_logits: rank %d: %s\n", comm == NULL ? 0 : comm_rank(comm), fail->message);
    comm_abort(1);
}

static void read_ids(json_t *array, int32_t *ids, size_t *n)
{
    for (size_t i = 0; i < json_array_size(array) && *n < MAX_CONTEXT; i++)
        ids[(*n)++] = (int32_t)json_integer_value(json_array_get(array, i));
}

static void read_digests(json_t *entry, const char *name, char golden[2][17])
{
    static const char *const kinds[] = {"prefill", "decode"};
    json_t *digests = json_object_get(entry, name);
    for (int k = 0; k < 2 && digests != NULL; k++)
        snprintf(golden[k], sizeof golden[k], "%s",
            json_string_value(json_object_get(digests, kinds[k])));
}

static void read_golden(suite_t *suite, json_t *golden, json_t *golden_avx2)
{
    static const char *const names[] = {"eager", "sdpa", "amx"};
    json_t *list = json_object_get(golden, suite->name);
    json_t *list_avx2 = json_object_get(golden_avx2, suite->name);
    const char *limit = getenv("CHOIR_TEST_PROMPTS");
    suite->n_prompts = size_min(json_array_size(list), MAX_PROMPTS);
    if (limit != NULL)
        suite->n_prompts = size_min(suite->n_prompts, strtoull(limit, NULL, 10));
    for (size_t i = 0; i < suite->n_prompts; i++) {
        prompt_t *p = &suite->prompts[i];
        json_t *entry = json_array_get(list, i), *avx2 = json_array_get(list_avx2, i);
        read_ids(json_object_get(entry, "ids"), p->ids, &p->n_all);
        p->n_prompt = p->n_all;
        suite->n_short += p->n_prompt <= (limit != NULL ? 20 : 100);
        read_ids(json_object_get(entry, "fed"), p->ids, &p->n_all);
        for (int a = 0; a < 3; a++)
            read_digests(entry, names[a], p->golden[GOLDEN_TORCH + a]);
        /* Of the same ids. */
        for (int a = 0; a < 2; a++)
            if (json_equal(json_object_get(entry, "ids"), json_object_get(avx2, "ids")) &&
                json_equal(json_object_get(entry, "fed"), json_object_get(avx2, "fed")))
                read_digests(avx2, names[a], p->golden[GOLDEN_AVX2 + a]);
    }
}

/* ---- One run of all prompts of a variant ----------------------------------------------------- */

typedef struct run {
    comm_t *comm;
    const suite_t *suite;
    forward_rank_t rank;
    float *row; /* [vocabulary] on rank 0 */
    size_t *counts;
} run_t;

static void digest_row(run_t *run, size_t i, XXH3_state_t *digest)
{
    const plan_t *plan = &run->rank.model.plan;
    for (size_t r = 0; r < plan->n_ranks; r++)
        run->counts[r] = plan_count(plan->shares[r].vocab) * sizeof(float);
    comm_gatherv_root(run->comm, forward_logits(run->rank.forward, i), run->counts, run->row);
    if (comm_rank(run->comm) != 0)
        return;
    for (size_t v = 0; v < run->suite->config.vocab_size; v++) {
        uint16_t bits = bf16_from_f32(run->row[v]);
        XXH3_64bits_update(digest, &bits, sizeof bits);
    }
}

typedef struct step {
    forward_batch_t batch;
    int32_t ids[MAX_ROWS];
    forward_sequence_t sequences[MAX_PROMPTS];
    forward_logits_row_t logits[MAX_LOGITS];
    XXH3_state_t *digests[MAX_LOGITS];
} step_t;

static void want_logits(step_t *s, size_t row, bool single_row, XXH3_state_t *digest)
{
    s->digests[s->batch.n_logits] = digest;
    s->logits[s->batch.n_logits++] = (forward_logits_row_t){row, single_row};
}

/* Appends the next rows of a prompt when they are of the class asked for. */
static void add_sequence(
    step_t *s, prompt_t *p, const variant_t *v, bool whole_prompts, bool single_row)
{
    const forward_progress_t at = {p->n_prompt, p->n_all, p->done, p->blocks};
    size_t room = MAX_ROWS - s->batch.n_rows;
    forward_sequence_t *rows = &s->sequences[s->batch.n_sequences];
    if (whole_prompts && p->n_prompt > p->done + room)
        return;
    if (!forward_next_rows(&at, whole_prompts ? room : size_min(v->chunk, room), single_row,
            s->batch.n_rows, rows))
        return;
    s->batch.n_sequences++;
    memcpy(s->ids + s->batch.n_rows, p->ids + p->done, rows->n_rows * sizeof *s->ids);
    s->batch.n_rows += rows->n_rows;
}

/* Single logits first: the prompt's last row as generate() computes it, and rows fed one by one. */
static void list_logits(step_t *s, prompt_t **of)
{
    for (int single_row = 1; single_row >= 0; single_row--)
        for (size_t i = 0; i < s->batch.n_sequences; i++) {
            const forward_sequence_t *q = &s->sequences[i];
            prompt_t *p = of[i];
            bool prompt = q->first_position < p->n_prompt;
            bool last = q->first_position + q->n_rows == p->n_prompt;
            if (single_row && (!prompt || last))
                want_logits(s, q->first_row + q->n_rows - 1, true, p->digests[1]);
            if (prompt && single_row == (p->n_prompt == 1))
                for (size_t r = 0; r < q->n_rows; r++) {
                    bool some = (q->first_position + r) / 8 % 3 == 1;
                    if (wanted != WANT_SOME || some)
                        want_logits(s, q->first_row + r, single_row,
                            p->digests[wanted == COUNT_SOME && !some ? 2 : 0]);
                }
        }
}

static bool step(run_t *run, prompt_t *prompts, size_t n, const variant_t *v)
{
    static step_t s;
    prompt_t *of[MAX_PROMPTS];
    s.batch =
        (forward_batch_t){.token_ids = s.ids, .sequences = s.sequences, .logits_rows = s.logits};
    bool whole =
        forward_wants_whole_prompts(&run->suite->config, v->order, v->dot, run->rank.model.mode);
    for (int single_row = 1; single_row >= 0; single_row--)
        for (size_t i = 0; i < n; i++) {
            size_t before = s.batch.n_sequences;
            add_sequence(&s, &prompts[i], v, whole, single_row);
            if (s.batch.n_sequences > before)
                of[before] = &prompts[i];
        }
    if (s.batch.n_rows == 0)
        return false;
    list_logits(&s, of);
    forward_step(run->rank.forward, &s.batch);
    for (size_t i = 0; i < s.batch.n_logits; i++)
        digest_row(run, i, s.digests[i]);
    for (size_t i = 0; i < s.batch.n_sequences; i++)
        of[i]->done += s.sequences[i].n_rows;
    return true;
}

static void check_digests(run_t *run, const suite_t *suite, const prompt_t *p, const variant_t *v)
{
    static const char *const kinds[] = {"prefill", "decode"};
    const int golden = v->dot == DOT_AMX
                           ? GOLDEN_AMX
                           : (v->order == ORDER_TORCH_AVX2 ? GOLDEN_AVX2 : GOLDEN_TORCH) +
                                 (v->attention == ATTENTION_SDPA);
    if (comm_rank(run->comm) != 0)
        return;
    for (int k = 0; k < 2; k++) {
        char hex[17];
        snprintf(hex, sizeof hex, "%016" PRIx64, (uint64_t)XXH3_64bits_digest(p->digests[k]));
        if (strcmp(hex, p->golden[golden][k]) == 0) {
            n_passed++;
            continue;
        }
        n_failed++;
        printf("FAILED: %s, %zu-token prompt, %s logits, %s, %s attention, %d ranks x %zu threads: "
               "digest %s, "
               "Hugging Face's is %s\n",
            suite->name, p->n_prompt, kinds[k], v->name,
            v->attention == ATTENTION_SDPA ? "sdpa" : "eager", comm_size(run->comm), v->threads,
            hex, p->golden[golden][k]);
    }
}

static void begin_prompts(suite_t *suite, size_t n)
{
    int32_t block = 0;
    for (size_t i = 0; i < n; i++) {
        prompt_t *p = &suite->prompts[i];
        p->done = 0;
        for (size_t b = 0; b * KV_BLOCK < p->n_all; b++)
            p->blocks[b] = block++;
        for (int k = 0; k < 3; k++) {
            p->digests[k] = XXH3_createState();
            XXH3_64bits_reset(p->digests[k]);
        }
    }
}

static void open_run(run_t *run, const suite_t *suite, const variant_t *v)
{
    fail_t fail = {0};
    *run = (run_t){.suite = suite};
    if (comm_open_world(&run->comm, v->plain_mpi ? COMM_MPI : COMM_AUTO, &fail) != 0)
        die(run->comm, &fail);
    const forward_case_t c = {.mode = DTYPE_BF16,
        .order = v->order,
        .attention = v->attention,
        .dot = v->dot,
        .isa = v->isa,
        .threads = v->threads,
        .packed = (n_runs++ + (size_t)comm_size(run->comm)) % 2 == 0};
    const forward_options_t limits = {
        .max_rows = MAX_ROWS, .max_logits = MAX_LOGITS, .max_context = MAX_CONTEXT};
    run->row = malloc(suite->config.vocab_size * sizeof *run->row);
    run->counts = malloc((size_t)comm_size(run->comm) * sizeof *run->counts);
    if (forward_rank_open(&run->rank, run->comm, &suite->config, &suite->source, &c, &limits,
            MAX_PROMPTS * MAX_CONTEXT / KV_BLOCK, &fail) != 0)
        die(run->comm, &fail);
}

static void close_run(run_t *run)
{
    forward_rank_close(&run->rank);
    free(run->row);
    free(run->counts);
    comm_close(run->comm);
}

static void play(run_t *run, suite_t *suite, const variant_t *v, size_t n)
{
    begin_prompts(suite, n);
    for (size_t i = 0; i < n; i += v->together ? n : 1)
        while (step(run, suite->prompts + i, v->together ? n : 1, v))
            continue;
}

static void end_prompts(suite_t *suite, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 3; k++)
            XXH3_freeState(suite->prompts[i].digests[k]);
}

static void run_variant(suite_t *suite, const variant_t *v)
{
    run_t run;
    size_t n = size_min(suite->n_prompts, v->n_prompts);
    open_run(&run, suite, v);
    play(&run, suite, v, n);
    for (size_t i = 0; i < n; i++)
        check_digests(&run, suite, &suite->prompts[i], v);
    end_prompts(suite, n);
    close_run(&run);
}

static void run_order(suite_t *suite, order_t order, attention_t last_attention, bool everything)
{
    const isa_t widest = isa_detect();
    const dot_t dot = order == ORDER_TORCH_AVX2 ? DOT_FOLD : DOT_CHAIN;
    for (attention_t a = ATTENTION_EAGER; a <= last_attention; a++) {
        const variant_t variants[] = {
            {"alone, whole prompts", a, order, widest, 1, MAX_ROWS, false, false, MAX_PROMPTS, dot},
            {"together, chunks of 7", a, order, widest, 3, 7, true, false, MAX_PROMPTS, dot},
            {"together, whole prompts", a, order, widest, 2, MAX_ROWS, true, false, MAX_PROMPTS,
                dot},
            {"chunks of 1", a, order, widest, 1, 1, false, false, 7, dot},
            {"plain MPI", a, order, widest, 2, 33, true, true, MAX_PROMPTS, dot},
            {"scalar", a, order, ISA_SCALAR, 1, 50, true, false, suite->n_short, dot},
            {"avx2", a, order, ISA_AVX2, 1, 50, true, false, MAX_PROMPTS, dot},
            {"avx512", a, order, ISA_AVX512, 1, 50, true, false, MAX_PROMPTS, dot},
        };
        size_t n = everything ? sizeof variants / sizeof *variants : 2;
        for (size_t i = 0; i < n; i++)
            if (isa_has(widest, variants[i].isa) && (with_scalar || variants[i].isa != ISA_SCALAR))
                run_variant(suite, &variants[i]);
    }
}

static void run_suite(suite_t *suite, attention_t last_attention, bool everything)
{
    run_order(suite, ORDER_TORCH, last_attention, everything);
}

static void run_avx2(suite_t *suite, attention_t last_attention, bool everything)
{
    run_order(suite, ORDER_TORCH_AVX2, last_attention, everything);
}

/* --dot amx, by the instruction and by the others. */
static void run_amx(suite_t *suite)
{
    const isa_t widest = isa_detect();
    const variant_t variants[] = {
        {"amx dot, together", ATTENTION_SDPA, ORDER_TORCH, widest, 2, MAX_ROWS, true, false,
            MAX_PROMPTS, DOT_AMX},
        {"amx dot, chunks of 7", ATTENTION_SDPA, ORDER_TORCH, widest, 1, 7, false, false, 7,
            DOT_AMX},
        {"amx dot, avx2", ATTENTION_SDPA, ORDER_TORCH, ISA_AVX2, 1, 50, true, false, 7, DOT_AMX},
        {"amx dot, avx512", ATTENTION_SDPA, ORDER_TORCH, ISA_AVX512, 1, 50, true, false, 7,
            DOT_AMX},
        {"amx dot, scalar", ATTENTION_SDPA, ORDER_TORCH, ISA_SCALAR, 1, 50, true, false,
            size_min(suite->n_short, 5), DOT_AMX},
    };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        if (isa_has(widest, variants[i].isa) && (with_scalar || variants[i].isa != ISA_SCALAR))
            run_variant(suite, &variants[i]);
}

/* Nodes between which gathers travel tile by tile, of prompts and of decoding; numbered in order
 * and not, and with ranks that own no tile. */
static void run_streams(suite_t *suite)
{
    static const char *const nodes[] = {"1", "2", "2,cyclic"};
    const isa_t widest = isa_detect();
    const variant_t variants[] = {
        {"streams, whole prompts", ATTENTION_SDPA, ORDER_TORCH, widest, 3, MAX_ROWS, true, false,
            MAX_PROMPTS, DOT_CHAIN},
        {"streams, plain MPI", ATTENTION_EAGER, ORDER_TORCH, widest, 2, 33, true, true, MAX_PROMPTS,
            DOT_CHAIN},
        {"streams, one thread", ATTENTION_SDPA, ORDER_TORCH, widest, 1, 60, false, false, 5,
            DOT_AMX},
    };
    setenv("CHOIR_STREAM_BYTES", "0", 1);
    for (size_t n = 0; n < sizeof nodes / sizeof *nodes; n++) {
        setenv("CHOIR_RANKS_PER_NODE", nodes[n], 1);
        run_variant(suite, &variants[n]);
    }
    unsetenv("CHOIR_RANKS_PER_NODE");
    unsetenv("CHOIR_STREAM_BYTES");
}

/* The last layer continues only with the rows whose logits are needed; steps without any end in it.
 * They have the bits that they have when all are wanted. */
static void run_some(suite_t *suite, const variant_t *v)
{
    uint64_t all[MAX_PROMPTS][2];
    size_t n = size_min(suite->n_prompts, v->n_prompts);
    run_t run;
    open_run(&run, suite, v);
    for (wanted = COUNT_SOME; wanted <= WANT_SOME; wanted++) {
        play(&run, suite, v, n);
        for (size_t i = 0; i < n && comm_rank(run.comm) == 0; i++)
            for (int k = 0; k < 2; k++) {
                uint64_t digest = XXH3_64bits_digest(suite->prompts[i].digests[k]);
                if (wanted == COUNT_SOME) {
                    all[i][k] = digest;
                    continue;
                }
                n_passed += digest == all[i][k];
                n_failed += digest != all[i][k];
                if (digest != all[i][k])
                    printf("FAILED: %s, %zu-token prompt, %s, %d ranks: logits of some rows differ "
                           "from those when all are wanted\n",
                        suite->name, suite->prompts[i].n_prompt, v->name, comm_size(run.comm));
            }
        end_prompts(suite, n);
    }
    wanted = WANT_ALL;
    close_run(&run);
}

static void run_kept(suite_t *suite)
{
    const isa_t widest = isa_detect();
    const variant_t variants[] = {
        {"some rows, together", ATTENTION_SDPA, ORDER_TORCH, widest, 2, 60, true, false,
            MAX_PROMPTS, DOT_CHAIN},
        {"some rows, chunks of 7", ATTENTION_EAGER, ORDER_TORCH, widest, 1, 7, false, true, 7,
            DOT_CHAIN},
        {"some rows, amx dot", ATTENTION_SDPA, ORDER_TORCH, widest, 3, MAX_ROWS, true, false,
            MAX_PROMPTS, DOT_AMX},
    };
    const variant_t streamed = {"some rows, streams", ATTENTION_SDPA, ORDER_TORCH, widest, 2, 60,
        true, false, MAX_PROMPTS, DOT_AMX};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        run_some(suite, &variants[i]);
    setenv("CHOIR_STREAM_BYTES", "0", 1);
    setenv("CHOIR_RANKS_PER_NODE", "1", 1);
    run_some(suite, &streamed);
    unsetenv("CHOIR_RANKS_PER_NODE");
    unsetenv("CHOIR_STREAM_BYTES");
}

/* --order uniform: a prompt fed token by token gives the logits of one prefill. */
static void run_uniform(suite_t *suite)
{
    const variant_t v = {"uniform order", ATTENTION_EAGER, ORDER_UNIFORM, isa_detect(), 2, 20, true,
        false, MAX_PROMPTS, DOT_CHAIN};
    uint64_t prefill[MAX_PROMPTS];
    size_t n = suite->n_prompts;
    run_t run;
    open_run(&run, suite, &v);
    for (size_t i = 0; i < n; i++)
        suite->prompts[i].n_all = suite->prompts[i].n_prompt;
    play(&run, suite, &v, n);
    for (size_t i = 0; i < n; i++) {
        prefill[i] = XXH3_64bits_digest(suite->prompts[i].digests[0]);
        suite->prompts[i].n_prompt = 1;
    }
    end_prompts(suite, n);
    play(&run, suite, &v, n);
    for (size_t i = 0; i < n && comm_rank(run.comm) == 0; i++) {
        /* The decode logits begin with the prompt's last, and the prompt is one token now. */
        if (XXH3_64bits_digest(suite->prompts[i].digests[1]) == prefill[i]) {
            n_passed++;
            continue;
        }
        n_failed++;
        printf("FAILED: %s, %zu tokens, uniform order, %d ranks: decoding differs from prefill\n",
            suite->name, suite->prompts[i].n_all, comm_size(run.comm));
    }
    end_prompts(suite, n);
    close_run(&run);
}

/* A model of shapes/NAME.json with random weights. */
static void open_random(suite_t *suite, const char *name, const uint64_t *seed, fail_t *fail)
{
    char path[1024];
    suite->name = name;
    snprintf(path, sizeof path, CHOIR_SOURCE_DIR "/tests/oracle/shapes/%s.json", name);
    config_load_file(&suite->config, path, fail);
    suite->source = model_source_random(seed);
}

enum {
    DEMO,
    ODD,
    YARN,
    SLIDING,
    QWEN3,
    QWEN3_BIAS,
    LLAMA,
    MISTRAL,
    LINEAR,
    DYNAMIC,
    WINDOW_G1,
    WINDOW_G3,
    QWEN3_WINDOW,
    MOE,
    MOE_WIDE,
    N_SUITES
};

/* Everything, or what depends on who owns what alone: kernels, chunks and threads know nothing of
 * other ranks. */
static void run_all(suite_t *s, bool everything)
{
    run_suite(&s[DEMO], ATTENTION_SDPA, everything);
    run_suite(&s[ODD], ATTENTION_SDPA, everything);
    run_suite(&s[QWEN3], ATTENTION_SDPA, everything);
    run_suite(&s[LLAMA], ATTENTION_SDPA, everything);
    run_suite(&s[MOE], ATTENTION_SDPA, everything);
    run_suite(&s[MOE_WIDE], ATTENTION_SDPA, everything);
    run_avx2(&s[DEMO], ATTENTION_SDPA, everything);
    run_avx2(&s[ODD], ATTENTION_SDPA, everything);
    run_streams(&s[DEMO]);
    run_kept(&s[ODD]);
    run_streams(&s[MOE]);
    run_kept(&s[MOE_WIDE]);
    if (!everything)
        return;
    run_suite(&s[YARN], ATTENTION_SDPA, false);
    run_suite(&s[SLIDING], ATTENTION_SDPA, false);
    run_suite(&s[MISTRAL], ATTENTION_SDPA, false);
    run_suite(&s[LINEAR], ATTENTION_SDPA, false);
    run_suite(&s[DYNAMIC], ATTENTION_SDPA, false);
    run_suite(&s[WINDOW_G1], ATTENTION_SDPA, false);
    run_suite(&s[WINDOW_G3], ATTENTION_SDPA, false);
    run_suite(&s[QWEN3_WINDOW], ATTENTION_SDPA, false);
    run_suite(&s[QWEN3_BIAS], ATTENTION_SDPA, false);
    run_avx2(&s[QWEN3], ATTENTION_SDPA, false);
    run_avx2(&s[LLAMA], ATTENTION_SDPA, false);
    run_avx2(&s[MISTRAL], ATTENTION_SDPA, false);
    run_avx2(&s[MOE], ATTENTION_SDPA, false);
    run_amx(&s[DEMO]);
    run_amx(&s[ODD]);
    run_amx(&s[QWEN3]);
    run_amx(&s[QWEN3_BIAS]);
    run_amx(&s[LLAMA]);
    run_amx(&s[MISTRAL]);
    run_amx(&s[MOE]);
    run_amx(&s[MOE_WIDE]);
    run_streams(&s[ODD]);
    run_kept(&s[DEMO]);
    run_uniform(&s[DEMO]);
    run_uniform(&s[ODD]);
    run_kept(&s[MOE]);
    run_uniform(&s[MOE]);
    run_uniform(&s[MOE_WIDE]);
}

static int count_ranks(void)
{
    fail_t fail = {0};
    comm_t *comm;
    if (comm_open_world(&comm, COMM_AUTO, &fail) != 0)
        die(NULL, &fail);
    int ranks = comm_size(comm);
    comm_close(comm);
    return ranks;
}

int main(int argc, char **argv)
{
    fail_t fail = {0};
    static suite_t suites[N_SUITES] = {{.name = "demo"}};
    static const uint64_t seed = 1;
    json_t *golden = NULL, *golden_avx2 = NULL;
    checkpoint_t *checkpoint = NULL;
    if (comm_start(&argc, &argv, &fail) != 0 ||
        json_file_read(CHOIR_SOURCE_DIR "/tests/golden/logits.json", &golden, &fail) != 0 ||
        json_file_read(CHOIR_SOURCE_DIR "/tests/golden/logits-avx2.json", &golden_avx2, &fail) !=
            0 ||
        config_load(&suites[DEMO].config, CHOIR_SOURCE_DIR "/configs/demo", &fail) != 0 ||
        checkpoint_open(&checkpoint, CHOIR_SOURCE_DIR "/configs/demo", &fail) != 0)
        die(NULL, &fail);
    suites[DEMO].source = model_source_checkpoint(checkpoint);
    open_random(&suites[ODD], "odd", &seed, &fail);
    open_random(&suites[YARN], "yarn", &seed, &fail);
    open_random(&suites[SLIDING], "sliding", &seed, &fail);
    open_random(&suites[QWEN3], "qwen3", &seed, &fail);
    open_random(&suites[QWEN3_BIAS], "qwen3_bias", &seed, &fail);
    open_random(&suites[LLAMA], "llama", &seed, &fail);
    open_random(&suites[MISTRAL], "mistral", &seed, &fail);
    open_random(&suites[LINEAR], "linear", &seed, &fail);
    open_random(&suites[DYNAMIC], "dynamic", &seed, &fail);
    open_random(&suites[WINDOW_G1], "window_g1", &seed, &fail);
    open_random(&suites[WINDOW_G3], "window_g3", &seed, &fail);
    open_random(&suites[QWEN3_WINDOW], "qwen3_window", &seed, &fail);
    open_random(&suites[MOE], "qwen3_moe", &seed, &fail);
    open_random(&suites[MOE_WIDE], "qwen3_moe_wide", &seed, &fail);
    if (fail.status != 0)
        die(NULL, &fail);
    for (size_t i = 0; i < N_SUITES; i++)
        read_golden(&suites[i], golden, golden_avx2);
    int ranks = count_ranks();
    bool slow = getenv("CHOIR_TEST_PROMPTS") != NULL;
    with_scalar = ranks == 1;
    run_all(suites, ranks == 1 || (ranks == 3 && !slow));
    json_decref(golden);
    json_decref(golden_avx2);
    checkpoint_close(checkpoint);
    comm_stop();
    /* Only rank 0 counts; mpirun reports its status. */
    if (n_passed + n_failed > 0)
        printf("%zu passed, %zu failed\n", n_passed, n_failed);
    return n_failed != 0;
}
