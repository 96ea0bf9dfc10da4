/* Loading from a source in memory: every rank has its rows, packed, whatever the number of ranks and
 * threads, reads no others, and keeps nothing after a failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/model/model.h"

enum { POSITIONS = 33, MAX_RANKS = 6 };

static const uint64_t seed = 5;

/* Sizes that are no multiple of a panel; untied. */
static const config_t config = {.arch = &arch_qwen2,
    .parts = ARCH_QKV_BIAS,
    .hidden_size = 48,
    .intermediate_size = 90,
    .num_hidden_layers = 2,
    .num_attention_heads = 6,
    .num_key_value_heads = 3,
    .head_dim = 10,
    .vocab_size = 333,
    .max_position_embeddings = 64,
    .rope_theta = 10000,
    .max_window_layers = 2};

/* Random weights, and what is done to them: reads are counted, and one tensor lacks. */
typedef struct memory_source {
    model_source_t random;
    const char *absent;     /* the end of its name, or NULL */
    bool fails_reading;     /* it is there, and cannot be read */
    const char *changed;    /* the last element of a tensor whose name has this differs, or NULL */
    atomic_size_t elements; /* read so far */
} memory_source_t;

static bool is_absent(const memory_source_t *s, const model_part_t *part)
{
    return s->absent != NULL && strstr(part->name, s->absent) != NULL;
}

static int check_part(
    void *context, const model_part_t *part, dtype_t mode, int *converted, fail_t *fail)
{
    memory_source_t *s = context;
    if (is_absent(s, part) && !s->fails_reading)
        return fail_set(fail, FAIL_MODEL, "%s: not there", part->name);
    *converted = mode != DTYPE_BF16;
    return 0;
}

static int read_part(
    void *context, const model_part_t *part, dtype_t mode, void *dst, void *scratch, fail_t *fail)
{
    memory_source_t *s = context;
    if (is_absent(s, part))
        return fail_set(fail, FAIL_FILE, "%s: cannot read", part->name);
    atomic_fetch_add(
        &s->elements, (part->row_end - part->row_begin) * (part->col_end - part->col_begin));
    if (s->random.read(s->random.context, part, mode, dst, scratch, fail) != 0)
        return fail->status;
    if (s->changed != NULL && strstr(part->name, s->changed) != NULL &&
        part->row_end == part->shape_rows)
        ((unsigned char *)dst)[(part->row_end - part->row_begin) *
                                   size_max(part->shape_columns, 1) * dtype_bytes(mode) -
                               1] ^= 1;
    return 0;
}

static int load(model_t *model, memory_source_t *s, const config_t *c,
    const model_options_t *options, size_t threads, fail_t *fail)
{
    team_t *team = NULL;
    const model_source_t source = {.context = s, .check = check_part, .read = read_part};
    s->random = model_source_random(&seed);
    assert_int_equal(team_open(&team, threads, true, fail), 0);
    int status = model_load(model, c, &source, options, team, fail);
    team_close(team);
    return status;
}

static model_options_t options_of(size_t rank, size_t n_ranks, dtype_t mode)
{
    return (model_options_t){.n_ranks = n_ranks,
        .rank = rank,
        .mode = mode,
        .isa = isa_detect(),
        .max_positions = POSITIONS};
}

/* Whether a rank's matrix holds rows [rows.begin, rows.end) and those columns of the tensor. */
static void check_matrix(const char *name, const matrix_t *matrix, dtype_t mode, size_t all_rows,
    size_t all_columns, plan_range_t rows, plan_range_t columns)
{
    size_t n = plan_count(columns), e = dtype_bytes(mode);
    model_source_t random = model_source_random(&seed);
    char *expected = malloc(n * e), *found = malloc(n * e);
    double *scratch = malloc(n * sizeof *scratch);
    fail_t fail = {0};
    assert_int_equal(matrix->rows, n == 0 ? 0 : plan_count(rows));
    for (size_t r = 0; r < matrix->rows; r++) {
        const model_part_t part = {name, all_rows, all_columns, rows.begin + r, rows.begin + r + 1,
            columns.begin, columns.end, NULL, NULL};
        random.read(random.context, &part, mode, expected, scratch, &fail);
        size_t p = r / KERNEL_PANEL;
        panel_unpack_row(mode, n, matrix_panel(matrix, p, 0), matrix_panel_width(matrix, p),
            r % KERNEL_PANEL, found);
        assert_memory_equal(found, expected, n * e);
    }
    free(expected);
    free(found);
    free(scratch);
}

static plan_range_t scaled(plan_range_t range, size_t by)
{
    return (plan_range_t){range.begin * by, range.end * by};
}

