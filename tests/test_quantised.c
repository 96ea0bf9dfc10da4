/* Reading quantised matrices: every layout against weights that Python made (oracle/quantised.py), whole and in parts. */
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

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/forward/fake_quantise.h"
#include "engine/kernels/kernels.h"
#include "engine/model/arch/arch.h"
#include "engine/model/config.h"
#include "sharding/checkpoint/checkpoint.h"
#include "sharding/checkpoint/quantised.h"
#include "tests/quantised_fixture.h"

static const char *const kinds[] = {"gptq-int4", "gptq-int4-g64-v2", "gptq-int4-asym",
    "gptq-int4-act-order", "gptq-int4-whole", "gptq-int4-g16", "gptq-int8",
    "gptq-int8-asym-act-order", "gptq-int4-wrapping", "auto-round-gptq", "awq", "awq-bf16-scales",
    "awq-symmetric", "packed-int4", "packed-int4-f16", "packed-int4-asym", "packed-int4-channel",
    "packed-int8", "packed-int8-asym", "int8", "fp8-channel", "fp8-tensor", "fp8-blocks", "fp8-inv",
    "fp8-inv-bf16", "fp8-inv-tensor", "fp8-inv-exponents"};

typedef struct opened {
    checkpoint_t *checkpoint;
    quantised_scheme_t scheme;
    quantised_t matrix;
    uint16_t expected[ROWS * COLUMNS];
} opened_t;

static opened_t open_kind(const char *kind)
{
    opened_t o = {0};
    fail_t fail = {0};
    char name[64];
    assert_int_equal(checkpoint_open_file(&o.checkpoint, GOLDEN, &fail), 0);
    assert_non_null(checkpoint_metadata(o.checkpoint, kind));
    read_scheme(checkpoint_metadata(o.checkpoint, kind), &o.scheme);
    snprintf(name, sizeof name, "%s.weight", kind);
    if (quantised_find(o.checkpoint, name, &o.scheme, ROWS, COLUMNS, &o.matrix, &fail) != 0)
        fail_msg("%s: %s", kind, fail.message);
    snprintf(name, sizeof name, "%s.expected", kind);
    const checkpoint_tensor_t *tensor = checkpoint_find(o.checkpoint, name);
    assert_int_equal(
        checkpoint_read_bytes(o.checkpoint, tensor, 0, sizeof o.expected, o.expected, &fail), 0);
    return o;
}

/* Rows of a part, some at a time, against the golden weights. */
static void check_part(const char *kind, opened_t *o, quantised_part_t part, size_t together)
{
    size_t columns = part.col_end - part.col_begin;
    size_t bytes = quantised_stage_bytes(&o->matrix, part.row_end - part.row_begin, columns);
    fail_t fail = {0};
    /* A guard behind the memory shows what is written beyond it. */
    unsigned char *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    uint16_t rows[QUANTISED_ROWS * COLUMNS];
    const quantised_stage_t *stage;
    memset(memory, 0xa5, (bytes + 127) / 64 * 64);
    if (quantised_stage(o->checkpoint, &o->matrix, part, memory, &stage, &fail) != 0)
        fail_msg("%s: %s", kind, fail.message);
    for (size_t r = part.row_begin; r < part.row_end; r += together) {
        size_t end = r + together < part.row_end ? r + together : part.row_end;
        quantised_rows_t unpacked;
        quantised_unpack(stage, r, end, &unpacked);
        quantised_weights(stage, &unpacked, DTYPE_BF16, rows);
        for (size_t i = 0; i < (end - r) * columns; i++) {
            size_t at = (r + i / columns) * COLUMNS + part.col_begin + i % columns;
            if (rows[i] != o->expected[at])
                fail_msg("%s: weight [%zu, %zu]: expected %04x, found %04x", kind, at / COLUMNS,
                    at % COLUMNS, o->expected[at], rows[i]);
        }
    }
    for (size_t i = bytes; i < (bytes + 127) / 64 * 64; i++)
        assert_int_equal(memory[i], 0xa5);
    free(memory);
}

static void all_layouts_give_the_weights_of_hugging_face(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        opened_t o = open_kind(kinds[i]);
        check_part(kinds[i], &o, (quantised_part_t){0, ROWS, 0, COLUMNS}, 64);
        checkpoint_close(o.checkpoint);
    }
}

