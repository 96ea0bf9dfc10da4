/* Mixtures of experts on one rank, without MPI: near plain double precision, and the same bits however
 * rows are put together and dealt out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/forward_orders.h"

/* The second of two layers is dense. Columns and outputs that end in the midst of a panel. */
static config_t small_mixture(void)
{
    config_t c = forward_small;
    c.arch = &arch_qwen3_moe;
    c.parts = ARCH_QK_NORM;
    c.hidden_size = 72;
    c.num_hidden_layers = c.max_window_layers = 2;
    c.n_experts = 11;
    c.n_experts_per_token = 3;
    c.expert_intermediate_size = 40;
    c.norm_topk_prob = true;
    c.sparse_layers[0] = 1;
    return c;
}

/* Sums of more than 1,024 inputs, of which a row alone has other leaves. */
static config_t wide_mixture(void)
{
    config_t c = small_mixture();
    c.hidden_size = 1040;
    c.num_hidden_layers = c.max_window_layers = 1;
    c.n_experts = 7;
    c.n_experts_per_token = 2;
    return c;
}

static void open_case(forward_fixture_t *f, const forward_case_t *c, const config_t *config)
{
    forward_fixture_open(f, c, config);
    forward_fixture_add(f, 1, 3);
    forward_fixture_add(f, 9, 2);
    forward_fixture_add(f, 70, 2);
    forward_fixture_add(f, 4, 0);
}

static void open_and_run(forward_fixture_t *f, const forward_case_t *c, const config_t *config)
{
    open_case(f, c, config);
    forward_fixture_run(f, 0, f->n_prompts, FORWARD_MAX_CONTEXT);
}

static void experts_are_near_plain_double_precision(void **state)
{
    (void)state;
    const double bounds[N_ORDERS] = {[CASE_F32] = 0x1p-16, [CASE_F64] = 0x1p-44};
    config_t not_normalised = small_mixture(), all_chosen = small_mixture();
    config_t configs[] = {small_mixture(), wide_mixture(), not_normalised, all_chosen};
    configs[2].norm_topk_prob = false;
    configs[3].n_experts_per_token = configs[3].n_experts;
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++)
        for (size_t o = CASE_F32; o <= CASE_F64; o++) {
            forward_fixture_t f;
            forward_case_t c = forward_order_case(o);
            open_and_run(&f, &c, &configs[i]);
            for (size_t p = 0; p < f.n_prompts; p++)
                if (!(forward_fixture_error(&f, p) <= bounds[o]))
                    fail_msg("%s, shape %zu: %g from the truth", orders[o].name, i,
                        forward_fixture_error(&f, p));
            forward_fixture_close(&f);
        }
}

static void chunks_and_neighbours_change_no_bit(void **state)
{
    (void)state;
    config_t config = small_mixture();
    for (size_t o = 0; o < N_ORDERS; o++) {
        forward_fixture_t together, alone;
        forward_case_t c = forward_order_case(o);
        open_and_run(&together, &c, &config);
        open_case(&alone, &c, &config);
        for (size_t i = 0; i < alone.n_prompts; i++)
            forward_fixture_run(&alone, i, i + 1, 20);
        forward_check_bits(&alone, &together, o, "alone and in chunks");
        forward_fixture_close(&together);
        forward_fixture_close(&alone);
    }
}

static void neighbours_change_no_bit_where_experts_depend_on_their_prompt(void **state)
{
    (void)state;
    config_t config = wide_mixture();
    for (size_t o = 0; o < N_ORDERS; o++) {
        forward_fixture_t together, alone;
        forward_case_t c = forward_order_case(o);
        open_and_run(&together, &c, &config);
        open_case(&alone, &c, &config);
        for (size_t i = 0; i < alone.n_prompts; i++)
            forward_fixture_run(&alone, i, i + 1, FORWARD_MAX_CONTEXT);
        forward_check_bits(&alone, &together, o, "alone");
        forward_fixture_close(&together);
        forward_fixture_close(&alone);
    }
}

static bool last_tokens(size_t token)
{
    return token == 8 || token == 69;
}

/* The experts of the last layer count choices of rows whose logits nobody wants. */
static void rows_without_logits_still_choose_experts(void **state)
{
    (void)state;
    config_t config = wide_mixture();
    forward_fixture_t all, some;
    forward_case_t c = forward_order_case(CASE_EAGER);
    open_and_run(&all, &c, &config);
    open_case(&some, &c, &config);
    some.wants = last_tokens;
    forward_fixture_run(&some, 0, some.n_prompts, FORWARD_MAX_CONTEXT);
    size_t row = config.vocab_size * some.rank.model.kernels.accumulator_bytes;
    for (size_t p = 1; p <= 2; p++) {
        size_t at = (p == 1 ? 8 : 69) * row;
        assert_memory_equal(all.prompts[p].logits + at, some.prompts[p].logits + at, row);
    }
    forward_fixture_close(&all);
    forward_fixture_close(&some);
}

static void threads_and_instruction_sets_change_no_bit(void **state)
{
    (void)state;
    config_t configs[] = {small_mixture(), wide_mixture()};
    for (size_t i = 0; i < 2; i++)
        for (size_t o = 0; o < N_ORDERS; o++) {
            forward_fixture_t expected, f;
            forward_case_t c = forward_order_case(o);
            open_and_run(&expected, &c, &configs[i]);
            for (size_t l = 0; l < ISA_LEVELS; l++) {
                c.isa = isa_of_level(l);
                c.threads = 1 + l;
                if (!isa_has(isa_detect(), c.isa))
                    continue;
                open_and_run(&f, &c, &configs[i]);
                forward_check_bits(&f, &expected, o, isa_name(c.isa));
                forward_fixture_close(&f);
            }
            forward_fixture_close(&expected);
        }
}

