/* Reading checkpoints: files are written here by hand, whole or broken, in a temporary directory.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "sharding/checkpoint/checkpoint.h"
#include "sharding/checkpoint/safetensors.h"
#include "tests/checkpoint_fixture.h"

/* ---- Faults ---------------------------------------------------------------------------------- */

/* This program's own pread, which the library calls: interrupts every other call, and reads a few
 * bytes at a time. */
static int n_interrupts_due;
static size_t most_bytes_at_once;
static int n_preads;

ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
    __atomic_fetch_add(&n_preads, 1, __ATOMIC_RELAXED);
    if (n_interrupts_due > 0 && n_preads % 2 == 0) {
        n_interrupts_due--;
        errno = EINTR;
        return -1;
    }
    if (most_bytes_at_once > 0 && bytes > most_bytes_at_once)
        bytes = most_bytes_at_once;
    return syscall(SYS_pread64, fd, buffer, bytes, offset);
}

/* ---- Headers --------------------------------------------------------------------------------- */

static void tensors_are_listed_in_the_order_of_their_names(void **state)
{
    (void)state;
    write_tensors(SINGLE, TWO_TENSORS, NULL, 32);
    checkpoint_t *checkpoint = open_directory();
    assert_int_equal(checkpoint_count(checkpoint), 2);
    const checkpoint_tensor_t *a = checkpoint_at(checkpoint, 0), *b = checkpoint_at(checkpoint, 1);
    assert_string_equal(a->name, "a.bias");
    assert_string_equal(b->name, "b.weight");
    assert_string_equal(a->dtype_name, "BF16");
    assert_int_equal(b->dtype, DTYPE_F32);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->offset_bytes, 8 + strlen(TWO_TENSORS));
    assert_int_equal(a->offset_bytes, b->offset_bytes + 24);
    assert_int_equal(a->size_bytes, 8);
    assert_string_equal(a->file, path_of(SINGLE));
    assert_ptr_equal(checkpoint_find(checkpoint, "b.weight"), b);
    assert_null(checkpoint_find(checkpoint, "c"));
    assert_string_equal(checkpoint_metadata(checkpoint, "format"), "pt");
    assert_null(checkpoint_metadata(checkpoint, "other"));
    checkpoint_close(checkpoint);
}

static void empty_tensors_and_scalars_are_tensors(void **state)
{
    (void)state;
    write_tensors(SINGLE,
        "{\"empty\":{\"dtype\":\"F32\",\"shape\":[0,9007199254740992],\"data_offsets\":[4,4]},"
        "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}",
        &(float){2.5f}, 4);
    checkpoint_t *checkpoint = open_directory();
    fail_t fail = {0};
    float value = 0;
    const checkpoint_tensor_t *scalar = checkpoint_find(checkpoint, "scalar");
    assert_int_equal(
        checkpoint_read(checkpoint, scalar, 0, 1, 0, 1, &value, DTYPE_F32, NULL, &fail), 0);
    assert_true(value == 2.5f);
    assert_int_equal(checkpoint_read(checkpoint, checkpoint_find(checkpoint, "empty"), 0, 0, 0, 5,
                         &value, DTYPE_F32, NULL, &fail),
        0);
    assert_int_equal(checkpoint_bytes_read(checkpoint), 4);
    checkpoint_close(checkpoint);
    write_tensors(SINGLE, "{}", NULL, 0);
    checkpoint = open_directory();
    assert_int_equal(checkpoint_count(checkpoint), 0);
    checkpoint_close(checkpoint);
}

