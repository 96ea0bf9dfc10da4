/* The message for each bad config.json and generation_config.json. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/config_fixture.h"

static void expect_failure(int status, const char *part1, const char *part2, const char *part3)
{
    const char *parts[] = {part1, part2, part3};
    config_t config;
    fail_t fail = {0};
    assert_int_equal(load_directory(&config, &fail), status);
    for (size_t i = 0; i < 3; i++)
        if (strstr(fail.message, parts[i]) == NULL)
            fail_msg("expected \"%s\" in \"%s\"", parts[i], fail.message);
    assert_null(strchr(fail.message, '\n'));
}

typedef struct bad_config {
    const char *name; /* of the case */
    const char *changes;
    int status;
    const char *object, *expected, *found;
} bad_config_t;

static const bad_config_t bad_configs[] = {
    {"another_architecture_is_refused", "{\"architectures\": [\"FalconForCausalLM\"]}", FAIL_MODEL,
        "config.json: architectures", "Qwen2ForCausalLM", "found FalconForCausalLM"},
    {"no_architecture_is_refused", "{\"architectures\": \"ABSENT\"}", FAIL_MODEL,
        "config.json: architectures", "Qwen2ForCausalLM", "found none"},
    {"another_model_type_is_refused", "{\"model_type\": \"falcon\"}", FAIL_MODEL,
        "config.json: model_type", "(llama, mistral, qwen2, qwen3, qwen3_moe)", "found falcon"},
    {"more_experts_for_a_token_than_there_are_is_refused",
        "{\"model_type\": \"qwen3_moe\", \"num_experts\": 4, \"num_experts_per_tok\": 5}",
        FAIL_MODEL, "config.json: num_experts_per_tok", "at most num_experts 4", "found 5"},
    {"no_experts_for_a_token_is_refused",
        "{\"model_type\": \"qwen3_moe\", \"num_experts_per_tok\": 0}", FAIL_FORMAT,
        "config.json: num_experts_per_tok", "expected 1 to 32", "found 0"},
    {"sparse_step_of_0_is_refused", "{\"model_type\": \"qwen3_moe\", \"decoder_sparse_step\": 0}",
        FAIL_FORMAT, "config.json: decoder_sparse_step", "expected 1 to 1000", "found 0"},
    {"mlp_only_layers_as_text_is_refused",
        "{\"model_type\": \"qwen3_moe\", \"mlp_only_layers\": \"0\"}", FAIL_FORMAT,
        "config.json: mlp_only_layers", "expected an array of layers", "found something else"},
    {"nested_text_config_is_refused", "{\"text_config\": {\"hidden_size\": 8}}", FAIL_MODEL,
        "config.json: text_config", "beside model_type", "inside of it"},
    {"another_activation_is_refused", "{\"hidden_act\": \"gelu\"}", FAIL_MODEL,
        "config.json: hidden_act", "silu", "found gelu"},
    {"another_quantization_is_refused",
        "{\"quantization_config\": {\"quant_method\": \"bitsandbytes\"}}", FAIL_MODEL,
        "config.json: quantization_config: quant_method",
        "gptq, awq, compressed-tensors, fp8 or auto-round", "found bitsandbytes"},
    {"three_bits_are_refused",
        "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 3, \"group_size\": 128}}",
        FAIL_MODEL, "quantization_config: bits", "expected 4 or 8", "found 3"},
    {"three_bits_of_auto_round_are_refused",
        "{\"quantization_config\": {\"quant_method\": \"auto-round\", \"packing_format\": \"auto_round:auto_gptq\", \"bits\": 3, \"group_size\": 128}}",
        FAIL_MODEL, "quantization_config: bits", "expected 4", "found 3"},
    {"three_bits_of_compressed_tensors_are_refused",
        "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
        "\"config_groups\": {\"a\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 3, \"type\": \"int\"}}}}}",
        FAIL_MODEL, "num_bits", "expected 4 or 8", "found 3"},
    {"eight_bits_of_awq_are_refused",
        "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 8, \"group_size\": 128}}",
        FAIL_MODEL, "quantization_config: bits", "expected 4", "found 8"},
    {"missing_bits_are_refused",
        "{\"quantization_config\": {\"quant_method\": \"gptq\", \"group_size\": 128}}", FAIL_FORMAT,
        "quantization_config", "bits", "found nothing"},
    {"an_absurd_group_is_refused",
        "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 0}}",
        FAIL_FORMAT, "quantization_config: group_size", "expected 8 to 1048576", "found 0"},
    {"another_packing_of_awq_is_refused",
        "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"version\": \"gemv\"}}",
        FAIL_MODEL, "quantization_config: version", "expected gemm", "found gemv"},
    {"another_format_of_gptq_is_refused",
        "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, \"checkpoint_format\": \"marlin\"}}",
        FAIL_MODEL, "quantization_config: checkpoint_format", "gptq or gptq_v2", "found marlin"},
    {"other_bits_for_some_modules_are_refused",
        "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, \"dynamic\": {\"+:.*up\": {\"bits\": 8}}}}",
        FAIL_MODEL, "quantization_config: dynamic", "leave out", "found +:.*up"},
    {"a_quantised_cache_is_refused",
        "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": {\"num_bits\": 8}}}",
        FAIL_MODEL, "quantization_config: kv_cache_scheme", "expected none", "found some"},
    {"another_compression_is_refused",
        "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": \"nvfp4-pack-quantized\", "
        "\"config_groups\": {\"a\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 4, \"type\": \"float\"}}}}}",
        FAIL_MODEL, "quantization_config: format", "pack-quantized", "found nvfp4-pack-quantized"},
    {"a_broken_pattern_is_refused",
        "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"modules_to_not_convert\": [\"(\"]}}",
        FAIL_FORMAT, "quantization_config", "regular expression \"(\"", "parenthesis"},
    {"zero_hidden_size_is_refused", "{\"hidden_size\": 0}", FAIL_FORMAT, "config.json: hidden_size",
        "expected 1 to 1048576", "found 0"},
    {"negative_layers_are_refused", "{\"num_hidden_layers\": -3}", FAIL_FORMAT,
        "config.json: num_hidden_layers", "expected 1 to 1000", "found -3"},
    {"absurd_layers_are_refused", "{\"num_hidden_layers\": 1001}", FAIL_FORMAT,
        "config.json: num_hidden_layers", "expected 1 to 1000", "found 1001"},
    {"absurd_vocabulary_is_refused", "{\"vocab_size\": 9223372036854775807}", FAIL_FORMAT,
        "config.json: vocab_size", "expected 1 to 16777216", "found 9223372036854775807"},
    {"absurd_intermediate_size_is_refused", "{\"intermediate_size\": 99999999999}", FAIL_FORMAT,
        "config.json: intermediate_size", "expected 1 to 4194304", "found 99999999999"},
    {"missing_hidden_size_is_refused", "{\"hidden_size\": \"ABSENT\"}", FAIL_FORMAT,
        "config.json: hidden_size", "expected an integer", "found nothing"},
    {"missing_kv_heads_are_refused", "{\"num_key_value_heads\": \"ABSENT\"}", FAIL_FORMAT,
        "config.json: num_key_value_heads", "expected an integer", "found nothing"},
    {"sizes_as_text_are_refused", "{\"hidden_size\": \"896\"}", FAIL_FORMAT,
        "config.json: hidden_size", "expected an integer", "found a string"},
    {"heads_not_divisible_by_kv_heads_are_refused", "{\"num_key_value_heads\": 4}", FAIL_MODEL,
        "config.json: num_attention_heads", "multiple of num_key_value_heads 4", "found 6"},
    {"hidden_size_not_divisible_by_heads_is_refused", "{\"hidden_size\": 241}", FAIL_MODEL,
        "config.json: hidden_size", "multiple of num_attention_heads 6", "found 241"},
    {"odd_head_dim_is_refused", "{\"head_dim\": 41}", FAIL_MODEL, "config.json: head_dim", "even",
        "found 41"},
    {"absurd_head_dim_is_refused", "{\"head_dim\": 2048}", FAIL_FORMAT, "config.json: head_dim",
        "expected 2 to 1024", "found 2048"},
    {"zero_kv_heads_are_refused", "{\"num_key_value_heads\": 0}", FAIL_FORMAT,
        "config.json: num_key_value_heads", "expected 1 to", "found 0"},
    {"negative_epsilon_is_refused", "{\"rms_norm_eps\": -1e-6}", FAIL_FORMAT,
        "config.json: rms_norm_eps", "expected 0 to 1", "found -1e-06"},
    {"another_rope_type_is_refused", "{\"rope_scaling\": {\"type\": \"longrope\", \"factor\": 2}}",
        FAIL_MODEL, "config.json: rope_scaling: rope_type",
        "default, linear, dynamic, yarn or llama3", "found longrope"},
    {"llama3_without_its_factors_is_refused",
        "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 2, \"low_freq_factor\": 1}}",
        FAIL_MODEL, "config.json: rope_scaling: high_freq_factor", "above 0 for llama3",
        "found none"},
    {"a_bias_that_is_no_boolean_is_refused", "{\"model_type\": \"llama\", \"mlp_bias\": 1}",
        FAIL_FORMAT, "config.json: mlp_bias", "expected true or false", "found"},
    {"rope_scaling_of_another_kind_is_refused", "{\"rope_scaling\": 4}", FAIL_FORMAT,
        "config.json: rope_scaling", "expected an object", "found something else"},
    {"rope_parameters_by_layer_type_are_refused",
        "{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1}}}", FAIL_MODEL,
        "config.json: rope_parameters", "one set for all layers", "found one for full_attention"},
    {"partial_rotary_factor_is_refused",
        "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 2,"
        " \"partial_rotary_factor\": 0.5}}",
        FAIL_MODEL, "rope_parameters: partial_rotary_factor", "expected 1", "found 0.5"},
    {"yarn_without_factor_is_refused", "{\"rope_scaling\": {\"type\": \"yarn\"}}", FAIL_MODEL,
        "config.json: rope_scaling: factor", "expected a number", "found none"},
    {"a_factor_of_zero_is_refused", "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 0}}",
        FAIL_MODEL, "config.json: rope_scaling: factor", "above 0", "found 0"},
    {"linear_without_factor_is_refused", "{\"rope_scaling\": {\"type\": \"linear\"}}", FAIL_MODEL,
        "config.json: rope_scaling: factor", "expected a number", "found none"},
    {"a_dynamic_factor_of_null_is_refused",
        "{\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": null}}", FAIL_MODEL,
        "config.json: rope_scaling: factor", "for dynamic", "found null"},
    {"a_used_nan_is_refused", "{\"rms_norm_eps\": \"NaN\"}", FAIL_FORMAT,
        "config.json: rms_norm_eps", "expected a number", "found NaN"},
    {"yarn_with_crossed_betas_is_refused",
        "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, \"beta_fast\": 1,"
        " \"beta_slow\": 32}}",
        FAIL_MODEL, "rope_scaling: beta_fast", "at least beta_slow 32", "found 1"},
    {"too_few_layer_types_are_refused", "{\"layer_types\": [\"full_attention\"]}", FAIL_FORMAT,
        "config.json: layer_types", "array of 4", "found 1"},
    {"unknown_layer_type_is_refused",
        "{\"layer_types\": [\"full_attention\", \"linear_attention\", \"full_attention\","
        " \"full_attention\"]}",
        FAIL_MODEL, "config.json: layer_types[1]", "full_attention in the first",
        "found linear_attention"},
    {"alternating_layer_types_are_refused",
        "{\"use_sliding_window\": true, \"layer_types\": [\"full_attention\","
        " \"sliding_attention\", \"full_attention\", \"sliding_attention\"]}",
        FAIL_MODEL, "config.json: layer_types[2]", "then sliding_attention",
        "found full_attention"},
    {"sliding_layers_without_a_window_are_refused",
        "{\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\","
        " \"sliding_attention\"]}",
        FAIL_MODEL, "config.json: layer_types", "full_attention only",
        "found sliding_attention from layer 3"},
    {"zero_window_is_refused", "{\"use_sliding_window\": true, \"sliding_window\": 0}", FAIL_FORMAT,
        "config.json: sliding_window", "expected 1 to", "found 0"},
    {"a_window_of_some_layers_of_mistral_is_refused",
        "{\"model_type\": \"mistral\", \"layer_types\": [\"sliding_attention\","
        " \"full_attention\"]}",
        FAIL_MODEL, "config.json: layer_types[1]", "expected sliding_attention in every layer",
        "found full_attention"},
    {"layer_types_of_mistral_that_are_no_array_are_refused",
        "{\"model_type\": \"mistral\", \"layer_types\": 3}", FAIL_FORMAT,
        "config.json: layer_types", "expected an array", "found something else"},
    {"stop_id_as_text_is_refused", "{\"eos_token_id\": \"</s>\"}", FAIL_FORMAT,
        "config.json: eos_token_id", "expected token ids from 0", "found something else"},
};

