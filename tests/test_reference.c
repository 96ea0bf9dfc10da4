/* Names of a reference's tensors, lists of layers, and what is said of its text prompts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/verify/reference.h"
#include "engine/verify/verify_checks.h"

static void every_place_has_a_name_that_leads_back_to_it(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < KIND_COUNT; kind++)
        for (int bits = 0; bits < 4; bits++) {
            reference_place_t place = {.attention = bits & 1 ? ATTENTION_SDPA : ATTENTION_EAGER,
                .prompt = 12,
                .decode = bits & 2,
                .layer = reference_kind_has_layer(kind) ? 7 : 0,
                .kind = kind};
            reference_place_t back;
            char name[REFERENCE_NAME_BYTES];
            reference_name(&place, name);
            assert_true(reference_parse_name(name, &back));
            assert_int_equal(back.attention, place.attention);
            assert_int_equal(back.prompt, 12);
            assert_int_equal(back.decode, place.decode);
            assert_int_equal(back.layer, place.layer);
            assert_int_equal(back.kind, kind);
        }
}

static void names_of_another_scheme_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"", "prompt", "prompt.", "prompt.x.logits",
        "prompt.0.layer.q_proj", "prompt.0.layer.1.logits", "prompt.0.q_proj", "prompt.0.ids",
        "prompt.0.layer.1.q_projection", "model.layers.0.self_attn.q_proj.weight", "prompt.0.text"};
    reference_place_t place;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (reference_parse_name(names[i], &place))
            fail_msg("%s was taken for a component", names[i]);
}

static void names_are_those_of_the_format(void **state)
{
    (void)state;
    char name[REFERENCE_NAME_BYTES];
    reference_place_t place = {ATTENTION_SDPA, 3, true, 5, COMPONENT_K_ROPE};
    reference_name(&place, name);
    assert_string_equal(name, "prompt.3.sdpa.decode.layer.5.k_rope");
    place = (reference_place_t){ATTENTION_EAGER, 0, false, 5, KIND_STEPWISE_LOGITS};
    reference_name(&place, name);
    assert_string_equal(name, "prompt.0.stepwise_logits");
}

static void the_order_is_that_of_computation(void **state)
{
    (void)state;
    enum { N_LAYERS = 2 };
    const reference_place_t places[] = {{.kind = COMPONENT_EMBEDDING_OUTPUT},
        {.kind = COMPONENT_NORMALIZED_INPUT}, {.kind = COMPONENT_LAYER_OUTPUT},
        {.layer = 1, .kind = COMPONENT_NORMALIZED_INPUT}, {.layer = 1, .kind = COMPONENT_O_PROJ},
        {.kind = COMPONENT_FINAL_NORM}, {.kind = COMPONENT_LOGITS}};
    for (size_t i = 1; i < sizeof places / sizeof *places; i++)
        assert_true(
            reference_order(&places[i - 1], N_LAYERS) < reference_order(&places[i], N_LAYERS));
}

static void lists_of_layers_are_parsed_or_refused(void **state)
{
    (void)state;
    bool layers[8];
    fail_t fail = {0};
    assert_int_equal(reference_parse_layers("0,5-7", "--layers", 8, layers, &fail), 0);
    static const bool expected[8] = {true, false, false, false, false, true, true, true};
    assert_memory_equal(layers, expected, sizeof expected);
    static const char *const bad[] = {"", "8", "3-2", "1,", "a", "1-", "-1", "1;2"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fail = (fail_t){0};
        if (reference_parse_layers(bad[i], "--layers", 8, layers, &fail) != FAIL_USAGE)
            fail_msg("\"%s\" was taken for a list of layers", bad[i]);
        assert_non_null(strstr(fail.message, "--layers"));
    }
}

static void the_demo_reference_opens_with_its_prompts(void **state)
{
    (void)state;
    reference_t reference;
    fail_t fail = {0};
    static const char path[] = CHOIR_SOURCE_DIR "/tests/golden/demo-reference.safetensors";
    if (reference_open(&reference, path, &fail) != 0)
        fail_msg("%s", fail.message);
    assert_int_equal(reference.n_prompts, 3);
    assert_int_equal(reference.dtype, DTYPE_BF16);
    assert_int_equal(reference.prompts[1].n_ids, 2);
    assert_int_equal(reference.prompts[1].ids[0], 1941);
    assert_null(reference.prompts[1].text);
    assert_int_equal(reference.prompts[2].n_new[ATTENTION_SDPA], 2);
    assert_memory_equal(reference.prompts[2].text, "Mia has", 7);
    assert_true(reference_has_layer(&reference, 5));
    assert_false(reference_has_layer(&reference, 1));
    assert_true(reference_has_attention(&reference, ATTENTION_SDPA));
    assert_true(reference_has_run(&reference, "stepwise"));
    assert_false(reference_has_run(&reference, "step"));
    reference_close(&reference);
}

static void a_model_is_no_reference(void **state)
{
    (void)state;
    reference_t reference;
    fail_t fail = {0};
    static const char path[] = CHOIR_SOURCE_DIR "/configs/demo/model.safetensors";
    assert_int_equal(reference_open(&reference, path, &fail), FAIL_FORMAT);
    assert_non_null(strstr(fail.message, "expected a reference"));
}

/* ---- Text prompts ------------------------------------------------------------------------------ */

