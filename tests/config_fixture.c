#include "tests/config_fixture.h"

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

static char directory[64];

void write_text(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fputs(text, file) < 0, 0);
    assert_int_equal(fclose(file), 0);
}

void remove_file(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    unlink(path);
}

int make_directory(void **state)
{
    (void)state;
    strcpy(directory, P_tmpdir "/choir-config-XXXXXX");
    return mkdtemp(directory) == NULL;
}

int remove_directory(void **state)
{
    (void)state;
    remove_file("config.json");
    remove_file("generation_config.json");
    return rmdir(directory);
}

static const char base[] =
    "{\"architectures\": [\"Qwen2ForCausalLM\"], \"hidden_act\": \"silu\", \"hidden_size\": 240,"
    " \"intermediate_size\": 200, \"num_hidden_layers\": 4, \"num_attention_heads\": 6,"
    " \"num_key_value_heads\": 3, \"vocab_size\": 1009, \"max_position_embeddings\": 2048,"
    " \"rms_norm_eps\": 1e-5, \"rope_theta\": 1000000.0, \"eos_token_id\": 7,"
    " \"tie_word_embeddings\": false, \"torch_dtype\": \"float32\", \"unknown_key\": [1]}";

void write_config(const char *changes)
{
    json_t *root = json_loads(base, 0, NULL), *patch = json_loads(changes, 0, NULL);
    assert_non_null(root);
    assert_non_null(patch);
    json_object_update(root, patch);
    const char *key;
    json_t *value;
    json_object_foreach (patch, key, value)
        if (json_is_string(value) && strcmp(json_string_value(value), "ABSENT") == 0)
            json_object_del(root, key);
    char *text = json_dumps(root, 0);
    write_text("config.json", text);
    free(text);
    json_decref(root);
    json_decref(patch);
}

int load_directory(config_t *config, fail_t *fail)
{
    return config_load(config, directory, fail);
}

config_t load(const char *changes)
{
    config_t config;
    fail_t fail = {0};
    write_config(changes);
    if (load_directory(&config, &fail) != 0)
        fail_msg("%s", fail.message);
    return config;
}