static void check_layer_0(const model_t *m)
{
    const plan_share_t *share = model_share(m);
    const model_weight_t *of = m->layers[0].of;
    const config_t *c = &config;
    size_t d = c->head_dim, heads = c->num_attention_heads * d, kv = c->num_key_value_heads * d;
    size_t hidden = c->hidden_size, mlp = c->intermediate_size;
    bool reduce = m->plan.combine == PLAN_REDUCE;
    plan_range_t all = {0, hidden}, out = reduce ? all : share->hidden;
    plan_range_t q = scaled(share->heads, d), k = scaled(share->kv_heads, d);
    plan_range_t o_in = reduce ? q : (plan_range_t){0, heads};
    plan_range_t down_in = reduce ? share->columns : (plan_range_t){0, mlp};
#define LAYER "model.layers.0."
    check_matrix(
        LAYER "self_attn.q_proj.weight", &of[WEIGHT_Q].matrix, m->mode, heads, hidden, q, all);
    check_matrix(
        LAYER "self_attn.k_proj.weight", &of[WEIGHT_K].matrix, m->mode, kv, hidden, k, all);
    check_matrix(
        LAYER "self_attn.v_proj.weight", &of[WEIGHT_V].matrix, m->mode, kv, hidden, k, all);
    check_matrix(
        LAYER "self_attn.o_proj.weight", &of[WEIGHT_O].matrix, m->mode, hidden, heads, out, o_in);
    check_matrix(LAYER "mlp.gate_proj.weight", &of[WEIGHT_GATE].matrix, m->mode, mlp, hidden,
        share->columns, all);
    check_matrix(LAYER "mlp.up_proj.weight", &of[WEIGHT_UP].matrix, m->mode, mlp, hidden,
        share->columns, all);
    check_matrix(
        LAYER "mlp.down_proj.weight", &of[WEIGHT_DOWN].matrix, m->mode, hidden, mlp, out, down_in);
#undef LAYER
    check_matrix("lm_head.weight", &m->outside.of[WEIGHT_LM_HEAD].matrix, m->mode, c->vocab_size,
        hidden, share->vocab, all);
    check_matrix("model.embed_tokens.weight", &m->outside.of[WEIGHT_EMBEDDING].matrix, m->mode,
        c->vocab_size, hidden, share->vocab, all);
}

static void every_rank_has_its_rows_at_any_number_of_ranks(void **state)
{
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    (void)state;
    for (size_t n = 1; n <= MAX_RANKS; n++)
        for (size_t rank = 0; rank < n; rank++)
            for (plan_combine_t combine = PLAN_GATHER; combine <= PLAN_REDUCE; combine++) {
                model_t model;
                memory_source_t source = {0};
                fail_t fail = {0};
                model_options_t options = options_of(rank, n, modes[n % 3]);
                options.combine = combine;
                assert_int_equal(load(&model, &source, &config, &options, n % 3 + 1, &fail), 0);
                check_layer_0(&model);
                size_t bytes = model_bytes(&model.plan, rank, model.mode, POSITIONS);
                assert_true(bytes >= source.elements * model.kernels.element_bytes);
                assert_int_equal(model.n_converted > 0, model.mode != DTYPE_BF16);
                model_close(&model);
            }
}

/* Norms, which every rank has, and all else once. */
static void ranks_read_what_they_own_and_no_more(void **state)
{
    (void)state;
    size_t alone = 0;
    for (size_t n = 1; n <= 3; n++) {
        size_t elements = 0, copies = 0;
        for (size_t rank = 0; rank < n; rank++) {
            model_t model;
            memory_source_t source = {0};
            fail_t fail = {0};
            model_options_t options = options_of(rank, n, DTYPE_BF16);
            assert_int_equal(load(&model, &source, &config, &options, 1, &fail), 0);
            elements += source.elements;
            copies += plan_count(model_share(&model)->kv_heads);
            model_close(&model);
        }
        size_t norms = (2 * config.num_hidden_layers + 1) * config.hidden_size;
        copies -= config.num_key_value_heads;
        size_t kv_head = 2 * config.num_hidden_layers * config.head_dim * (config.hidden_size + 1);
        alone = n == 1 ? elements : alone;
        assert_int_equal(elements, alone + (n - 1) * norms + copies * kv_head);
    }
}

static void a_tied_head_is_the_embedding(void **state)
{
    (void)state;
    model_t model;
    memory_source_t source = {.absent = "lm_head"};
    fail_t fail = {0};
    config_t tied = config;
    tied.tie_word_embeddings = true;
    model_options_t options = options_of(0, 1, DTYPE_BF16);
    assert_int_equal(load(&model, &source, &tied, &options, 1, &fail), 0);
    assert_ptr_equal(model_lm_head(&model), &model.outside.of[WEIGHT_EMBEDDING].matrix);
    assert_null(model.outside.of[WEIGHT_LM_HEAD].matrix.panels);
    model_close(&model);
}