#define LLAMA CHOIR_SOURCE_DIR "/tests/golden/tokenizer/llama3-small"
#define BOS 587
#define HELLO 580, 220, 582, 19 /* Hello 1234 */

typedef struct text_case {
    const char *text;
    bool is_whole;
    int32_t ids[8];
    size_t n_ids;
    const char *check, *detail; /* of the check that fails; NULL: none does */
} text_case_t;

static const char *failed_detail(const report_t *report, const char *name)
{
    size_t i;
    json_t *check;
    json_array_foreach (report->checks, i, check)
        if (strcmp(json_string_value(json_object_get(check, "status")), "FAIL") == 0 &&
            strcmp(json_string_value(json_object_get(check, "check")), name) == 0)
            return json_string_value(json_object_get(check, "detail"));
    return NULL;
}

static void check_texts(const char *directory, const text_case_t *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const text_case_t *c = &cases[i];
        reference_prompt_t prompt = {.ids = (int32_t *)c->ids,
            .n_ids = c->n_ids,
            .text = (char *)c->text,
            .text_bytes = strlen(c->text),
            .is_whole = c->is_whole};
        reference_t reference = {.n_prompts = 1, .prompts = &prompt};
        report_t *report;
        fail_t fail = {0};
        assert_int_equal(report_open(&report, 0, &fail), 0);
        assert_int_equal(check_tokenization(&reference, directory, report, &fail), 0);
        const char *detail = failed_detail(report, c->check == NULL ? "tokenization" : c->check);
        if (c->check == NULL ? detail != NULL : detail == NULL || strstr(detail, c->detail) == NULL)
            fail_msg("%s, case %zu: %s", directory, i, detail == NULL ? "passes" : detail);
        if (strcmp(c->check == NULL ? "" : c->check, "BOS") != 0)
            assert_null(failed_detail(report, "BOS"));
        report_close(report);
    }
}

static void a_token_that_begins_a_prompt_twice_is_named(void **state)
{
    (void)state;
    static const text_case_t cases[] = {
        {"Hello 1234", false, {HELLO}, 4, NULL, NULL},
        {"Hello 1234", true, {BOS, HELLO}, 5, NULL, NULL},
        {"<|begin_of_text|>Hello 1234", false, {BOS, HELLO}, 5, NULL, NULL},
        {"Hello 1234", true, {HELLO}, 4, "tokenization", "token 0: expected 580, got 587"},
        {"Hello 1234", false, {BOS, HELLO}, 5, "tokenization", "token 0: expected 587, got 580"},
        /* What a template wrote, tokenized as a text by itself. */
        {"<|begin_of_text|>Hello 1234", true, {BOS, BOS, HELLO}, 6, "BOS",
            "token 587 once at the beginning, got 2 of it, the reference has 2"},
        {"<|begin_of_text|>Hello 1234", true, {BOS, HELLO}, 5, "BOS",
            "got 2 of it, the reference has 1"},
        {"<|begin_of_text|>Hello 1234", false, {BOS, BOS, HELLO}, 6, "BOS",
            "got 1 of it, the reference has 2"},
    };
    check_texts(LLAMA, cases, sizeof cases / sizeof *cases);
}

/* A defect of the tokenizer itself: what it puts in front of a text is there twice. */
static void a_tokenizer_that_adds_it_twice_is_named(void **state)
{
    (void)state;
    char directory[] = "/tmp/choir-bos-XXXXXX", path[64];
    assert_non_null(mkdtemp(directory));
    json_t *root = json_load_file(LLAMA "/tokenizer.json", 0, NULL);
    json_t *parts = json_object_get(json_object_get(root, "post_processor"), "processors");
    json_t *single = json_object_get(json_array_get(parts, 1), "single");
    json_array_insert(single, 0, json_array_get(single, 0));
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    assert_int_equal(json_dump_file(root, path, JSON_COMPACT), 0);
    json_decref(root);
    static const text_case_t cases[] = {
        {"Hello 1234", false, {HELLO}, 4, NULL, NULL},
        {"Hello 1234", true, {BOS, HELLO}, 5, "BOS",
            "prompt 0: expected token 587 once at the beginning, got 2 of it"},
    };
    check_texts(directory, cases, sizeof cases / sizeof *cases);
    unlink(path);
    rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_place_has_a_name_that_leads_back_to_it),
        cmocka_unit_test(names_of_another_scheme_are_refused),
        cmocka_unit_test(names_are_those_of_the_format),
        cmocka_unit_test(the_order_is_that_of_computation),
        cmocka_unit_test(lists_of_layers_are_parsed_or_refused),
        cmocka_unit_test(the_demo_reference_opens_with_its_prompts),
        cmocka_unit_test(a_model_is_no_reference),
        cmocka_unit_test(a_token_that_begins_a_prompt_twice_is_named),
        cmocka_unit_test(a_tokenizer_that_adds_it_twice_is_named),
    };
    return cmocka_run_group_tests_name("reference", tests, NULL, NULL);
}