static void parts_that_begin_anywhere_give_the_same_weights(void **state)
{
    (void)state;
    static const quantised_part_t parts[] = {{0, 16, 0, COLUMNS}, {16, 72, 0, COLUMNS},
        {5, 6, 0, COLUMNS}, {3, 71, 0, COLUMNS}, {0, ROWS, 16, 48}, {9, 50, 13, 91},
        {71, 72, 103, 104}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        opened_t o = open_kind(kinds[i]);
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
            check_part(kinds[i], &o, parts[p], 1 + (p * 13 + i) % 60);
        checkpoint_close(o.checkpoint);
    }
}

static void only_a_share_of_columns_is_read(void **state)
{
    (void)state;
    opened_t o = open_kind("awq");
    uint64_t before = checkpoint_bytes_read(o.checkpoint);
    check_part("awq", &o, (quantised_part_t){16, 24, 0, COLUMNS}, 8);
    /* A word of codes for each input, of zeros and eight scales for the group. */
    assert_int_equal(checkpoint_bytes_read(o.checkpoint) - before, COLUMNS * 4 + 4 + 16);
    checkpoint_close(o.checkpoint);
}

/* ---- Packed ---------------------------------------------------------------------------------- */

static matrix_t pack(const opened_t *o, const format_t *format)
{
    matrix_t w = {.format = format, .rows = ROWS, .columns = COLUMNS};
    fail_t fail = {0};
    size_t bytes = quantised_stage_bytes(&o->matrix, ROWS, COLUMNS);
    void *memory = aligned_alloc(64, size_round_up(bytes, 64));
    const quantised_stage_t *stage;
    w.panels = calloc(format_matrix_bytes(format, ROWS, COLUMNS), 1);
    assert_non_null(w.panels);
    assert_int_equal(quantised_stage(o->checkpoint, &o->matrix,
                         (quantised_part_t){0, ROWS, 0, COLUMNS}, memory, &stage, &fail),
        0);
    for (size_t p = 0; p < matrix_n_panels(&w); p++) {
        quantised_rows_t rows;
        size_t begin = p * KERNEL_PANEL, end = size_min(begin + KERNEL_PANEL, ROWS);
        size_t width = matrix_panel_width(&w, p);
        quantised_unpack(stage, begin, end, &rows);
        const coded_rows_t coded = {.n = rows.n,
            .columns = rows.columns,
            .n_groups = rows.n_groups,
            .codes = rows.codes,
            .codes_stride = rows.codes_stride,
            .scales = rows.scales,
            .zeros = rows.zeros,
            .in_order = rows.in_order};
        format->pack_codes(format, &coded,
            (char *)w.panels + format->offset(format, COLUMNS, width, p, 0), width, 0);
    }
    free(memory);
    return w;
}

/* Sums of a row with a panel, dequantised in registers, against the dense panel's. Every NaN is rounded to the same. */
static void check_row(const char *kind, const kernels_t *k, const format_t *format,
    const void *panel, size_t width, size_t columns, const uint16_t *dense)
{
    uint16_t row[2 * COLUMNS];
    float sums[2][KERNEL_PANEL];
    for (size_t i = 0; i < columns; i++)
        row[i] = (uint16_t)(0x3f00 + i * 77 % 250 + (i % 2 << 15));
    for (int amx = 0; amx < 2 && k->coded_row != NULL; amx++) {
        (amx ? k->coded_row_amx : k->coded_row)(
            format, row, 1, &panel, width, columns, 0, columns, sums[0], KERNEL_PANEL, TILE_SET);
        (amx ? k->tile_amx : k->tile)(
            1, row, columns, dense, width, columns, sums[1], KERNEL_PANEL, TILE_SET);
        for (size_t n = 0; n < width; n++)
            if (f32_bits(sums[0][n]) != f32_bits(sums[1][n]) &&
                !(isnan(sums[0][n]) && isnan(sums[1][n])))
                fail_msg("%s, %s, %s: output %zu of a single row differs", kind, k->isa,
                    amx ? "amx" : "chain", n);
    }
}