/* Two ranks with the same share pack a part each, here one after the other. */
static void sharers_pack_one_copy_together(void **state)
{
    (void)state;
    model_options_t options = options_of(1, 2, DTYPE_BF16);
    options.digests = true;
    model_t models[3];
    fail_t fail = {0};
    memory_source_t whole = {0}, parts[2];
    memset(parts, 0, sizeof parts);
    assert_int_equal(load(&models[2], &whole, &config, &options, 1, &fail), 0);
    size_t bytes = model_shared_bytes(&models[2].plan, 1);
    options.shared = memory_alloc(bytes, "shared", &fail);
    options.n_sharers = 2;
    for (size_t i = 0; i < 2; i++) {
        options.sharer = i;
        assert_int_equal(load(&models[i], &parts[i], &config, &options, 2, &fail), 0);
        assert_true(parts[i].elements < whole.elements);
    }
    check_layer_0(&models[0]);
    check_layer_0(&models[1]);
    assert_int_equal(
        models[0].matrices_digest + models[1].matrices_digest, models[2].matrices_digest);
    assert_int_equal(models[0].vectors_digest, models[2].vectors_digest);
    for (size_t i = 0; i < 3; i++)
        model_close(&models[i]);
    memory_free(options.shared, bytes);
}

/* Of all ranks together. */
static uint64_t digest_of(size_t n_ranks, const char *changed)
{
    uint64_t sum = 0;
    for (size_t rank = 0; rank < n_ranks; rank++) {
        model_t model;
        memory_source_t source = {.changed = changed};
        fail_t fail = {0};
        model_options_t options = options_of(rank, n_ranks, DTYPE_BF16);
        options.digests = true;
        assert_int_equal(load(&model, &source, &config, &options, 2, &fail), 0);
        sum += model.vectors_digest + model.matrices_digest;
        model_close(&model);
    }
    return sum;
}

static void the_digest_of_weights_is_the_same_at_any_number_of_ranks(void **state)
{
    static const char *const changed[] = {"lm_head", "embed", "1.self_attn.k_proj.weight",
        "0.self_attn.v_proj.bias", "down", "model.norm"};
    (void)state;
    uint64_t alone = digest_of(1, NULL);
    for (size_t n = 2; n <= MAX_RANKS; n++)
        assert_int_equal(digest_of(n, NULL), alone);
    for (size_t i = 0; i < sizeof changed / sizeof *changed; i++)
        for (size_t n = 1; n <= 3; n += 2) {
            assert_int_not_equal(digest_of(n, changed[i]), alone);
            assert_int_equal(digest_of(n, changed[i]), digest_of(1, changed[i]));
        }
}

static void expect_failure(memory_source_t *source, int status, const char *words)
{
    for (size_t threads = 1; threads <= 3; threads += 2) {
        model_t model;
        fail_t fail = {0};
        model_options_t options = options_of(0, 2, DTYPE_F32);
        assert_int_equal(load(&model, source, &config, &options, threads, &fail), status);
        assert_non_null(strstr(fail.message, words));
        assert_null(model.layers);
        assert_null(model.plan.shares);
    }
}

static void a_tensor_that_lacks_or_cannot_be_read_is_named(void **state)
{
    (void)state;
    static const char *const names[] = {"layers.1.mlp.up_proj.weight",
        "layers.1.self_attn.k_proj.bias", "model.norm.weight", "embed_tokens", "lm_head"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        expect_failure(&(memory_source_t){.absent = names[i]}, FAIL_MODEL, names[i]);
        expect_failure(
            &(memory_source_t){.absent = names[i], .fails_reading = true}, FAIL_FILE, names[i]);
    }
}

static void no_allocation_that_fails_is_missed(void **state)
{
    (void)state;
    size_t n_failed = 0;
    for (size_t nth = 1;; nth++, n_failed++) {
        model_t model;
        memory_source_t source = {0};
        fail_t fail = {0};
        model_options_t options = options_of(0, 1, DTYPE_BF16);
        memory_fail_nth(nth);
        int status = load(&model, &source, &config, &options, 1, &fail);
        memory_fail_nth(0);
        if (status == 0) {
            model_close(&model);
            break;
        }
        assert_int_equal(status, FAIL_MEMORY);
        assert_null(model.layers);
    }
    /* 5 vectors a layer, the last norm, all matrices. */
    assert_true(n_failed > 5 * config.num_hidden_layers + 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_has_its_rows_at_any_number_of_ranks),
        cmocka_unit_test(ranks_read_what_they_own_and_no_more),
        cmocka_unit_test(a_tied_head_is_the_embedding),
        cmocka_unit_test(sharers_pack_one_copy_together),
        cmocka_unit_test(the_digest_of_weights_is_the_same_at_any_number_of_ranks),
        cmocka_unit_test(a_tensor_that_lacks_or_cannot_be_read_is_named),
        cmocka_unit_test(no_allocation_that_fails_is_missed),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
