#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launch/bench_report.h"

enum { REPEAT = 4, RANKS = 2 };

typedef struct fixture {
    double values[BENCH_METRICS * REPEAT];
    bench_split_t splits[BENCH_PHASES * RANKS];
    bench_report_t report;
    bench_about_t about;
} fixture_t;

/* Repetition i of metric m is 100 m + 1, 4, 3, 2. */
static fixture_t *fixture(void)
{
    static const double order[REPEAT] = {1, 4, 3, 2};
    fixture_t *f = calloc(1, sizeof *f);
    assert_non_null(f);
    for (size_t m = 0; m < BENCH_METRICS; m++)
        for (size_t i = 0; i < REPEAT; i++)
            f->values[m * REPEAT + i] = 100 * (double)m + order[i];
    for (size_t i = 0; i < BENCH_PHASES * RANKS; i++)
        f->splits[i] = (bench_split_t){.matrix = 1 + (double)i, .waiting = 0.5};
    f->report = (bench_report_t){.n_ranks = RANKS,
        .repeat = REPEAT,
        .values = f->values,
        .splits = f->splits,
        .weight_bytes = 1e9,
        .prefill_bytes = 3e9,
        .logits_digest = 0xab};
    f->about = (bench_about_t){.model = "shape",
        .cpu = "a \"quoted\" CPU, of two words",
        .time_utc = "2026-01-31T12:00:00Z",
        .dtype = "bf16",
        .isa = "avx2",
        .dot = "chain",
        .order = "torch",
        .attention = "sdpa",
        .combine = "gather",
        .comm = "auto",
        .n_layers = 2,
        .model_layers = 4,
        .ranks = RANKS,
        .nodes = 1,
        .threads = 1,
        .options = {.repeat = REPEAT, .prompt_tokens = 8}};
    return f;
}

static void the_spread_is_that_of_all_repetitions(void **state)
{
    (void)state;
    fixture_t *f = fixture();
    bench_spread_t spread = bench_spread(&f->report, BENCH_FMA_PEAK);
    assert_true(spread.median == 102.5 && spread.min == 101 && spread.max == 104);
    f->report.repeat = 3; /* an odd number of values 1, 4, 3 */
    spread = bench_spread(&f->report, BENCH_READ_BANDWIDTH);
    assert_true(spread.median == 3 && spread.min == 1 && spread.max == 4);
    f->report.repeat = 1;
    spread = bench_spread(&f->report, BENCH_READ_BANDWIDTH);
    assert_true(spread.median == 1 && spread.min == 1 && spread.max == 1);
    free(f);
}

static double real_of(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    assert_true(json_is_real(value));
    return json_real_value(value);
}

static void json_says_what_the_report_holds(void **state)
{
    (void)state;
    fixture_t *f = fixture();
    json_t *object = bench_json(&f->about, &f->report);
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    json_error_t error;
    object = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    assert_non_null(object);
    free(text);
    for (int m = 0; m < BENCH_METRICS; m++) {
        const char *name = bench_metric_name((bench_metric_t)m);
        json_t *samples = json_object_get(json_object_get(object, "samples"), name);
        assert_true(real_of(object, name) == 100 * m + 2.5);
        assert_true(real_of(json_object_get(object, "min"), name) == 100 * m + 1);
        assert_true(real_of(json_object_get(object, "max"), name) == 100 * m + 4);
        assert_int_equal(json_array_size(samples), REPEAT);
        assert_true(json_real_value(json_array_get(samples, 1)) == 100 * m + 4);
    }
    assert_string_equal(
        json_string_value(json_object_get(object, "logits_digest")), "00000000000000ab");
    assert_int_equal(json_integer_value(json_object_get(object, "model_layers")), 4);
    json_t *split = json_array_get(json_object_get(object, "decode_split"), 1);
    assert_true(real_of(split, "matrix_s") == 4);
    assert_true(real_of(split, "waiting_s") == 0.5);
    json_decref(object);
    free(f);
}

static void a_rate_that_the_cpu_lacks_is_null(void **state)
{
    (void)state;
    fixture_t *f = fixture();
    memset(f->values + BENCH_PEAK * REPEAT, 0, REPEAT * sizeof *f->values);
    json_t *object = bench_json(&f->about, &f->report);
    assert_true(json_is_null(json_object_get(object, "peak_flop_per_s")));
    assert_true(json_is_null(json_object_get(json_object_get(object, "max"), "peak_flop_per_s")));
    json_decref(object);
    free(f);
}

static size_t fields(const char *line)
{
    size_t n = 1;
    bool quoted = false;
    for (; *line != 0 && *line != '\n'; line++) {
        quoted ^= *line == '"';
        n += !quoted && *line == ',';
    }
    return n;
}

static void csv_has_a_field_for_every_name_and_quotes_text(void **state)
{
    (void)state;
    fixture_t *f = fixture();
    memset(f->values + BENCH_PEAK * REPEAT, 0, REPEAT * sizeof *f->values);
    json_t *object = bench_json(&f->about, &f->report);
    char text[8192] = "";
    FILE *file = fmemopen(text, sizeof text, "w");
    assert_non_null(file);
    bench_write_csv(object, true, file);
    fclose(file);
    char *values = strchr(text, '\n') + 1;
    assert_int_equal(fields(text), fields(values));
    assert_true(fields(values) > 30);
    assert_non_null(strstr(values, "\"a \"\"quoted\"\" CPU, of two words\""));
    assert_null(strstr(text, "samples"));
    file = fmemopen(text, sizeof text, "w");
    assert_non_null(file);
    bench_write_csv(object, false, file);
    fclose(file);
    assert_null(strstr(text, "schema"));
    json_decref(object);
    free(f);
}

/* The table, to be freed by the caller. */
static char *table_with(double bandwidth, double prefill)
{
    fixture_t *f = fixture();
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    for (size_t i = 0; i < REPEAT; i++) {
        f->values[BENCH_DECODE_BANDWIDTH * REPEAT + i] = bandwidth;
        f->values[BENCH_PREFILL_SHARE * REPEAT + i] = 0.25;
        f->values[BENCH_PREFILL_BANDWIDTH * REPEAT + i] = prefill;
    }
    bench_print_table(&f->about, &f->report, out);
    fclose(out);
    free(f);
    return text;
}

static void no_share_is_far_above_all_of_it(void **state)
{
    (void)state;
    char *text = table_with(0.5, 0.25);
    assert_non_null(strstr(text, "50.0  % of the read bandwidth\n"));
    assert_non_null(
        strstr(text, "prefill 25% of the matrix peak, decode 50% of the read bandwidth\n"));
    free(text);
    /* But a limit is a measurement too. */
    text = table_with(1.05, 0.25);
    assert_non_null(strstr(text, "decode 105% of the read bandwidth\n"));
    free(text);
    text = table_with(2.2, 1.3);
    assert_non_null(strstr(text, "2.20  times the read bandwidth\n"));
    assert_non_null(strstr(text, "decode reads 2.2 times as fast as memory, from the caches\n"));
    assert_null(strstr(text, "% of the read bandwidth"));
    free(text);
    /* Weights bind the prefill of a mixture. */
    text = table_with(0.5, 0.7);
    assert_non_null(
        strstr(text, "prefill 70% of the read bandwidth (25% of the matrix peak), decode 50%"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_share_is_far_above_all_of_it),
        cmocka_unit_test(the_spread_is_that_of_all_repetitions),
        cmocka_unit_test(json_says_what_the_report_holds),
        cmocka_unit_test(a_rate_that_the_cpu_lacks_is_null),
        cmocka_unit_test(csv_has_a_field_for_every_name_and_quotes_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