/* Row by row, and as the kernels of an instruction set have a panel. */
static void check_packed(
    const char *kind, const kernels_t *k, const matrix_t *w, const uint16_t *expected)
{
    uint16_t row[COLUMNS], dense[KERNEL_PANEL * COLUMNS], of_panel[COLUMNS];
    for (size_t r = 0; r < ROWS; r++) {
        size_t p = r / KERNEL_PANEL, width = matrix_panel_width(w, p);
        const void *panel = matrix_panel(w, p, 0);
        w->format->unpack_row(w->format, COLUMNS, panel, width, r % KERNEL_PANEL, row);
        k->coded_unpack(w->format, panel, width, 0, COLUMNS, dense);
        panel_unpack_row(DTYPE_BF16, COLUMNS, dense, width, r % KERNEL_PANEL, of_panel);
        if (r % KERNEL_PANEL == 0)
            check_row(kind, k, w->format, panel, width, COLUMNS, dense);
        for (size_t i = 0; i < COLUMNS; i++)
            if (row[i] != expected[r * COLUMNS + i] || of_panel[i] != row[i])
                fail_msg("%s, %s: weight [%zu, %zu]: expected %04x, found %04x, %04x", kind, k->isa,
                    r, i, expected[r * COLUMNS + i], row[i], of_panel[i]);
    }
}

static void packed_codes_give_the_same_weights(void **state)
{
    (void)state;
    size_t n_packed = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        opened_t o = open_kind(kinds[i]);
        static quantization_t quantization;
        const format_t *format =
            quantization_format(&quantization, &o.scheme, DTYPE_BF16, true, ROWS, COLUMNS);
        n_packed += format != NULL && format->kind == FORMAT_CODED;
        for (size_t l = 0; l < ISA_LEVELS; l++) {
            kernels_t k;
            if (format == NULL || format->kind != FORMAT_CODED ||
                !isa_has(isa_detect(), isa_of_level(l)))
                continue;
            matrix_t w = pack(&o, format);
            kernels_get(&k, isa_of_level(l), DTYPE_BF16);
            check_packed(kinds[i], &k, &w, o.expected);
            free(w.panels);
        }
        checkpoint_close(o.checkpoint);
    }
    assert_int_equal(n_packed, 17);
}

/* Beyond the range in which vectors round: weights that are denormal, and scales that make them infinite. */
static void extreme_scales_give_the_weights_of_scalar_code(void **state)
{
    (void)state;
    enum { INPUTS = 128, GROUPS = 1 };
    static const float scales[] = {
        0x1p-130f, 0x1.8p-126f, 0x1p-101f, 0x1p101f, 0x1.fp127f, 1.0f, 0.0f};
    const format_t *formats[] = {format_coded(CODES_F8, DTYPE_F32, 128, false),
        format_coded(CODES_F8, DTYPE_BF16, 0, false),
        format_coded(CODES_INT8, DTYPE_BF16, 0, true)};
    uint8_t codes[INPUTS], zero = 117;
    for (size_t i = 0; i < INPUTS; i++)
        codes[i] = (uint8_t)(i * 37 % 127 | (i % 2 << 7));
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
            static char panel[2 * KERNEL_LANES * INPUTS];
            static uint16_t expected[KERNEL_LANES * INPUTS], found[KERNEL_LANES * INPUTS];
            const coded_rows_t rows = {.n = 1,
                .columns = INPUTS,
                .n_groups = GROUPS,
                .codes = codes,
                .scales = &scales[s],
                .zeros = &zero};
            kernels_t k;
            memset(panel, 0, sizeof panel);
            formats[f]->pack_codes(formats[f], &rows, panel, KERNEL_LANES, 3);
            kernels_get(&k, ISA_SCALAR, DTYPE_BF16);
            k.coded_unpack(formats[f], panel, KERNEL_LANES, 0, INPUTS, expected);
            kernels_get(&k, isa_detect(), DTYPE_BF16);
            k.coded_unpack(formats[f], panel, KERNEL_LANES, 0, INPUTS, found);
            assert_memory_equal(found, expected, sizeof found);
            check_row(formats[f]->name, &k, formats[f], panel, KERNEL_LANES, INPUTS, expected);
        }
}

/* ---- Which matrices -------------------------------------------------------------------------- */

/* Whether a weight of a model of two layers is quantised by this quantization_config. */
static const quantised_scheme_t *scheme_in(
    const char *quantization, weight_role_t role, bool per_layer, size_t layer)
{
    static config_t config;
    char text[4096];
    fail_t fail = {0};
    snprintf(text, sizeof text,
        "{\"model_type\": \"llama\", \"hidden_size\": 64, \"intermediate_size\": 8, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"vocab_size\": 8, "
        "\"tie_word_embeddings\": false, \"quantization_config\": %s}",
        quantization);
    if (config_load_text(&config, text, "config.json", &fail) != 0)
        fail_msg("%s", fail.message);
    return quantization_scheme(&config.quantization, (int)role, per_layer, layer);
}

