/* The forward pass of one layer on one rank, without MPI: near plain double precision in every
 * order, and the same bits however rows are cut, put together, and dealt out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/memory.h"
#include "tests/forward_orders.h"

static void open_case(forward_fixture_t *f, const forward_case_t *c, const config_t *config)
{
    forward_fixture_open(f, c, config);
    forward_fixture_add(f, 1, 5);
    forward_fixture_add(f, 9, 3);
    forward_fixture_add(f, 70, 4);
    forward_fixture_add(f, 66, 0);
}

/* Runs all prompts at once, whole. */
static void open_and_run(forward_fixture_t *f, const forward_case_t *c, const config_t *config)
{
    open_case(f, c, config);
    forward_fixture_run(f, 0, f->n_prompts, FORWARD_MAX_CONTEXT);
}

static void check_errors(const forward_fixture_t *f, size_t order, const char *how)
{
    for (size_t i = 0; i < f->n_prompts; i++) {
        double error = forward_fixture_error(f, i);
        if (!(error <= orders[order].logits_bound))
            fail_msg("%s, %s, prompt of %zu tokens: %g from double precision", orders[order].name,
                how, f->prompts[i].n_prompt, error);
    }
}

static void every_order_is_near_plain_double_precision(void **state)
{
    (void)state;
    for (size_t o = 0; o < N_ORDERS; o++) {
        forward_fixture_t f;
        forward_case_t c = forward_order_case(o);
        open_and_run(&f, &c, &forward_small);
        check_errors(&f, o, "one layer");
        forward_fixture_close(&f);
    }
}

static void every_shape_is_near_plain_double_precision(void **state)
{
    (void)state;
    config_t tied = forward_small, windowed = forward_small, layers = forward_small;
    config_t stretched = forward_small, odd = forward_small, qwen3 = forward_small;
    config_t qwen3_biased, llama;
    tied.tie_word_embeddings = true;
    windowed.use_sliding_window = true;
    windowed.sliding_window = 5;
    windowed.max_window_layers = 0;
    layers.num_hidden_layers = layers.max_window_layers = 3;
    stretched.rope.type = ROPE_LINEAR;
    stretched.rope.factor = 4;
    odd.hidden_size = 40;
    odd.intermediate_size = 65;
    odd.num_attention_heads = odd.num_key_value_heads = 3;
    odd.head_dim = 6;
    qwen3.arch = &arch_qwen3;
    qwen3.parts = ARCH_QK_NORM;
    qwen3_biased = qwen3;
    qwen3_biased.parts |= ARCH_QKV_BIAS | ARCH_O_BIAS;
    llama = forward_small;
    llama.arch = &arch_llama;
    llama.parts |= ARCH_O_BIAS | ARCH_MLP_BIAS;
    const config_t *const configs[] = {
        &tied, &windowed, &layers, &stretched, &odd, &qwen3, &qwen3_biased, &llama};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++)
        for (size_t o = 0; o < N_ORDERS; o++) {
            if (orders[o].attention != ATTENTION_EAGER)
                continue;
            forward_fixture_t f;
            forward_case_t c = forward_order_case(o);
            char how[16];
            snprintf(how, sizeof how, "shape %zu", i);
            open_and_run(&f, &c, configs[i]);
            check_errors(&f, o, how);
            forward_fixture_close(&f);
        }
}

static void sums_of_heads_and_columns_are_near_too(void **state)
{
    (void)state;
    for (size_t o = CASE_EAGER_AVX2; o < N_ORDERS; o++) {
        forward_fixture_t f;
        forward_case_t c = forward_order_case(o);
        c.combine = PLAN_REDUCE;
        open_and_run(&f, &c, &forward_small);
        check_errors(&f, o, "--combine reduce");
        forward_fixture_close(&f);
    }
}

static void a_prompt_in_chunks_has_the_same_bits(void **state)
{
    static const size_t chunks[] = {1, 7, 33, 64};
    (void)state;
    for (size_t o = 0; o < N_ORDERS; o++) {
        forward_fixture_t whole, cut;
        forward_case_t c = forward_order_case(o);
        open_and_run(&whole, &c, &forward_small);
        open_case(&cut, &c, &forward_small);
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            forward_fixture_run(&cut, 0, cut.n_prompts, chunks[i]);
            forward_check_bits(&cut, &whole, o, "in chunks");
        }
        forward_fixture_close(&whole);
        forward_fixture_close(&cut);
    }
}

static void a_batch_has_the_bits_of_its_sequences_alone(void **state)
{
    (void)state;
    for (size_t o = 0; o < N_ORDERS; o++) {
        forward_fixture_t together, alone;
        forward_case_t c = forward_order_case(o);
        open_and_run(&together, &c, &forward_small);
        open_case(&alone, &c, &forward_small);
        for (size_t i = 0; i < alone.n_prompts; i++)
            forward_fixture_run(&alone, i, i + 1, 20);
        forward_check_bits(&alone, &together, o, "alone");
        forward_fixture_close(&together);
        forward_fixture_close(&alone);
    }
}