static void tensors_may_lie_at_any_offset(void **state)
{
    /* The I8 tensor pushes the others to odd offsets; so does an odd length of the header. */
    static const char header[] =
        "{\"__metadata__\":null,\"a\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}"
        "," F32_AT("b", "[2,2]", 3,
            19) ",\"c\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[19,23]}}";
    static const float b[] = {1.5f, -2.25f, 3e38f, 1e-40f};
    static const uint16_t c[] = {0x3f80, 0xc000};
    (void)state;
    char data[23] = {0};
    memcpy(data + 3, b, sizeof b);
    memcpy(data + 19, c, sizeof c);
    for (size_t pad = 0; pad < 2; pad++) {
        char padded[sizeof header + 1];
        snprintf(padded, sizeof padded, "%s%s", header, pad != 0 ? " " : "");
        write_tensors(SINGLE, padded, data, sizeof data);
        checkpoint_t *checkpoint = open_directory();
        assert_null(checkpoint_metadata(checkpoint, "format"));
        const checkpoint_tensor_t *found = checkpoint_find(checkpoint, "b");
        fail_t fail = {0};
        float column[2], converted[2];
        double scratch[4];
        assert_int_equal(
            checkpoint_read(checkpoint, found, 0, 2, 1, 2, column, DTYPE_F32, NULL, &fail), 0);
        assert_true(column[0] == -2.25f && column[1] == 1e-40f);
        found = checkpoint_find(checkpoint, "c");
        assert_int_equal(
            checkpoint_read(checkpoint, found, 0, 2, 0, 1, converted, DTYPE_F32, scratch, &fail),
            0);
        assert_true(converted[0] == 1 && converted[1] == -2);
        checkpoint_close(checkpoint);
    }
}

static void dtypes_that_cannot_be_computed_with_are_listed_but_not_readable(void **state)
{
    (void)state;
    write_tensors(SINGLE,
        "{\"fp8\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,2],\"data_offsets\":[8,12]},"
        "\"fp4\":{\"dtype\":\"F4\",\"shape\":[2,2],\"data_offsets\":[12,14]},"
        "\"ids\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}",
        NULL, 14);
    checkpoint_t *checkpoint = open_directory();
    const checkpoint_tensor_t *fp8 = checkpoint_find(checkpoint, "fp8"), *tensor;
    assert_false(fp8->readable);
    assert_string_equal(fp8->dtype_name, "F8_E4M3");
    assert_int_equal(checkpoint_find(checkpoint, "fp4")->size_bytes, 2);
    fail_t fail = {0};
    assert_int_equal(checkpoint_get(checkpoint, "fp8", 2, 2, &tensor, &fail), FAIL_MODEL);
    check_message(
        &fail, (const char *[]){"tensor fp8: dtype", "expected BF16", "found F8_E4M3"}, 3);
    float value[4];
    fail = (fail_t){0};
    assert_int_equal(
        checkpoint_read(checkpoint, fp8, 0, 2, 0, 2, value, DTYPE_F32, NULL, &fail), FAIL_MODEL);
    checkpoint_close(checkpoint);
}

static void tensors_of_any_dtype_can_be_read_as_bytes(void **state)
{
    (void)state;
    write_tensors(SINGLE, "{\"ids\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]}}",
        "\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17\20", 16);
    checkpoint_t *checkpoint = open_directory();
    const checkpoint_tensor_t *ids = checkpoint_at(checkpoint, 0);
    char bytes[6] = {0};
    fail_t fail = {0};
    assert_int_equal(checkpoint_read_bytes(checkpoint, ids, 7, 12, bytes, &fail), 0);
    assert_string_equal(bytes, "\10\11\12\13\14");
    assert_int_equal(checkpoint_read_bytes(checkpoint, ids, 12, 17, bytes, &fail), FAIL_INTERNAL);
    checkpoint_close(checkpoint);
}

static void wrong_shapes_and_missing_tensors_are_named(void **state)
{
    (void)state;
    write_tensors(SINGLE, TWO_TENSORS, NULL, 32);
    checkpoint_t *checkpoint = open_directory();
    const checkpoint_tensor_t *tensor = NULL;
    fail_t fail = {0};
    assert_int_equal(checkpoint_get(checkpoint, "b.weight", 2, 3, &tensor, &fail), 0);
    assert_string_equal(tensor->name, "b.weight");
    assert_int_equal(checkpoint_get(checkpoint, "a.bias", 4, 0, &tensor, &fail), 0);
    assert_int_equal(checkpoint_get(checkpoint, "b.weight", 3, 2, &tensor, &fail), FAIL_MODEL);
    check_message(
        &fail, (const char *[]){"tensor b.weight", "expected shape [3, 2]", "found [2, 3]"}, 3);
    fail = (fail_t){0};
    assert_int_equal(checkpoint_get(checkpoint, "a.bias", 4, 1, &tensor, &fail), FAIL_MODEL);
    check_message(
        &fail, (const char *[]){"tensor a.bias", "expected shape [4, 1]", "found [4]"}, 3);
    fail = (fail_t){0};
    assert_int_equal(
        checkpoint_get(checkpoint, "lm_head.weight", 4, 2, &tensor, &fail), FAIL_MODEL);
    check_message(&fail,
        (const char *[]){directory, "tensor lm_head.weight: expected shape [4, 2]", "no such"}, 3);
    checkpoint_close(checkpoint);
}

