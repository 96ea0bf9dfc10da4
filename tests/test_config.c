/* config.json and generation_config.json: what is read, and what is derived. */
#include <math.h>
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

#include "engine/model/arch/arch.h"
#include "tests/config_fixture.h"

/* ---- What is read ---------------------------------------------------------------------------- */

static void sizes_are_read_and_head_dim_is_derived(void **state)
{
    (void)state;
    config_t config = load("{}");
    assert_int_equal(config.hidden_size, 240);
    assert_int_equal(config.intermediate_size, 200);
    assert_int_equal(config.num_hidden_layers, 4);
    assert_int_equal(config.num_attention_heads, 6);
    assert_int_equal(config.num_key_value_heads, 3);
    assert_int_equal(config.head_dim, 40);
    assert_int_equal(config.vocab_size, 1009);
    assert_int_equal(config.max_position_embeddings, 2048);
    assert_true(config.rms_norm_eps == 1e-5);
    assert_true(config.rope_theta == 1e6);
    assert_false(config.tie_word_embeddings);
    assert_int_equal(config.torch_dtype, DTYPE_F32);
    assert_false(config.rope.type == ROPE_YARN);
}

static void head_dim_of_the_file_wins_over_the_derived_one(void **state)
{
    (void)state;
    assert_int_equal(load("{\"head_dim\": 64}").head_dim, 64);
    assert_int_equal(load("{\"head_dim\": null}").head_dim, 40);
    /* hidden_size 240 is not a multiple of 7 heads, which only matters for a derived head_dim. */
    assert_int_equal(
        load("{\"head_dim\": 32, \"num_attention_heads\": 7, \"num_key_value_heads\": 1}").head_dim,
        32);
}

static void absent_keys_take_the_defaults_of_transformers(void **state)
{
    (void)state;
    config_t config =
        load("{\"rope_theta\": \"ABSENT\", \"rms_norm_eps\": \"ABSENT\", \"hidden_act\": null,"
             " \"max_position_embeddings\": null, \"tie_word_embeddings\": \"ABSENT\","
             " \"torch_dtype\": \"ABSENT\", \"num_key_value_heads\": null,"
             " \"eos_token_id\": null}");
    assert_true(config.rope_theta == 10000);
    assert_true(config.rms_norm_eps == 1e-6);
    assert_int_equal(config.max_position_embeddings, 32768);
    assert_false(config.tie_word_embeddings);
    assert_int_equal(config.torch_dtype, DTYPE_BF16);
    assert_int_equal(config.num_key_value_heads, 6);
    assert_int_equal(config.generation.n_stop_ids, 0);
}

static void spelling_of_transformers_5_reads_the_same_as_of_4(void **state)
{
    (void)state;
    config_t four = load("{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0,"
                         " \"original_max_position_embeddings\": 32768},"
                         " \"max_position_embeddings\": 32768, \"use_sliding_window\": false,"
                         " \"sliding_window\": 131072, \"max_window_layers\": 70}");
    config_t five =
        load("{\"rope_theta\": \"ABSENT\", \"torch_dtype\": \"ABSENT\", \"dtype\": \"float32\","
             " \"max_position_embeddings\": 32768, \"rope_parameters\": {\"rope_type\": \"yarn\","
             " \"rope_theta\": 1000000.0, \"factor\": 4, "
             " \"original_max_position_embeddings\": 32768}, \"sliding_window\": null,"
             " \"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\","
             " \"full_attention\"]}");
    assert_true(five.rope_theta == 1e6);
    assert_true(five.rope.type == ROPE_YARN);
    assert_int_equal(five.torch_dtype, DTYPE_F32);
    assert_int_equal(config_digest(&four), config_digest(&five));
}

static void rope_parameters_of_the_default_type_give_theta_only(void **state)
{
    (void)state;
    config_t config = load("{\"rope_theta\": 5, \"rope_scaling\": null, \"rope_parameters\":"
                           " {\"rope_type\": \"default\", \"rope_theta\": 500000}}");
    assert_true(config.rope_theta == 500000);
    assert_false(config.rope.type == ROPE_YARN);
    assert_true(load("{\"rope_parameters\": {\"type\": \"default\"}}").rope_theta == 1e6);
    assert_false(load("{\"rope_scaling\": {}}").rope.type == ROPE_YARN);
}

