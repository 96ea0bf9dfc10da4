#include "tests/quantised_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "engine/model/config.h"

void read_scheme(const char *quantization, quantised_scheme_t *scheme)
{
    static config_t config;
    char text[4096];
    fail_t fail = {0};
    snprintf(text, sizeof text,
        "{\"model_type\": \"llama\", \"hidden_size\": 104, \"intermediate_size\": 8, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"head_dim\": 36, "
        "\"vocab_size\": 8, \"quantization_config\": %s}",
        quantization);
    if (config_load_text(&config, text, "config.json", &fail) != 0)
        fail_msg("%s", fail.message);
    assert_int_equal(config.quantization.n_schemes, 1);
    *scheme = config.quantization.schemes[0];
}