typedef struct bad_header {
    const char *name; /* of the case */
    const char *header;
    size_t n_data;
    const char *object, *expected, *found;
} bad_header_t;

static const bad_header_t bad_headers[] = {
    {"header_that_is_not_json_is_refused", "{\"a\":", 0, SINGLE ": header",
        "expected a JSON object", "found"},
    {"header_that_is_an_array_is_refused", "[1,2,3]", 0, SINGLE ": header", "begins with {", ""},
    {"header_that_begins_with_space_is_refused", " {}", 0, SINGLE ": header", "begins with {", ""},
    {"text_after_the_header_is_refused", "{}x", 0, SINGLE ": header", "expected", "end of file"},
    {"duplicate_tensor_names_are_refused",
        "{" F32_AT("a", "[1]", 0, 4) "," F32_AT("a", "[1]", 4, 8) "}", 8, SINGLE ": header",
        "distinct tensor names", "duplicate object key near '\"a\"'"},
    {"unknown_dtype_is_refused", "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        4, "tensor a: dtype", "expected BF16", "found F33"},
    {"lower_case_dtype_is_refused",
        "{\"a\":{\"dtype\":\"bf16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "tensor a: dtype",
        "expected BF16", "found bf16"},
    {"dtype_that_is_a_number_is_refused",
        "{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor a",
        "expected an object with a dtype", "found none"},
    {"tensor_that_is_not_an_object_is_refused", "{\"a\":[1]}", 4, "tensor a",
        "expected an object with a dtype", "found none"},
    {"missing_shape_is_refused", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4,
        "tensor a: shape", "expected an array of at most 8 sizes", "something else"},
    {"nine_dimensions_are_refused", "{" F32_AT("a", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4,
        "tensor a: shape", "at most 8 sizes", "found more"},
    {"shape_of_2_to_the_63_is_refused", "{" F32_AT("a", "[9223372036854775808]", 0, 4) "}", 4,
        "tensor a: shape[0]", "from 0 to 2^53", "found 9.2233720368547758e+18"},
    {"negative_shape_is_refused", "{" F32_AT("a", "[4,-1]", 0, 4) "}", 4, "tensor a: shape[1]",
        "whole number from 0", "found -1"},
    {"fractional_shape_is_refused", "{" F32_AT("a", "[1.5]", 0, 4) "}", 4, "tensor a: shape[0]",
        "whole number from 0", "found 1.5"},
    {"shape_as_text_is_refused", "{" F32_AT("a", "[\"4\"]", 0, 4) "}", 4, "tensor a: shape[0]",
        "whole number", "something else"},
    {"product_of_a_shape_that_overflows_is_refused",
        "{" F32_AT("a", "[4294967296,2147483648,4]", 0, 4) "}", 4, "tensor a: shape",
        "below 2^64 bits", "found more"},
    {"offsets_that_disagree_with_the_shape_are_refused", "{" F32_AT("a", "[3]", 0, 16) "}", 16,
        "tensor a: data_offsets", "expected the 12 bytes", "found [0, 16]"},
    {"offsets_that_run_backwards_are_refused", "{" F32_AT("a", "[1]", 8, 4) "}", 8,
        "tensor a: data_offsets", "expected the 4 bytes", "found [8, 4]"},
    {"a_lone_offset_is_refused", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}",
        4, "tensor a: data_offsets", "[begin, end]", "something else"},
    {"absurd_offsets_are_refused",
        "{" F32_AT("a", "[1]", 18446744073709551612, 18446744073709551616) "}", 4,
        "tensor a: data_offsets[0]", "from 0 to 2^53", "found 1.8446744073709552e+19"},
    {"overlapping_tensors_are_refused",
        "{" F32_AT("a", "[4]", 0, 16) "," F32_AT("b", "[4]", 8, 24) "}", 24,
        "tensor b: data_offsets", "begin at 16 after a", "an overlap from 8"},
    {"two_names_for_the_same_bytes_are_refused",
        "{" F32_AT("a", "[4]", 0, 16) "," F32_AT("b", "[4]", 0, 16) "}", 16,
        "tensor b: data_offsets", "begin at 16 after a", "an overlap from 0"},
    {"hole_between_tensors_is_refused",
        "{" F32_AT("a", "[1]", 0, 4) "," F32_AT("b", "[1]", 8, 12) "}", 12,
        "tensor b: data_offsets", "begin at 4 after a", "a hole up to 8"},
    {"hole_before_the_first_tensor_is_refused", "{" F32_AT("a", "[1]", 4, 8) "}", 8,
        "tensor a: data_offsets", "begin at 0 after the header", "a hole up to 4"},
    {"bytes_after_the_last_tensor_are_refused", "{" F32_AT("a", "[1]", 0, 4) "}", 12, SINGLE,
        "expected 4 bytes of data", "found 12"},
    {"truncated_data_are_refused", "{" F32_AT("a", "[1]", 0, 4) "," F32_AT("b", "[9]", 4, 40) "}",
        39, "tensor b: data_offsets", "within the file's 39 bytes of data", "found 40"},
    {"metadata_that_are_no_object_are_refused", "{\"__metadata__\":3}", 0, "__metadata__",
        "expected an object", "found something else"},
    {"metadata_values_that_are_no_text_are_refused", "{\"__metadata__\":{\"format\":3}}", 0,
        "__metadata__: format", "expected a string", "found something else"},
    {"messages_about_names_with_line_breaks_stay_one_line", "{" F32_AT("a\\nb", "[2]", 0, 4) "}", 4,
        "tensor a\\nb: data_offsets", "expected the 8 bytes", "found [0, 4]"},
    {"half_a_byte_is_refused", "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
        "tensor a", "expected whole bytes", "found a shape of 12 bits"},
};

static void bad_header_is_refused(void **state)
{
    const bad_header_t *bad = *state;
    write_tensors(SINGLE, bad->header, NULL, bad->n_data);
    expect_failure(FAIL_FORMAT, bad->object, bad->expected, bad->found);
    remove_files(NULL);
}

static void truncated_headers_are_refused(void **state)
{
    (void)state;
    write_bytes(SINGLE, "", 0);
    expect_failure(FAIL_FORMAT, SINGLE ": truncated", "at least the 8 bytes", "found 0");
    write_bytes(SINGLE, "\x40\0\0", 3);
    expect_failure(FAIL_FORMAT, SINGLE ": truncated", "at least the 8 bytes", "found 3");
    write_bytes(SINGLE, "\x40\0\0\0\0\0\0\0{}", 10);
    expect_failure(FAIL_FORMAT, SINGLE ": truncated", "header of 64 bytes", "found 2");
}

static void absurd_header_lengths_are_refused(void **state)
{
    (void)state;
    write_bytes(SINGLE, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    expect_failure(FAIL_FORMAT, SINGLE ": header length", "expected 2 to 100000000 bytes",
        "found 18446744073709551615");
    write_bytes(SINGLE, "\0\0\0\0\0\0\0\0{}", 10);
    expect_failure(
        FAIL_FORMAT, SINGLE ": header length", "expected 2 to 100000000 bytes", "found 0");
    write_text(SINGLE, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
    expect_failure(FAIL_FORMAT, SINGLE, "expected a safetensors file", "Git LFS pointer");
}

/* Whatever a header's bytes are, parsing ends with tensors inside the file or with one line of
 * explanation. */
static void mutated_headers_never_give_tensors_outside_the_file(void **state)
{
    (void)state;
    uint64_t random = 1;
    size_t n = strlen(TWO_TENSORS), n_accepted = 0;
    static const char digits[] = "0123456789{}[],\":x-.e\n";
    for (int round = 0; round < 20000; round++) {
        char text[sizeof TWO_TENSORS];
        memcpy(text, TWO_TENSORS, n);
        for (int i = 0; i <= round % 3; i++) {
            random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            text[(random >> 33) % n] = digits[(random >> 40) % (sizeof digits - 1)];
        }
        safetensors_t header;
        fail_t fail = {0};
        uint64_t file_bytes = 8 + n + 32;
        if (safetensors_parse(&header, "f", text, n, file_bytes, &fail) == 0) {
            n_accepted++;
            for (size_t i = 0; i < header.n_tensors; i++) {
                const checkpoint_tensor_t *tensor = &header.tensors[i];
                assert_true(tensor->offset_bytes >= 8 + n);
                assert_true(tensor->offset_bytes + tensor->size_bytes <= file_bytes);
            }
            safetensors_clear(&header);
        } else {
            assert_int_equal(fail.status, FAIL_FORMAT);
            assert_null(strchr(fail.message, '\n'));
        }
    }
    assert_true(n_accepted > 100); /* names and values of metadata may change freely */
}

/* ---- Reading --------------------------------------------------------------------------------- */

#define ROWS 600
#define COLUMNS 1000

static float element(size_t row, size_t column)
{
    return (float)(row * COLUMNS + column) / 16;
}

/* "m": [600, 1000] F32, larger than one piece of a conversion. */
static checkpoint_t *open_matrix(void)
{
    static float data[ROWS][COLUMNS];
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < COLUMNS; c++)
            data[r][c] = element(r, c);
    write_tensors(SINGLE, "{" F32_AT("m", "[600,1000]", 0, 2400000) "}", data, sizeof data);
    return open_directory();
}

static void check_read(checkpoint_t *checkpoint, size_t row_begin, size_t row_end, size_t col_begin,
    size_t col_end, dtype_t dtype)
{
    size_t rows = row_end - row_begin, columns = col_end - col_begin;
    const checkpoint_tensor_t *tensor = checkpoint_find(checkpoint, "m");
    uint64_t before = checkpoint_bytes_read(checkpoint);
    size_t n_scratch = checkpoint_scratch_bytes(tensor, rows, columns, dtype);
    void *dst = malloc(rows * columns * dtype_bytes(dtype) + 1);
    void *scratch = n_scratch > 0 ? malloc(n_scratch) : NULL;
    fail_t fail = {0};
    if (checkpoint_read(checkpoint, tensor, row_begin, row_end, col_begin, col_end, dst, dtype,
            scratch, &fail) != 0)
        fail_msg("%s", fail.message);
    assert_int_equal(checkpoint_bytes_read(checkpoint) - before, rows * columns * 4);
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < columns; c++) {
            float expected = element(row_begin + r, col_begin + c);
            size_t i = r * columns + c;
            if (dtype == DTYPE_BF16)
                assert_true(((uint16_t *)dst)[i] == bf16_from_f32(expected));
            else if (dtype == DTYPE_F32)
                assert_true(((float *)dst)[i] == expected);
            else
                assert_true(((double *)dst)[i] == expected);
        }
    }
    free(dst);
    free(scratch);
}