static void yarn_takes_the_defaults_of_transformers(void **state)
{
    (void)state;
    config_t config = load("{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0,"
                           " \"original_max_position_embeddings\": 512}}");
    assert_true(config.rope.type == ROPE_YARN);
    assert_true(config.rope.factor == 4);
    assert_int_equal(config.rope.original_max_position_embeddings, 512);
    assert_true(config.rope.beta_fast == 32);
    assert_true(config.rope.beta_slow == 1);
    assert_true(config.rope.truncate);
    assert_true(fabs(config.rope.attention_factor - 1.138629436111989) < 1e-15);
    config = load("{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": null,"
                  " \"original_max_position_embeddings\": 512, \"beta_fast\": 16,"
                  " \"beta_slow\": 2, \"truncate\": false, \"attention_factor\": 1.25}}");
    assert_true(config.rope.factor == 4); /* 2048 / 512 */
    assert_true(config.rope.beta_fast == 16);
    assert_true(config.rope.beta_slow == 2);
    assert_false(config.rope.truncate);
    assert_true(config.rope.attention_factor == 1.25);
    config = load("{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40, \"mscale\": 0.707,"
                  " \"mscale_all_dim\": 1.0}}");
    assert_int_equal(config.rope.original_max_position_embeddings, 2048);
    assert_true(fabs(config.rope.attention_factor - 0.9210423553163399) < 1e-15);
    config = load("{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 1, \"mscale\": 2}}");
    assert_true(config.rope.attention_factor == 1);
}

static void sliding_window_counts_only_when_it_is_on(void **state)
{
    (void)state;
    config_t config = load("{\"use_sliding_window\": false, \"sliding_window\": 131072,"
                           " \"max_window_layers\": 1}");
    assert_false(config.use_sliding_window);
    assert_int_equal(config.sliding_window, 0);
    assert_int_equal(config.max_window_layers, 4);
    config = load("{\"use_sliding_window\": true, \"sliding_window\": 512,"
                  " \"max_window_layers\": 1}");
    assert_true(config.use_sliding_window);
    assert_int_equal(config.sliding_window, 512);
    assert_int_equal(config.max_window_layers, 1);
    /* No layer is left to slide. */
    config = load("{\"use_sliding_window\": true, \"sliding_window\": 512,"
                  " \"max_window_layers\": 4}");
    assert_false(config.use_sliding_window);
    config = load("{\"use_sliding_window\": true, \"sliding_window\": null}");
    assert_false(config.use_sliding_window);
}

static void layer_types_decide_over_max_window_layers(void **state)
{
    (void)state;
    config_t config =
        load("{\"use_sliding_window\": true, \"sliding_window\": 64, \"max_window_layers\": 1,"
             " \"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\","
             " \"sliding_attention\"]}");
    assert_true(config.use_sliding_window);
    assert_int_equal(config.max_window_layers, 3);
}

static void generation_config_gives_stop_ids_and_sampling(void **state)
{
    (void)state;
    write_text("generation_config.json",
        "{\"eos_token_id\": [9, 8, 9], \"pad_token_id\": 3, \"bos_token_id\": 2,"
        " \"do_sample\": true, \"temperature\": 0.7, \"top_p\": 0.8, \"top_k\": 20,"
        " \"repetition_penalty\": 1.05, \"max_new_tokens\": 5}");
    config_generation_t generation = load("{}").generation;
    assert_int_equal(generation.n_stop_ids, 2);
    assert_int_equal(generation.stop_ids[0], 9);
    assert_int_equal(generation.stop_ids[1], 8);
    assert_int_equal(generation.pad_id, 3);
    assert_int_equal(generation.bos_id, 2);
    assert_true(generation.do_sample);
    assert_true(generation.temperature == 0.7);
    assert_true(generation.top_p == 0.8);
    assert_int_equal(generation.top_k, 20);
    assert_true(generation.repetition_penalty == 1.05);
    remove_file("generation_config.json");
}