static void only_long_sums_in_pytorchs_order_want_whole_prompts(void **state)
{
    (void)state;
    const config_t small = small_mixture(), wide = wide_mixture(), none = forward_small;
    assert_true(forward_wants_whole_prompts(&wide, ORDER_TORCH, DOT_CHAIN, DTYPE_BF16));
    assert_false(forward_wants_whole_prompts(&wide, ORDER_TORCH, DOT_AMX, DTYPE_BF16));
    assert_false(forward_wants_whole_prompts(&wide, ORDER_UNIFORM, DOT_CHAIN, DTYPE_BF16));
    assert_false(forward_wants_whole_prompts(&wide, ORDER_TORCH_AVX2, DOT_FOLD, DTYPE_BF16));
    assert_false(forward_wants_whole_prompts(&wide, ORDER_TORCH, DOT_CHAIN, DTYPE_F32));
    assert_false(forward_wants_whole_prompts(&small, ORDER_TORCH, DOT_CHAIN, DTYPE_BF16));
    assert_false(forward_wants_whole_prompts(&none, ORDER_TORCH, DOT_CHAIN, DTYPE_BF16));
}

static void steps_count_the_experts_that_they_read(void **state)
{
    (void)state;
    config_t config = wide_mixture();
    forward_fixture_t f;
    forward_case_t c = forward_order_case(CASE_EAGER);
    forward_fixture_open(&f, &c, &config);
    forward_fixture_add(&f, 1, 4);
    forward_fixture_run(&f, 0, 1, 1);
    assert_int_equal(forward_experts(f.rank.forward), 5 * config.n_experts_per_token);
    forward_fixture_close(&f);
}

/* ---- Taps ------------------------------------------------------------------------------------ */

typedef struct counts {
    atomic_size_t elements[2][COMPONENT_COUNT];
} counts_t;

static void count_part(void *context, const tap_part_t *part)
{
    counts_t *counts = context;
    atomic_fetch_add(
        &counts->elements[part->layer][part->component], part->n_rows * part->n_columns);
}

static void a_tap_sees_every_element_of_experts_once(void **state)
{
    (void)state;
    config_t config = small_mixture();
    for (size_t o = 0; o < N_ORDERS; o++) {
        forward_fixture_t without, with;
        forward_case_t c = forward_order_case(o);
        counts_t counts = {0};
        const tap_t tap = {.context = &counts, .part = count_part};
        fail_t fail = {0};
        c.threads = 2;
        open_and_run(&without, &c, &config);
        open_case(&with, &c, &config);
        assert_int_equal(forward_set_tap(with.rank.forward, &tap, &fail), 0);
        forward_fixture_run(&with, 0, with.n_prompts, FORWARD_MAX_CONTEXT);
        forward_check_bits(&with, &without, o, "with a tap");
        size_t rows = 0;
        for (size_t i = 0; i < with.n_prompts; i++)
            rows += with.prompts[i].n_all;
        const plan_model_t sizes = config_plan_model(&config, c.mode);
        for (size_t l = 0; l < 2; l++)
            for (component_t i = COMPONENT_GATE_PROJ; i <= COMPONENT_LAYER_OUTPUT; i++) {
                size_t width = plan_dim(&sizes, component_info(i)->width);
                size_t expected = rows * component_rows(&config, i) * width;
                if (counts.elements[l][i] != (component_is_in(&config, i, l) ? expected : 0))
                    fail_msg("%s, layer %zu, %s: %zu elements", orders[o].name, l,
                        component_name(i), (size_t)counts.elements[l][i]);
            }
        forward_fixture_close(&without);
        forward_fixture_close(&with);
    }
}

static void sums_over_ranks_are_refused(void **state)
{
    (void)state;
    config_t config = small_mixture();
    forward_fixture_t f;
    forward_case_t c = forward_order_case(CASE_EAGER);
    forward_fixture_open(&f, &c, &config);
    f.rank.model.plan.combine = PLAN_REDUCE;
    const forward_options_t options = {.max_rows = 8, .max_logits = 8, .max_context = 64};
    forward_t *forward;
    fail_t fail = {0};
    assert_int_equal(
        forward_open(&forward, &f.rank.model, &f.rank.cache, f.rank.team, NULL, &options, &fail),
        FAIL_USAGE);
    assert_non_null(strstr(fail.message, "--combine reduce: expected a model without experts"));
    f.rank.model.plan.combine = PLAN_GATHER;
    forward_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_are_near_plain_double_precision),
        cmocka_unit_test(chunks_and_neighbours_change_no_bit),
        cmocka_unit_test(neighbours_change_no_bit_where_experts_depend_on_their_prompt),
        cmocka_unit_test(rows_without_logits_still_choose_experts),
        cmocka_unit_test(threads_and_instruction_sets_change_no_bit),
        cmocka_unit_test(only_long_sums_in_pytorchs_order_want_whole_prompts),
        cmocka_unit_test(steps_count_the_experts_that_they_read),
        cmocka_unit_test(a_tap_sees_every_element_of_experts_once),
        cmocka_unit_test(sums_over_ranks_are_refused),
    };
    return cmocka_run_group_tests_name("mixture", tests, NULL, NULL);
}