static void any_range_of_rows_and_columns_reads_just_its_bytes(void **state)
{
    (void)state;
    static const dtype_t dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F64};
    checkpoint_t *checkpoint = open_matrix();
    assert_int_equal(checkpoint_bytes_read(checkpoint), 0);
    for (size_t d = 0; d < 3; d++) {
        check_read(checkpoint, 0, ROWS, 0, COLUMNS, dtypes[d]);
        check_read(checkpoint, 17, 599, 0, COLUMNS, dtypes[d]);
        check_read(checkpoint, 599, ROWS, 999, COLUMNS, dtypes[d]);
        check_read(checkpoint, 0, ROWS, 250, 251, dtypes[d]);
        check_read(checkpoint, 3, 90, 1, COLUMNS, dtypes[d]);
        check_read(checkpoint, 5, 5, 0, COLUMNS, dtypes[d]);
        check_read(checkpoint, 5, 9, 7, 7, dtypes[d]);
    }
    checkpoint_close(checkpoint);
}

static void whole_rows_are_one_read_and_columns_one_a_row(void **state)
{
    (void)state;
    checkpoint_t *checkpoint = open_matrix();
    n_preads = 0;
    check_read(checkpoint, 100, 500, 0, COLUMNS, DTYPE_F32);
    assert_int_equal(n_preads, 1);
    check_read(checkpoint, 100, 500, 10, 20, DTYPE_F32);
    assert_int_equal(n_preads, 401);
    checkpoint_close(checkpoint);
}