static void without_generation_config_the_ids_of_config_count(void **state)
{
    (void)state;
    config_generation_t generation =
        load("{\"eos_token_id\": [5, 6], \"bos_token_id\": null, \"pad_token_id\": -1}").generation;
    assert_int_equal(generation.n_stop_ids, 2);
    assert_int_equal(generation.stop_ids[1], 6);
    assert_int_equal(generation.bos_id, -1);
    assert_int_equal(generation.pad_id, -1);
    assert_false(generation.do_sample);
    assert_true(generation.temperature == 1);
    assert_true(generation.top_p == 1);
    assert_int_equal(generation.top_k, 50);
    assert_true(generation.repetition_penalty == 1);
    /* Its sampling too. */
    generation = load("{\"do_sample\": true, \"temperature\": 0.5, \"top_k\": 3}").generation;
    assert_true(generation.do_sample && generation.temperature == 0.5 && generation.top_k == 3);
}

/* Whether a note of the config holds the text. */
static bool notes(const config_t *config, const char *text)
{
    for (size_t i = 0; i < config->n_notes; i++)
        if (strstr(config->notes[i], text) != NULL)
            return true;
    return false;
}

static void generation_config_counts_whole_where_there_is_one(void **state)
{
    (void)state;
    write_text("generation_config.json", "{\"eos_token_id\": null, \"temperature\": null}");
    config_t config = load("{\"temperature\": 0.5}");
    assert_int_equal(config.generation.n_stop_ids, 0);
    assert_true(config.generation.temperature == 1);
    assert_true(notes(&config, "it gives no eos_token_id"));
    /* One that is not JSON counts as absent. */
    write_text("generation_config.json", "{\"temperature\": ");
    config = load("{}");
    assert_int_equal(config.generation.stop_ids[0], 7);
    assert_true(notes(&config, "not valid JSON"));
    /* As Python reads it: the last of two, NaN. */
    write_text("generation_config.json",
        "{\"eos_token_id\": [3, -1], \"eos_token_id\": [4, -2, 4], \"top_p\": NaN,"
        " \"x\": \"say \\\"NaN\\\"\"}");
    config = load("{}");
    assert_int_equal(config.generation.n_stop_ids, 1);
    assert_int_equal(config.generation.stop_ids[0], 4);
    assert_true(notes(&config, "no token has the id -2"));
    remove_file("generation_config.json");
}

static void sampling_is_checked_only_where_it_is_used(void **state)
{
    (void)state;
    write_text("generation_config.json",
        "{\"temperature\": 0, \"top_p\": 2.0, \"top_k\": -1, \"min_p\": \"much\","
        " \"repetition_penalty\": -Infinity}");
    config_generation_t generation = load("{}").generation;
    double value;
    size_t top_k;
    fail_t fail = {0};
    assert_int_equal(config_use_top_p(&generation, &value, &fail), 0);
    assert_true(value == 1); /* off */
    assert_int_equal(config_use_top_k(&generation, &top_k, &fail), FAIL_MODEL);
    assert_non_null(strstr(fail.message, "top_k: expected a whole number"));
    assert_non_null(strstr(fail.message, "found -1; --top-k gives another"));
    fail = (fail_t){0};
    assert_int_equal(config_use_temperature(&generation, &value, &fail), FAIL_MODEL);
    fail = (fail_t){0};
    assert_int_equal(config_use_min_p(&generation, &value, &fail), FAIL_MODEL);
    fail = (fail_t){0};
    assert_int_equal(config_use_penalty(&generation, &value, &fail), FAIL_MODEL);
    remove_file("generation_config.json");
}

static void sampling_that_is_not_implemented_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *json, *unread;
    } cases[] = {{"{}", ""}, {"{\"typical_p\": 0.9}", "typical_p"},
        {"{\"typical_p\": 1.0, \"num_beams\": 1, \"min_length\": 0, \"eta_cutoff\": 0.0}", ""},
        {"{\"bad_words_ids\": null, \"suppress_tokens\": [], \"sequence_bias\": {}}", ""},
        {"{\"eta_cutoff\": 0.002, \"num_beams\": 4, \"suppress_tokens\": [5]}",
            "eta_cutoff, num_beams, suppress_tokens"},
        {"{\"forced_eos_token_id\": 0, \"stop_strings\": \"x\"}",
            "forced_eos_token_id, stop_strings"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text("generation_config.json", cases[i].json);
        config_t config = load("{}");
        assert_string_equal(config.generation.unread, cases[i].unread);
    }
    remove_file("generation_config.json");
}