static void bad_config_is_refused(void **state)
{
    const bad_config_t *bad = *state;
    write_config(bad->changes);
    expect_failure(bad->status, bad->object, bad->expected, bad->found);
}

static void text_that_is_not_json_is_refused(void **state)
{
    (void)state;
    write_text("config.json", "{\"hidden_size\": 896,");
    expect_failure(FAIL_FORMAT, "config.json", "not valid JSON", "line 1");
    write_text("config.json", "[1, 2]");
    expect_failure(FAIL_FORMAT, "config.json", "expected a JSON object", "found something else");
    write_text("config.json", "");
    expect_failure(FAIL_FORMAT, "config.json", "not valid JSON", "line");
}

static void missing_files_are_named(void **state)
{
    (void)state;
    config_t config;
    fail_t fail = {0};
    remove_file("config.json");
    expect_failure(FAIL_FILE, "config.json", "cannot open", "No such file");
    assert_int_equal(config_load(&config, "/nonexistent/model", &fail), FAIL_FILE);
    assert_non_null(strstr(fail.message, "/nonexistent/model: expected a model directory"));
    fail = (fail_t){0};
    assert_int_equal(config_load(&config, "/dev/null", &fail), FAIL_FILE);
    assert_non_null(
        strstr(fail.message, "/dev/null: expected a model directory, found a character device"));
}