static void interrupted_and_short_reads_are_continued(void **state)
{
    (void)state;
    checkpoint_t *checkpoint = open_matrix();
    most_bytes_at_once = 1001;
    n_interrupts_due = 50;
    check_read(checkpoint, 0, 60, 0, COLUMNS, DTYPE_F32);
    assert_int_equal(n_interrupts_due, 0);
    n_interrupts_due = 50;
    check_read(checkpoint, 100, 180, 3, 900, DTYPE_BF16);
    assert_int_equal(n_interrupts_due, 0);
    checkpoint_close(checkpoint);
    n_interrupts_due = 3;
    most_bytes_at_once = 5;
    checkpoint = open_directory(); /* headers too */
    assert_int_equal(checkpoint_count(checkpoint), 1);
    checkpoint_close(checkpoint);
}

static void a_file_cut_short_after_opening_is_a_clear_error(void **state)
{
    (void)state;
    checkpoint_t *checkpoint = open_matrix();
    const checkpoint_tensor_t *tensor = checkpoint_find(checkpoint, "m");
    float row[COLUMNS];
    fail_t fail = {0};
    assert_int_equal(truncate(path_of(SINGLE), (off_t)tensor->offset_bytes + 4100), 0);
    assert_int_equal(
        checkpoint_read(checkpoint, tensor, 0, 1, 0, COLUMNS, row, DTYPE_F32, NULL, &fail), 0);
    assert_int_equal(
        checkpoint_read(checkpoint, tensor, 1, 2, 0, COLUMNS, row, DTYPE_F32, NULL, &fail),
        FAIL_FILE);
    check_message(&fail,
        (const char *[]){SINGLE ": tensor m", "expected 4000 bytes", "after 100 of them",
            "changed after it was opened"},
        4);
    checkpoint_close(checkpoint);
}