static void model_type_decides_over_architectures(void **state)
{
    (void)state;
    config_t config = load("{\"architectures\": \"ABSENT\", \"model_type\": \"qwen2\"}");
    assert_int_equal(config.n_notes, 0);
    config = load("{\"architectures\": [\"Qwen2Model\"], \"model_type\": \"qwen2\"}");
    assert_true(notes(&config, "architectures names Qwen2Model"));
}

static void old_rope_keys_count_before_new_ones(void **state)
{
    (void)state;
    config_t config =
        load("{\"rope_scaling\": {\"rope_type\": \"linear\", \"type\": \"dynamic\", \"factor\": 2},"
             " \"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4}}");
    assert_true(config.rope.type == ROPE_LINEAR && config.rope.factor == 2);
    assert_true(notes(&config, "rope_scaling is used"));
    config = load("{\"rope_scaling\": {}, \"rope_theta\": 5, \"rope_parameters\": {\"rope_type\":"
                  " \"dynamic\", \"factor\": 0.5, \"rope_theta\": 77}}");
    assert_true(config.rope.type == ROPE_DYNAMIC && config.rope_theta == 77);
    assert_true(notes(&config, "factor: expected at least 1"));
    config = load("{\"original_max_position_embeddings\": 4, \"rope_scaling\": {\"type\": \"yarn\","
                  " \"factor\": 4, \"original_max_position_embeddings\": 8}}");
    assert_int_equal(config.rope.original_max_position_embeddings, 4);
    /* The default type has no use for the rest. */
    config = load("{\"partial_rotary_factor\": 0.5, \"rope_scaling\": false}");
    assert_true(config.rope.type == ROPE_DEFAULT);
}

/* ---- Llama ----------------------------------------------------------------------------------- */

#define LLAMA "\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"]"
#define LLAMA3                                                                                     \
    "\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4"

static void llama_has_the_defaults_of_its_own_class(void **state)
{
    (void)state;
    config_t config = load("{" LLAMA ", \"num_key_value_heads\": \"ABSENT\", \"eos_token_id\":"
                           " \"ABSENT\", \"rms_norm_eps\": \"ABSENT\", \"rope_theta\": \"ABSENT\","
                           " \"max_position_embeddings\": \"ABSENT\", \"pretraining_tp\": 2,"
                           " \"attention_dropout\": 0.5, \"sliding_window\": 4}");
    assert_ptr_equal(config.arch, &arch_llama);
    assert_int_equal(config.parts, 0);
    assert_int_equal(config.num_key_value_heads, 6);
    assert_int_equal(config.head_dim, 40);
    assert_int_equal(config.max_position_embeddings, 2048);
    assert_true(config.rms_norm_eps == 1e-6 && config.rope_theta == 10000);
    assert_false(config.use_sliding_window);
    assert_int_equal(config.max_window_layers, 4);
    assert_int_equal(config.generation.n_stop_ids, 1);
    assert_int_equal(config.generation.stop_ids[0], 2);
    assert_int_equal(config.generation.bos_id, 1);
    config = load("{" LLAMA ", \"eos_token_id\": null, \"bos_token_id\": null}");
    assert_int_equal(config.generation.n_stop_ids, 0);
    assert_int_equal(config.generation.bos_id, -1);
}

static void biases_of_llama_are_there_on_request(void **state)
{
    (void)state;
    config_t config = load("{" LLAMA ", \"attention_bias\": true}");
    assert_int_equal(config.parts, ARCH_QKV_BIAS | ARCH_O_BIAS);
    assert_int_equal(config_plan_model(&config, DTYPE_BF16).n_weights, 16);
    config = load("{" LLAMA ", \"mlp_bias\": true}");
    assert_int_equal(config.parts, ARCH_MLP_BIAS);
    assert_true(arch_knows(&config, "model.layers.3.mlp.down_proj.bias"));
    assert_false(arch_knows(&config, "model.layers.3.self_attn.o_proj.bias"));
}