static void threads_and_instruction_sets_change_no_bit(void **state)
{
    (void)state;
    for (size_t o = 0; o < N_ORDERS; o++) {
        forward_fixture_t expected, f;
        forward_case_t c = forward_order_case(o);
        open_and_run(&expected, &c, &forward_small);
        for (size_t threads = 2; threads <= 5; threads++) {
            c.threads = threads;
            open_and_run(&f, &c, &forward_small);
            forward_check_bits(&f, &expected, o, "with threads");
            forward_fixture_close(&f);
        }
        for (size_t i = 0; i < ISA_LEVELS; i++) {
            c.isa = isa_of_level(i);
            if (!isa_has(isa_detect(), c.isa))
                continue;
            open_and_run(&f, &c, &forward_small);
            forward_check_bits(&f, &expected, o, isa_name(c.isa));
            forward_fixture_close(&f);
        }
        forward_fixture_close(&expected);
    }
}

static void decoding_has_the_bits_of_a_prefill_in_uniform_order(void **state)
{
    (void)state;
    forward_fixture_t prefill, decode;
    forward_case_t c = forward_order_case(CASE_UNIFORM);
    forward_fixture_open(&prefill, &c, &forward_small);
    forward_fixture_add(&prefill, 80, 0);
    forward_fixture_run(&prefill, 0, 1, FORWARD_MAX_CONTEXT);
    forward_fixture_open(&decode, &c, &forward_small);
    forward_fixture_add(&decode, 1, 79);
    forward_fixture_run(&decode, 0, 1, 1);
    forward_check_bits(&decode, &prefill, 1, "token by token");
    forward_fixture_close(&prefill);
    forward_fixture_close(&decode);
}

/* ---- Rows whose logits nobody wants ---------------------------------------------------------- */

static bool some_tokens(size_t token)
{
    return token % 5 == 3;
}

static bool no_tokens(size_t token)
{
    (void)token;
    return false;
}

static bool late_tokens(size_t token)
{
    return token >= 64;
}

/* What is left out of the last layer is in the cache nevertheless: later rows need it. */
static void logits_of_some_rows_are_those_of_all(void **state)
{
    bool (*const wants[])(size_t) = {some_tokens, late_tokens, no_tokens};
    (void)state;
    config_t config = forward_small;
    config.num_hidden_layers = config.max_window_layers = 2;
    for (size_t o = 0; o < N_ORDERS; o++) {
        forward_fixture_t all, f;
        forward_case_t c = forward_order_case(o);
        open_and_run(&all, &c, &config);
        size_t row = config.vocab_size * all.rank.model.kernels.accumulator_bytes;
        char *zeros = calloc(1, row);
        for (size_t w = 0; w < sizeof wants / sizeof *wants; w++) {
            open_case(&f, &c, &config);
            f.wants = wants[w];
            forward_fixture_run(&f, 0, f.n_prompts, 30);
            for (size_t i = 0; i < f.n_prompts; i++)
                for (size_t t = 0; t < f.prompts[i].n_all; t++)
                    assert_memory_equal(f.prompts[i].logits + t * row,
                        wants[w](t) ? all.prompts[i].logits + t * row : zeros, row);
            forward_fixture_close(&f);
        }
        free(zeros);
        forward_fixture_close(&all);
    }
}

/* ---- Taps ------------------------------------------------------------------------------------ */

typedef struct counts {
    atomic_size_t elements[COMPONENT_COUNT];
} counts_t;

static void count_part(void *context, const tap_part_t *part)
{
    counts_t *counts = context;
    atomic_fetch_add(&counts->elements[part->component], part->n_rows * part->n_columns);
}

static void a_tap_sees_every_element_once_and_changes_no_bit(void **state)
{
    (void)state;
    for (size_t o = 0; o < N_ORDERS; o++) {
        forward_fixture_t without, with;
        forward_case_t c = forward_order_case(o);
        counts_t counts = {0};
        const tap_t tap = {.context = &counts, .part = count_part};
        fail_t fail = {0};
        c.threads = 2;
        open_and_run(&without, &c, &forward_small);
        open_case(&with, &c, &forward_small);
        assert_int_equal(forward_set_tap(with.rank.forward, &tap, &fail), 0);
        forward_fixture_run(&with, 0, with.n_prompts, FORWARD_MAX_CONTEXT);
        forward_check_bits(&with, &without, o, "with a tap");
        size_t rows = 0, keys = 0;
        for (size_t i = 0; i < with.n_prompts; i++)
            for (size_t t = 0; t < with.prompts[i].n_all; t++, rows++)
                keys += t + 1;
        const config_t *m = &forward_small;
        const plan_model_t sizes = config_plan_model(m, c.mode);
        const size_t weights =
            orders[o].attention == ATTENTION_SDPA ? 0 : keys * m->num_attention_heads;
        for (component_t i = 0; i < COMPONENT_COUNT; i++) {
            size_t width = plan_dim(&sizes, component_info(i)->width);
            size_t expected = component_is_in(m, i, 0) ? rows * component_rows(m, i) * width : 0;
            expected = i == COMPONENT_ATTN_WEIGHTS ? weights : expected;
            if (counts.elements[i] != expected)
                fail_msg("%s, %s: %zu elements, expected %zu", orders[o].name, component_name(i),
                    (size_t)counts.elements[i], expected);
        }
        forward_fixture_close(&without);
        forward_fixture_close(&with);
    }
}

