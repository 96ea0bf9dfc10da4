/* Quantised matrices that are refused: damaged ones, truncated ones, and configs that contradict their tensors. */
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
#include "sharding/checkpoint/checkpoint.h"
#include "tests/quantised_fixture.h"

/* Bytes that replace those of a tensor of the golden file. */
typedef struct damage {
    const char *kind, *tensor;
    size_t at, n;
    const char *bytes;
    const char *object, *expected, *found;
} damage_t;

/* A copy of the golden file. bytes: [GOLDEN_BYTES] */
#define GOLDEN_BYTES ((size_t)1 << 20)

static size_t read_golden(char *bytes)
{
    FILE *in = fopen(GOLDEN, "rb");
    assert_non_null(in);
    size_t n = fread(bytes, 1, GOLDEN_BYTES, in);
    fclose(in);
    assert_true(n < GOLDEN_BYTES);
    return n;
}

/* path: of mkstemp() */
static void write_copy(const char *bytes, size_t n, char *path)
{
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, bytes, n) == (ssize_t)n && close(file) == 0);
}

/* The golden file, damaged, as a file of its own. */
static void write_damaged(const damage_t *d, char *path)
{
    static char bytes[GOLDEN_BYTES];
    char name[96];
    fail_t fail = {0};
    checkpoint_t *checkpoint;
    snprintf(name, sizeof name, "%s.%s", d->kind, d->tensor);
    assert_int_equal(checkpoint_open_file(&checkpoint, GOLDEN, &fail), 0);
    const checkpoint_tensor_t *tensor = checkpoint_find(checkpoint, name);
    assert_non_null(tensor);
    size_t n = read_golden(bytes);
    memcpy(bytes + tensor->offset_bytes + d->at, d->bytes, d->n);
    checkpoint_close(checkpoint);
    write_copy(bytes, n, path);
}

static void stage_whole(
    checkpoint_t *checkpoint, const char *kind, const quantised_scheme_t *scheme, fail_t *fail)
{
    quantised_t matrix;
    const quantised_stage_t *stage;
    char name[64];
    snprintf(name, sizeof name, "%s.weight", kind);
    if (quantised_find(checkpoint, name, scheme, ROWS, COLUMNS, &matrix, fail) != 0)
        return;
    size_t bytes = quantised_stage_bytes(&matrix, ROWS, COLUMNS);
    void *memory = memory_alloc(bytes, "stage", fail);
    quantised_stage(
        checkpoint, &matrix, (quantised_part_t){0, ROWS, 0, COLUMNS}, memory, &stage, fail);
    memory_free(memory, bytes);
}

static void expect_parts(const fail_t *fail, const char *a, const char *b, const char *c)
{
    const char *const parts[] = {a, b, c};
    assert_int_equal(fail->status, FAIL_MODEL);
    for (size_t i = 0; i < 3; i++)
        if (strstr(fail->message, parts[i]) == NULL)
            fail_msg("expected \"%s\" in \"%s\"", parts[i], fail->message);
}

/* Stages a matrix of a file, which is removed. quantization: NULL where the file says it */
static void stage_file(const char *path, const char *kind, const char *quantization, fail_t *fail)
{
    quantised_scheme_t scheme;
    checkpoint_t *checkpoint;
    assert_int_equal(checkpoint_open_file(&checkpoint, path, fail), 0);
    read_scheme(
        quantization != NULL ? quantization : checkpoint_metadata(checkpoint, kind), &scheme);
    stage_whole(checkpoint, kind, &scheme, fail);
    checkpoint_close(checkpoint);
    unlink(path);
}

static void damaged_scales_and_groups_are_refused(void **state)
{
    (void)state;
    static const damage_t damages[] = {
        {"gptq-int4", "scales", 10, 2, "\0\0", "gptq-int4.scales", "above 0 and finite",
            "found 0 at [0, 5]"},
        {"gptq-int4", "scales", 2, 2, "\0\x7c", "gptq-int4.scales", "above 0 and finite",
            "found inf at [0, 1]"},
        {"awq", "scales", 0, 2, "\0\x7e", "awq.scales", "above 0 and finite", "found nan"},
        {"packed-int4", "weight_scale", 3, 1, "\xbf", "packed-int4.weight_scale",
            "above 0 and finite", "found -"},
        {"packed-int8", "weight_scale", 0, 2, "\xc0\x7f", "packed-int8.weight_scale",
            "above 0 and finite", "found nan at [0, 0]"},
        {"int8", "weight_scale", 4, 4, "\0\0\x80\xff", "int8.weight_scale", "above 0 and finite",
            "found -inf at [1, 0]"},
        {"fp8-channel", "weight_scale", 142, 2, "\0\0", "fp8-channel.weight_scale",
            "above 0 and finite", "found 0 at [71, 0]"},
        {"fp8-inv-exponents", "weight_scale_inv", 0, 1, "\xff",
            "fp8-inv-exponents.weight_scale_inv", "above 0 and finite", "found inf at [0, 0]"},
        {"fp8-inv", "weight_scale_inv", 0, 4, "\0\0\0\x80", "fp8-inv.weight_scale_inv",
            "above 0 and finite", "found -0 at [0, 0]"},
        {"gptq-int4-act-order", "g_idx", 40, 4, "\4\0\0\0", "gptq-int4-act-order.g_idx",
            "groups from 0 to 3", "found 4 at [10]"},
        {"gptq-int4-act-order", "g_idx", 0, 4, "\xff\xff\xff\xff", "gptq-int4-act-order.g_idx",
            "groups from 0 to 3", "found -1 at [0]"},
        {"gptq-int4-asym", "g_idx", 0, 4, "\1\0\0\0", "gptq-int4-asym.g_idx",
            "group 0 at [0], as desc_act is false", "found 1"},
        {"packed-int8", "weight_shape", 0, 1, "\x49", "packed-int8.weight_shape", "72, 104",
            "found 73, 104"},
    };
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        const damage_t *d = &damages[i];
        char path[] = "/tmp/choir-quantised-XXXXXX";
        fail_t fail = {0};
        write_damaged(d, path);
        stage_file(path, d->kind, NULL, &fail);
        expect_parts(&fail, d->object, d->expected, d->found);
    }
}