static void bad_generation_config_is_refused(void **state)
{
    (void)state;
    write_config("{}");
    write_text("generation_config.json", "[1]");
    expect_failure(FAIL_FORMAT, "generation_config.json", "expected a JSON object", "something");
    write_text("generation_config.json", "{\"eos_token_id\": \"</s>\"}");
    expect_failure(FAIL_FORMAT, "generation_config.json: eos_token_id", "token ids", "something");
    remove_file("generation_config.json");
}

int main(void)
{
    const struct CMUnitTest files[] = {
        cmocka_unit_test(text_that_is_not_json_is_refused),
        cmocka_unit_test(missing_files_are_named),
        cmocka_unit_test(bad_generation_config_is_refused),
    };
    enum { N_BAD = sizeof bad_configs / sizeof *bad_configs };
    struct CMUnitTest bad[N_BAD];
    for (size_t i = 0; i < N_BAD; i++)
        bad[i] = (struct CMUnitTest){.name = bad_configs[i].name,
            .test_func = bad_config_is_refused,
            .initial_state = (void *)(uintptr_t)&bad_configs[i]};
    int failed = cmocka_run_group_tests_name("bad files", files, make_directory, remove_directory);
    failed += cmocka_run_group_tests_name("bad config", bad, make_directory, remove_directory);
    return failed;
}