static void experts_are_as_many_as_the_config_says(void **state)
{
    (void)state;
    size_t expert = 0;
    config_t config =
        load("{\"model_type\": \"qwen3_moe\", \"num_experts\": 128, \"mlp_only_layers\": [1]}");
    assert_true(arch_knows(&config, "model.layers.0.mlp.experts.127.up_proj.weight"));
    assert_false(arch_knows(&config, "model.layers.0.mlp.experts.128.up_proj.weight"));
    assert_true(
        arch_is_beyond_experts(&config, "model.layers.0.mlp.experts.128.up_proj.weight", &expert));
    assert_int_equal(expert, 128);
    static const char *const others[] = {"model.layers.0.mlp.experts.127.up_proj.weight",
        "model.layers.1.mlp.experts.128.up_proj.weight",
        "model.layers.0.mlp.experts.128.up_proj.bias", "model.layers.0.mlp.gate.weight",
        "model.layers.999.mlp.experts.128.up_proj.weight", "model.norm.weight"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(arch_is_beyond_experts(&config, others[i], &expert));
}

#define MISTRAL "\"model_type\": \"mistral\", \"architectures\": [\"MistralForCausalLM\"]"

static void mistral_has_the_defaults_of_its_own_class(void **state)
{
    (void)state;
    config_t config =
        load("{" MISTRAL ", \"eos_token_id\": \"ABSENT\", \"rms_norm_eps\": \"ABSENT\","
             " \"rope_theta\": \"ABSENT\", \"max_position_embeddings\": \"ABSENT\","
             " \"use_sliding_window\": false, \"attention_dropout\": 0.5}");
    assert_ptr_equal(config.arch, &arch_mistral);
    assert_int_equal(config.parts, 0);
    assert_int_equal(config.head_dim, 40);
    assert_int_equal(config.max_position_embeddings, 131072);
    assert_true(config.rms_norm_eps == 1e-6 && config.rope_theta == 10000);
    assert_int_equal(config.generation.stop_ids[0], 2);
    assert_int_equal(config.generation.bos_id, 1);
    assert_true(config.use_sliding_window);
    assert_int_equal(config.sliding_window, 4096);
    assert_int_equal(config.max_window_layers, 0);
}

static void mistral_has_one_window_for_all_layers_or_none(void **state)
{
    (void)state;
    config_t config = load("{" MISTRAL ", \"sliding_window\": 7, \"layer_types\":"
                           " [\"sliding_attention\", \"sliding_attention\"]}");
    assert_true(config.use_sliding_window);
    assert_int_equal(config.sliding_window, 7);
    assert_int_equal(config.max_window_layers, 0);
    config = load("{" MISTRAL ", \"sliding_window\": null, \"head_dim\": 128}");
    assert_false(config.use_sliding_window);
    assert_int_equal(config.sliding_window, 0);
    assert_int_equal(config.max_window_layers, 4);
    assert_int_equal(config.head_dim, 128);
}

static void llama3_rope_is_read_from_either_key(void **state)
{
    (void)state;
    config_t config = load("{" LLAMA ", \"rope_scaling\": {" LLAMA3 "}}");
    assert_true(config.rope.type == ROPE_LLAMA3 && config.rope.factor == 8);
    assert_true(config.rope.low_freq_factor == 1 && config.rope.high_freq_factor == 4);
    assert_int_equal(config.rope.original_max_position_embeddings, 2048);
    /* max_position_embeddings is the stretched length. */
    assert_true(config_has_positions(&config, 2048));
    assert_false(config_has_positions(&config, 2049));
    uint64_t digest = config_digest(&config);
    config = load("{" LLAMA ", \"rope_parameters\": {" LLAMA3 ", \"rope_theta\": 5,"
                  " \"original_max_position_embeddings\": 512}}");
    assert_true(config.rope.type == ROPE_LLAMA3 && config.rope_theta == 5);
    assert_int_equal(config.rope.original_max_position_embeddings, 512);
    config = load("{" LLAMA ", \"rope_scaling\": {" LLAMA3 ", \"high_freq_factor\": 1}}");
    assert_true(notes(&config, "high_freq_factor: expected more than low_freq_factor 1, found 1"));
    assert_true(config_digest(&config) != digest);
}

/* ---- Derived --------------------------------------------------------------------------------- */

static void digest_tells_every_field_apart(void **state)
{
    (void)state;
    static const char *const changes[] = {"{}", "{\"hidden_size\": 480}",
        "{\"intermediate_size\": 201}", "{\"num_hidden_layers\": 5}",
        "{\"num_attention_heads\": 3}", "{\"num_key_value_heads\": 1}", "{\"head_dim\": 64}",
        "{\"vocab_size\": 1010}", "{\"max_position_embeddings\": 2049}", "{\"rms_norm_eps\": 1e-6}",
        "{\"rope_theta\": 10000}", "{\"tie_word_embeddings\": true}",
        "{\"torch_dtype\": \"float16\"}", "{\"eos_token_id\": 8}", "{\"bos_token_id\": 1}",
        "{\"pad_token_id\": 1}",
        "{\"use_sliding_window\": true, \"sliding_window\": 9, \"max_window_layers\": 2}",
        "{\"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 2}",
        "{\"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 3}",
        "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2}}",
        "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}",
        "{\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}}",
        "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, \"beta_slow\": 2}}",
        "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2, \"truncate\": false}}"};
    enum { N = sizeof changes / sizeof *changes };
    uint64_t digests[N];
    for (size_t i = 0; i < N; i++) {
        config_t config = load(changes[i]);
        digests[i] = config_digest(&config);
        for (size_t j = 0; j < i; j++)
            assert_true(digests[i] != digests[j]);
    }
    config_t again = load("{}");
    assert_int_equal(config_digest(&again), digests[0]);
}

static void plan_model_carries_sizes_and_the_mode(void **state)
{
    (void)state;
    config_t config = load("{\"tie_word_embeddings\": true}");
    plan_model_t model = config_plan_model(&config, DTYPE_BF16);
    assert_int_equal(model.hidden, 240);
    assert_int_equal(model.intermediate, 200);
    assert_int_equal(model.n_layers, 4);
    assert_int_equal(model.n_heads, 6);
    assert_int_equal(model.n_kv_heads, 3);
    assert_int_equal(model.head_dim, 40);
    assert_int_equal(model.vocab_size, 1009);
    assert_int_equal(model.n_weights, 14); /* tied, with biases of q, k and v */
    assert_int_equal(model.matrix_bytes(model.layout, 64, 240), 64 * 240 * 2);
    assert_int_equal(model.cache_bytes, 2);
    plan_model_t wide = config_plan_model(&config, DTYPE_F64);
    assert_int_equal(wide.matrix_bytes(wide.layout, 64, 240), 64 * 240 * 8);
    assert_int_equal(wide.cache_bytes, 8);
}

static void shipped_shapes_have_the_published_parameter_counts(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint64_t parameters;
        size_t stop_id;
        size_t positions;
        double theta, eps;
    } shapes[] = {{"qwen2.5-0.5b", 494032768, 151645, 32768, 1e6, 1e-6},
        {"qwen2.5-1.5b", 1543714304, 151645, 32768, 1e6, 1e-6},
        {"qwen2.5-3b", 3085938688, 151645, 32768, 1e6, 1e-6},
        {"qwen2.5-7b", 7615616512, 151645, 32768, 1e6, 1e-6},
        {"qwen2.5-14b", 14770033664, 151645, 32768, 1e6, 1e-6},
        {"qwen2.5-32b", 32763876352, 151645, 32768, 1e6, 1e-6},
        {"qwen2.5-72b", 72706203648, 151645, 32768, 1e6, 1e-6},
        {"qwen3-0.6b", 596049920, 151645, 40960, 1e6, 1e-6},
        {"qwen3-1.7b", 1720574976, 151645, 40960, 1e6, 1e-6},
        {"qwen3-4b", 4022468096, 151645, 40960, 1e6, 1e-6},
        {"qwen3-8b", 8190735360, 151645, 40960, 1e6, 1e-6},
        {"qwen3-14b", 14768307200, 151645, 40960, 1e6, 1e-6},
        {"qwen3-32b", 32762123264, 151645, 40960, 1e6, 1e-6},
        {"llama-3.2-1b", 1235814400, 128001, 131072, 5e5, 1e-5},
        {"llama-3.2-3b", 3212749824, 128001, 131072, 5e5, 1e-5},
        {"llama-3.1-8b", 8030261248, 128001, 131072, 5e5, 1e-5},
        {"llama-3.3-70b", 70553706496, 128001, 131072, 5e5, 1e-5},
        {"mistral-7b-v0.1", 7241732096, 2, 32768, 1e4, 1e-5},
        {"mistral-7b-v0.3", 7248023552, 2, 32768, 1e6, 1e-5},
        {"mistral-nemo", 12247782400, 2, 131072, 1e6, 1e-5},
        {"mistral-small-24b", 23572403200, 2, 32768, 1e8, 1e-5}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        char path[512];
        config_t config;
        plan_t plan;
        fail_t fail = {0};
        snprintf(path, sizeof path, "%s/configs/%s.json", CHOIR_SOURCE_DIR, shapes[i].name);
        if (config_load_file(&config, path, &fail) != 0)
            fail_msg("%s", fail.message);
        plan_model_t model = config_plan_model(&config, DTYPE_BF16);
        assert_int_equal(plan_open(&plan, &model, PLAN_GATHER, 1, &fail), 0);
        assert_int_equal(plan_weight_bytes(&plan, 0), 2 * shapes[i].parameters);
        plan_close(&plan);
        assert_true(config.rope_theta == shapes[i].theta);
        assert_true(config.rms_norm_eps == shapes[i].eps);
        assert_int_equal(config.max_position_embeddings, shapes[i].positions);
        assert_int_equal(
            config.sliding_window, strcmp(shapes[i].name, "mistral-7b-v0.1") == 0 ? 4096 : 0);
        assert_true(config.generation.n_stop_ids > 0);
        assert_int_equal(config.generation.stop_ids[0], shapes[i].stop_id);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read_and_head_dim_is_derived),
        cmocka_unit_test(head_dim_of_the_file_wins_over_the_derived_one),
        cmocka_unit_test(absent_keys_take_the_defaults_of_transformers),
        cmocka_unit_test(spelling_of_transformers_5_reads_the_same_as_of_4),
        cmocka_unit_test(rope_parameters_of_the_default_type_give_theta_only),
        cmocka_unit_test(yarn_takes_the_defaults_of_transformers),
        cmocka_unit_test(sliding_window_counts_only_when_it_is_on),
        cmocka_unit_test(layer_types_decide_over_max_window_layers),
        cmocka_unit_test(generation_config_gives_stop_ids_and_sampling),
        cmocka_unit_test(generation_config_counts_whole_where_there_is_one),
        cmocka_unit_test(sampling_is_checked_only_where_it_is_used),
        cmocka_unit_test(sampling_that_is_not_implemented_is_named),
        cmocka_unit_test(model_type_decides_over_architectures),
        cmocka_unit_test(old_rope_keys_count_before_new_ones),
        cmocka_unit_test(without_generation_config_the_ids_of_config_count),
        cmocka_unit_test(llama_has_the_defaults_of_its_own_class),
        cmocka_unit_test(biases_of_llama_are_there_on_request),
        cmocka_unit_test(experts_are_as_many_as_the_config_says),
        cmocka_unit_test(mistral_has_the_defaults_of_its_own_class),
        cmocka_unit_test(mistral_has_one_window_for_all_layers_or_none),
        cmocka_unit_test(llama3_rope_is_read_from_either_key),
        cmocka_unit_test(digest_tells_every_field_apart),
        cmocka_unit_test(plan_model_carries_sizes_and_the_mode),
        cmocka_unit_test(shipped_shapes_have_the_published_parameter_counts),
    };
    return cmocka_run_group_tests_name("config", tests, make_directory, remove_directory);
}