/* A tap that writes something else: what comes after is fed with it. */
static void clear_part(void *context, const tap_part_t *part)
{
    (void)context;
    if (part->component != COMPONENT_FINAL_NORM)
        return;
    for (size_t r = 0; r < part->n_rows; r++)
        memset((uint16_t *)part->values + r * part->stride, 0, part->n_columns * sizeof(uint16_t));
}

static void what_a_tap_writes_is_what_follows_sees(void **state)
{
    (void)state;
    forward_fixture_t f;
    forward_case_t c = forward_order_case(CASE_EAGER);
    const tap_t tap = {.part = clear_part, .refill = clear_part};
    fail_t fail = {0};
    open_case(&f, &c, &forward_small);
    assert_int_equal(forward_set_tap(f.rank.forward, &tap, &fail), 0);
    forward_fixture_run(&f, 0, f.n_prompts, 20);
    for (size_t i = 0; i < f.n_prompts; i++)
        for (size_t v = 0; v < forward_fixture_bytes(&f, i) / sizeof(float); v++)
            assert_true(((const float *)f.prompts[i].logits)[v] == 0);
    forward_fixture_close(&f);
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void refuse(
    forward_fixture_t *f, const forward_options_t *options, int status, const char *word)
{
    forward_t *forward;
    fail_t fail = {0};
    assert_int_equal(
        forward_open(&forward, &f->rank.model, &f->rank.cache, f->rank.team, NULL, options, &fail),
        status);
    assert_null(forward);
    if (strstr(fail.message, word) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", word, fail.message);
}

static void orders_that_are_not_defined_are_refused(void **state)
{
    (void)state;
    forward_fixture_t f;
    forward_case_t c = forward_order_case(CASE_EAGER);
    forward_options_t options = {
        .attention = ATTENTION_SDPA, .max_rows = 8, .max_logits = 8, .max_context = 64};
    forward_fixture_open(&f, &c, &forward_small);
    options.order = ORDER_UNIFORM;
    refuse(&f, &options, FAIL_USAGE, "--order torch and torch-avx2 only");
    options.order = ORDER_TORCH;
    f.rank.model.config.head_dim = 12;
    refuse(&f, &options, FAIL_USAGE, "multiple of 8, found 12");
    assert_int_equal(
        forward_attention(&f.rank.model.config, ORDER_TORCH, ATTENTION_AUTO), ATTENTION_EAGER);
    f.rank.model.config = forward_small;
    assert_int_equal(
        forward_attention(&f.rank.model.config, ORDER_TORCH, ATTENTION_AUTO), ATTENTION_SDPA);
    assert_int_equal(
        forward_attention(&f.rank.model.config, ORDER_UNIFORM, ATTENTION_AUTO), ATTENTION_EAGER);
    forward_fixture_close(&f);
}

static void no_allocation_that_fails_is_missed(void **state)
{
    (void)state;
    forward_fixture_t f;
    forward_case_t c = forward_order_case(CASE_EAGER);
    const forward_options_t options = {.max_rows = 8, .max_logits = 8, .max_context = 64};
    forward_fixture_open(&f, &c, &forward_small);
    size_t n_failed = 0;
    for (size_t nth = 1;; nth++, n_failed++) {
        forward_t *forward;
        fail_t fail = {0};
        memory_fail_nth(nth);
        int status = forward_open(
            &forward, &f.rank.model, &f.rank.cache, f.rank.team, NULL, &options, &fail);
        memory_fail_nth(0);
        if (status == 0) {
            forward_close(forward);
            break;
        }
        assert_int_equal(status, FAIL_MEMORY);
        assert_null(forward);
    }
    /* Activations of this rank, those that are exchanged, a thread's scratch. */
    assert_true(n_failed >= 10);
    forward_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order_is_near_plain_double_precision),
        cmocka_unit_test(every_shape_is_near_plain_double_precision),
        cmocka_unit_test(sums_of_heads_and_columns_are_near_too),
        cmocka_unit_test(a_prompt_in_chunks_has_the_same_bits),
        cmocka_unit_test(a_batch_has_the_bits_of_its_sequences_alone),
        cmocka_unit_test(threads_and_instruction_sets_change_no_bit),
        cmocka_unit_test(decoding_has_the_bits_of_a_prefill_in_uniform_order),
        cmocka_unit_test(logits_of_some_rows_are_those_of_all),
        cmocka_unit_test(a_tap_sees_every_element_once_and_changes_no_bit),
        cmocka_unit_test(what_a_tap_writes_is_what_follows_sees),
        cmocka_unit_test(orders_that_are_not_defined_are_refused),
        cmocka_unit_test(no_allocation_that_fails_is_missed),
    };
    return cmocka_run_group_tests_name("forward", tests, NULL, NULL);
}