static void modules_that_are_left_out_are_not_quantised(void **state)
{
    (void)state;
    static const char awq[] =
        "{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, "
        "\"modules_to_not_convert\": [\"self_attn.q_proj\", \"model.layers.1.mlp\"]}";
    assert_non_null(scheme_in(awq, WEIGHT_K, true, 0));
    assert_null(scheme_in(awq, WEIGHT_Q, true, 0));
    assert_null(scheme_in(awq, WEIGHT_Q, true, 1));
    assert_non_null(scheme_in(awq, WEIGHT_UP, true, 0));
    assert_null(scheme_in(awq, WEIGHT_UP, true, 1));
    assert_null(scheme_in(awq, WEIGHT_LM_HEAD, false, 0));
    static const char gptq[] =
        "{\"quant_method\": \"gptq\", \"bits\": 8, \"group_size\": 32, \"lm_head\": true, "
        "\"dynamic\": {\"-:.*\\\\.down_proj\": {}}}";
    assert_non_null(scheme_in(gptq, WEIGHT_LM_HEAD, false, 0));
    assert_null(scheme_in(gptq, WEIGHT_DOWN, true, 1));
    assert_non_null(scheme_in(gptq, WEIGHT_GATE, true, 1));
    static const char blocks[] =
        "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": -1, "
        "\"modules_in_block_to_quantize\": [[\"self_attn.k_proj\"], [\"mlp.up_proj\"]]}";
    assert_non_null(scheme_in(blocks, WEIGHT_K, true, 1));
    assert_null(scheme_in(blocks, WEIGHT_V, true, 1));
}

static void each_module_has_the_scheme_of_its_closest_target(void **state)
{
    (void)state;
    static const char mixed[] =
        "{\"quant_method\": \"compressed-tensors\", \"format\": \"mixed-precision\", "
        "\"ignore\": [\"re:.*o_proj$\", \"lm_head\"], \"config_groups\": {"
        "\"a\": {\"format\": \"pack-quantized\", \"targets\": [\"Linear\"], \"weights\": "
        "{\"num_bits\": 4, \"type\": \"int\", \"symmetric\": true, \"strategy\": \"group\", \"group_size\": 128}}, "
        "\"b\": {\"format\": \"int-quantized\", \"targets\": [\"re:.*down_proj\"], \"weights\": "
        "{\"num_bits\": 8, \"type\": \"int\", \"symmetric\": true, \"strategy\": \"channel\"}, "
        "\"input_activations\": {\"num_bits\": 8, \"type\": \"int\", \"symmetric\": true, "
        "\"strategy\": \"token\", \"dynamic\": true}}, "
        "\"c\": {\"format\": \"float-quantized\", \"targets\": [\"model.layers.1.mlp.down_proj\"], \"weights\": "
        "{\"num_bits\": 8, \"type\": \"float\", \"symmetric\": true, \"strategy\": \"tensor\"}}}}";
    assert_int_equal(scheme_in(mixed, WEIGHT_Q, true, 0)->layout, QUANTISED_PACKED);
    assert_int_equal(scheme_in(mixed, WEIGHT_DOWN, true, 0)->layout, QUANTISED_INT8);
    assert_int_equal(scheme_in(mixed, WEIGHT_DOWN, true, 0)->activation, QUANTISED_INT8_TOKEN);
    assert_int_equal(scheme_in(mixed, WEIGHT_DOWN, true, 1)->layout, QUANTISED_FP8);
    assert_null(scheme_in(mixed, WEIGHT_O, true, 0));
    assert_null(scheme_in(mixed, WEIGHT_LM_HEAD, false, 0));
}

static void activations_that_stay_as_they_are_give_a_warning(void **state)
{
    (void)state;
    static config_t config;
    static const char *const inputs[] = {"\"strategy\": \"token\", \"dynamic\": true",
        "\"strategy\": \"tensor\", \"dynamic\": false"};
    fail_t fail = {0};
    char text[2048];
    for (size_t i = 0; i < 2; i++) {
        snprintf(text, sizeof text,
            "{\"model_type\": \"llama\", \"hidden_size\": 104, \"intermediate_size\": 8, "
            "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"head_dim\": 36, \"vocab_size\": 8, "
            "\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\", "
            "\"ignore\": [\"lm_head\"], \"config_groups\": {\"a\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 8, \"type\": \"int\", "
            "\"symmetric\": true, \"strategy\": \"channel\"}, \"input_activations\": {\"num_bits\": 8, \"type\": \"int\", "
            "\"symmetric\": true, %s}}}}}",
            inputs[i]);
        if (config_load_text(&config, text, "config.json", &fail) != 0)
            fail_msg("%s", fail.message);
        assert_int_equal(config.n_notes, i);
    }
}