static void ranges_outside_the_tensor_are_our_own_bug(void **state)
{
    (void)state;
    checkpoint_t *checkpoint = open_matrix();
    const checkpoint_tensor_t *tensor = checkpoint_find(checkpoint, "m");
    float value;
    static const size_t ranges[][4] = {
        {0, ROWS + 1, 0, 1}, {0, 1, 0, COLUMNS + 1}, {2, 1, 0, 1}, {0, 1, 2, 1}};
    for (size_t i = 0; i < 4; i++) {
        fail_t fail = {0};
        assert_int_equal(checkpoint_read(checkpoint, tensor, ranges[i][0], ranges[i][1],
                             ranges[i][2], ranges[i][3], &value, DTYPE_F32, NULL, &fail),
            FAIL_INTERNAL);
        check_message(&fail, (const char *[]){"tensor m", "[600, 1000]"}, 2);
    }
    assert_int_equal(checkpoint_bytes_read(checkpoint), 0);
    checkpoint_close(checkpoint);
}

static void halves_and_floats_round_to_the_nearest_even_bf16(void **state)
{
    (void)state;
    /* f16: 1 + 1/128 exact, ties at 1 + 1/256 (down to even) and 1 + 3/256 (up to even), smallest
     * denormal, -inf */
    static const uint16_t halves[] = {0x3c08, 0x3c04, 0x3c0c, 0x0001, 0xfc00, 0x8000};
    static const uint16_t from_halves[] = {0x3f81, 0x3f80, 0x3f82, 0x3380, 0xff80, 0x8000};
    static const uint32_t floats[] = {
        0x3f808000, 0x3f818000, 0x3f808001, 0x7f7fffff, 0x00000001, 0xffc00001};
    static const uint16_t from_floats[] = {0x3f80, 0x3f82, 0x3f81, 0x7f80, 0x0000, 0x7fc0};
    unsigned char data[36];
    memcpy(data, floats, 24);
    memcpy(data + 24, halves, 12);
    write_tensors(SINGLE,
        "{" F32_AT("f", "[2,3]", 0,
            24) ","
                "\"h\":{\"dtype\":\"F16\",\"shape\":[6],\"data_offsets\":[24,36]}}",
        data, sizeof data);
    checkpoint_t *checkpoint = open_directory();
    uint16_t values[6];
    uint32_t scratch[6];
    fail_t fail = {0};
    const checkpoint_tensor_t *f = checkpoint_find(checkpoint, "f");
    const checkpoint_tensor_t *h = checkpoint_find(checkpoint, "h");
    assert_int_equal(checkpoint_scratch_bytes(h, 6, 1, DTYPE_BF16), 12);
    assert_int_equal(
        checkpoint_read(checkpoint, h, 0, 6, 0, 1, values, DTYPE_BF16, scratch, &fail), 0);
    assert_memory_equal(values, from_halves, sizeof values);
    assert_int_equal(
        checkpoint_read(checkpoint, f, 0, 2, 0, 3, values, DTYPE_BF16, scratch, &fail), 0);
    assert_memory_equal(values, from_floats, sizeof values);
    float widened[6];
    assert_int_equal(
        checkpoint_read(checkpoint, h, 0, 6, 0, 1, widened, DTYPE_F32, scratch, &fail), 0);
    assert_true(widened[0] == 1.0078125f && widened[3] == 0x1p-24f);
    assert_int_equal(checkpoint_bytes_read(checkpoint), 12 + 24 + 12);
    checkpoint_close(checkpoint);
}