/* A file whose tensors, all of 4 bytes an element, are zeros. */
typedef struct layout {
    const char *name, *dtype;
    size_t rows, columns;
} layout_t;

static void write_layout(const layout_t *tensors, char *path)
{
    static char bytes[GOLDEN_BYTES];
    size_t begin = 0, length = 0;
    char *header = bytes + 8;
    memset(bytes, 0, sizeof bytes);
    for (const layout_t *t = tensors; t->name != NULL; t++) {
        size_t end = begin + t->rows * t->columns * 4;
        length += (size_t)snprintf(header + length, sizeof bytes - 8 - length,
            "%s\"q.%s\":{\"dtype\":\"%s\",\"shape\":[%zu,%zu],\"data_offsets\":[%zu,%zu]}",
            begin == 0 ? "{" : ",", t->name, t->dtype, t->rows, t->columns, begin, end);
        begin = end;
    }
    header[length++] = '}';
    uint64_t header_bytes = length;
    memcpy(bytes, &header_bytes, sizeof header_bytes);
    assert_true(8 + length + begin <= sizeof bytes);
    write_copy(bytes, 8 + length + begin, path);
}

static void truncated_zeros_and_scales_are_refused(void **state)
{
    (void)state;
    static const char gptq[] = "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32}",
                      awq[] = "{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 32}",
                      gptq8[] = "{\"quant_method\": \"gptq\", \"bits\": 8, \"group_size\": -1}";
    static const struct {
        const char *quantization;
        layout_t tensors[4];
        const char *object, *expected, *found;
    } cases[] = {
        {gptq, {{"qweight", "I32", 13, 72}, {"qzeros", "I32", 4, 8}, {"scales", "F32", 4, 72}},
            "q.qzeros", "shape [4, 9] (GPTQ int4, group 32)", "found [4, 8]"},
        {gptq, {{"qweight", "I32", 13, 72}, {"qzeros", "I32", 3, 9}, {"scales", "F32", 4, 72}},
            "q.qzeros", "shape [4, 9] (GPTQ int4, group 32)", "found [3, 9]"},
        {gptq, {{"qweight", "I32", 13, 72}, {"qzeros", "I32", 4, 9}, {"scales", "F32", 3, 72}},
            "q.scales", "shape [4, 72] (GPTQ int4, group 32)", "found [3, 72]"},
        {gptq8, {{"qweight", "I32", 26, 72}, {"qzeros", "I32", 1, 17}, {"scales", "F32", 1, 72}},
            "q.qzeros", "shape [1, 18] (GPTQ int8", "found [1, 17]"},
        {awq, {{"qweight", "I32", 104, 9}, {"qzeros", "I32", 4, 1}, {"scales", "F32", 4, 72}},
            "q.qzeros", "shape [4, 9] (AWQ int4, group 32)", "found [4, 1]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[] = "/tmp/choir-quantised-XXXXXX";
        fail_t fail = {0};
        write_layout(cases[i].tensors, path);
        stage_file(path, "q", cases[i].quantization, &fail);
        expect_parts(&fail, cases[i].object, cases[i].expected, cases[i].found);
    }
}

static void a_config_that_contradicts_its_tensors_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *quantization, *object, *expected, *found;
    } cases[] = {
        {"gptq-int4", "{\"quant_method\": \"gptq\", \"bits\": 8, \"group_size\": 128}",
            "gptq-int4.qweight", "shape [26, 72] (GPTQ int8, group 128)", "found [13, 72]"},
        {"gptq-int4", "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32}",
            "gptq-int4.qzeros", "shape [4, 9]", "found [1, 9]"},
        {"gptq-int4", "{\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128}",
            "gptq-int4.qweight", "shape [104, 9] (AWQ int4, group 128)", "found [13, 72]"},
        {"awq", "{\"quant_method\": \"fp8\"}", "awq.weight", "fp8", "no such tensor"},
        {"int8", "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128}", "int8.qweight",
            "GPTQ int4", "found the tensor weight without it"},
        {"int8", "{\"quant_method\": \"fp8\"}", "int8.weight", "F8_E4M3", "found I8"},
        {"auto-round-gptq",
            "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, \"desc_act\": true}",
            "auto-round-gptq.g_idx", "GPTQ int4", "no such tensor"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        quantised_scheme_t scheme;
        checkpoint_t *checkpoint;
        fail_t fail = {0};
        read_scheme(cases[i].quantization, &scheme);
        assert_int_equal(checkpoint_open_file(&checkpoint, GOLDEN, &fail), 0);
        stage_whole(checkpoint, cases[i].kind, &scheme, &fail);
        expect_parts(&fail, cases[i].object, cases[i].expected, cases[i].found);
        checkpoint_close(checkpoint);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_scales_and_groups_are_refused),
        cmocka_unit_test(truncated_zeros_and_scales_are_refused),
        cmocka_unit_test(a_config_that_contradicts_its_tensors_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