/* Rows that compressed-tensors quantised and dequantised: of any size, cancelling, zero, one-signed. */
static void activations_are_those_of_compressed_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        quantised_activation_t kind;
    } kinds_of[] = {{"int8", QUANTISED_INT8_TOKEN}, {"int8-asym", QUANTISED_INT8_TOKEN_ZERO},
        {"fp8", QUANTISED_FP8_TOKEN}, {"fp8-group", QUANTISED_FP8_GROUP}};
    checkpoint_t *golden;
    fail_t fail = {0};
    static uint16_t x[64 * 256], expected[64 * 256], y[256];
    assert_int_equal(checkpoint_open_file(
                         &golden, CHOIR_SOURCE_DIR "/tests/golden/activations.safetensors", &fail),
        0);
    const checkpoint_tensor_t *tensor = checkpoint_find(golden, "x");
    size_t rows = tensor->shape[0], columns = tensor->shape[1];
    assert_true(rows <= 64 && columns <= 256);
    assert_int_equal(checkpoint_read_bytes(golden, tensor, 0, tensor->size_bytes, x, &fail), 0);
    for (size_t i = 0; i < sizeof kinds_of / sizeof *kinds_of; i++) {
        tensor = checkpoint_find(golden, kinds_of[i].name);
        assert_int_equal(
            checkpoint_read_bytes(golden, tensor, 0, tensor->size_bytes, expected, &fail), 0);
        for (size_t r = 0; r < rows; r++) {
            fake_quantise_row(kinds_of[i].kind, columns, x + r * columns, y);
            for (size_t k = 0; k < columns; k++)
                if (y[k] != expected[r * columns + k])
                    fail_msg("%s: row %zu, input %zu of %04x: expected %04x, found %04x",
                        kinds_of[i].name, r, k, x[r * columns + k], expected[r * columns + k],
                        y[k]);
        }
    }
    checkpoint_close(golden);
}

static void f8_bytes_are_e4m3_numbers(void **state)
{
    (void)state;
    assert_true(f32_from_e4m3(0x00) == 0 && f32_from_e4m3(0x80) == 0);
    assert_true(f32_from_e4m3(0x01) == 0x1p-9f && f32_from_e4m3(0x07) == 7 * 0x1p-9f);
    assert_true(f32_from_e4m3(0x08) == 0x1p-6f && f32_from_e4m3(0x38) == 1.0f);
    assert_true(f32_from_e4m3(0x7e) == 448.0f && f32_from_e4m3(0xfe) == -448.0f);
    assert_true(f32_from_e4m3(0x7f) != f32_from_e4m3(0x7f));
}

static void numbers_become_their_nearest_e4m3_code(void **state)
{
    (void)state;
    for (unsigned code = 0; code < 256; code++)
        if ((code & 0x7f) != 0x7f)
            assert_int_equal(e4m3_from_f32(f32_from_e4m3((uint8_t)code)), code);
    for (unsigned code = 0; code < 0x7e; code++) { /* ties go to the even code */
        float tie = (f32_from_e4m3((uint8_t)code) + f32_from_e4m3((uint8_t)(code + 1))) / 2;
        assert_int_equal(e4m3_from_f32(tie), code + (code & 1));
        assert_int_equal(e4m3_from_f32(-nextafterf(tie, 0)), 0x80 | code);
        assert_int_equal(e4m3_from_f32(nextafterf(tie, 448)), code + 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_layouts_give_the_weights_of_hugging_face),
        cmocka_unit_test(parts_that_begin_anywhere_give_the_same_weights),
        cmocka_unit_test(only_a_share_of_columns_is_read),
        cmocka_unit_test(packed_codes_give_the_same_weights),
        cmocka_unit_test(extreme_scales_give_the_weights_of_scalar_code),
        cmocka_unit_test(modules_that_are_left_out_are_not_quantised),
        cmocka_unit_test(each_module_has_the_scheme_of_its_closest_target),
        cmocka_unit_test(activations_that_stay_as_they_are_give_a_warning),
        cmocka_unit_test(activations_are_those_of_compressed_tensors),
        cmocka_unit_test(f8_bytes_are_e4m3_numbers),
        cmocka_unit_test(numbers_become_their_nearest_e4m3_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