static void *read_rows(void *argument)
{
    checkpoint_t *checkpoint = argument;
    const checkpoint_tensor_t *tensor = checkpoint_find(checkpoint, "m");
    float row[COLUMNS];
    fail_t fail = {0};
    for (size_t r = 0; r < ROWS; r++)
        if (checkpoint_read(
                checkpoint, tensor, r, r + 1, 0, COLUMNS, row, DTYPE_F32, NULL, &fail) != 0 ||
            row[7] != element(r, 7))
            return checkpoint;
    return NULL;
}

static void threads_read_at_the_same_time_and_every_byte_is_counted(void **state)
{
    (void)state;
    checkpoint_t *checkpoint = open_matrix();
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_rows, checkpoint), 0);
    for (size_t i = 0; i < 4; i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_int_equal(checkpoint_bytes_read(checkpoint), (uint64_t)4 * ROWS * COLUMNS * 4);
    checkpoint_close(checkpoint);
}

static int reset(void **state)
{
    n_interrupts_due = 0;
    most_bytes_at_once = 0;
    return remove_files(state);
}

#define CASE(f) cmocka_unit_test_teardown(f, reset)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(tensors_are_listed_in_the_order_of_their_names),
        CASE(empty_tensors_and_scalars_are_tensors),
        CASE(tensors_may_lie_at_any_offset),
        CASE(dtypes_that_cannot_be_computed_with_are_listed_but_not_readable),
        CASE(tensors_of_any_dtype_can_be_read_as_bytes),
        CASE(wrong_shapes_and_missing_tensors_are_named),
        CASE(truncated_headers_are_refused),
        CASE(absurd_header_lengths_are_refused),
        CASE(mutated_headers_never_give_tensors_outside_the_file),
        CASE(any_range_of_rows_and_columns_reads_just_its_bytes),
        CASE(whole_rows_are_one_read_and_columns_one_a_row),
        CASE(interrupted_and_short_reads_are_continued),
        CASE(a_file_cut_short_after_opening_is_a_clear_error),
        CASE(ranges_outside_the_tensor_are_our_own_bug),
        CASE(halves_and_floats_round_to_the_nearest_even_bf16),
        CASE(threads_read_at_the_same_time_and_every_byte_is_counted),
    };
    enum { N_BAD = sizeof bad_headers / sizeof *bad_headers };
    struct CMUnitTest bad[N_BAD];
    for (size_t i = 0; i < N_BAD; i++)
        bad[i] = (struct CMUnitTest){.name = bad_headers[i].name,
            .test_func = bad_header_is_refused,
            .initial_state = (void *)(uintptr_t)&bad_headers[i]};
    int failed = cmocka_run_group_tests_name("checkpoint", tests, make_directory, remove_directory);
    failed += cmocka_run_group_tests_name("bad header", bad, make_directory, remove_directory);
    return failed;
}
