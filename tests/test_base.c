/* engine/base: conversions, sizes, memory, messages, the thread team. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/array.h"
#include "engine/base/dtype.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "engine/base/printable.h"
#include "engine/base/size.h"
#include "engine/base/status.h"
#include "engine/base/team.h"

static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(bf16_from_f32(f32_from_bits(0x3f808000u)), 0x3f80); /* tie, even below */
    assert_int_equal(bf16_from_f32(f32_from_bits(0x3f818000u)), 0x3f82); /* tie, even above */
    assert_int_equal(bf16_from_f32(f32_from_bits(0x3f808001u)), 0x3f81);
    assert_int_equal(bf16_from_f32(f32_from_bits(0x7f7fffffu)), 0x7f80); /* overflows to infinity */
    assert_int_equal(bf16_from_f32(f32_from_bits(0xff800001u)), 0x7fc0); /* NaN */
    assert_int_equal(bf16_from_f32(-0.0f), 0x8000);
}

static void f64_to_bf16_rounds_once(void **state)
{
    (void)state;
    /* Just above a tie of bf16, but so little that f32 would round it onto the tie first. */
    double x = 1.0 + 0x1p-8 + 0x1p-40, minus = -x;
    uint16_t y;
    dtype_convert(&y, DTYPE_BF16, &x, DTYPE_F64, 1);
    assert_int_equal(y, 0x3f81);
    dtype_convert(&y, DTYPE_BF16, &minus, DTYPE_F64, 1);
    assert_int_equal(y, 0xbf81);
    x = 1.0 + 0x1p-8 - 0x1p-40;
    dtype_convert(&y, DTYPE_BF16, &x, DTYPE_F64, 1);
    assert_int_equal(y, 0x3f80);
}

static void every_f16_value_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint16_t x = (uint16_t)bits, back;
        float f;
        dtype_convert(&f, DTYPE_F32, &x, DTYPE_F16, 1);
        float slow = f32_from_f16(x);
        assert_memory_equal(&f, &slow, sizeof f);
        if (f != f)
            continue;
        dtype_convert(&back, DTYPE_F16, &f, DTYPE_F32, 1);
        assert_int_equal(back, x);
    }
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    size_t out = 7;
    assert_false(size_mul(SIZE_MAX / 2, 3, &out));
    assert_false(size_add(SIZE_MAX, 1, &out));
    assert_int_equal(out, 7);
    assert_true(size_mul(6, 7, &out));
    assert_int_equal(out, 42);
    assert_int_equal(size_round_up(65, 64), 128);
}

static void an_array_grows_and_stays_as_it_was_when_it_cannot(void **state)
{
    (void)state;
    uint32_t *items = NULL;
    size_t capacity = 0;
    fail_t fail = {0};
    for (uint32_t i = 0; i < 1000; i++) {
        assert_int_equal(
            array_reserve(&items, &capacity, i + 1, sizeof *items, "numbers", &fail), 0);
        assert_true(capacity > i && capacity < 2 * (size_t)i + 64);
        items[i] = i;
    }
    size_t before = capacity;
    assert_int_equal(
        array_reserve(&items, &capacity, SIZE_MAX / 2, sizeof *items, "numbers", &fail),
        FAIL_MEMORY);
    assert_non_null(strstr(fail.message, "numbers: out of memory for "));
    assert_int_equal(capacity, before);
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(items[i], i);
    free(items);
}

static void the_first_failure_wins_and_takes_one_line(void **state)
{
    (void)state;
    fail_t fail = {0};
    assert_int_equal(fail_set(&fail, FAIL_FILE, "file %s", "a\nb"), FAIL_FILE);
    assert_int_equal(fail_set(&fail, FAIL_MEMORY, "later"), FAIL_FILE);
    assert_string_equal(fail.message, "file a\\nb");
    assert_string_equal(fail_name(fail.status), "file");
}

static void expect_printable(const char *text, const char *expected)
{
    char shown[64], again[64];
    size_t n = printable(shown, sizeof shown, text, strlen(text));
    assert_string_equal(shown, expected);
    assert_int_equal(n, strlen(expected));
    assert_int_equal(is_printable(text, strlen(text)), strcmp(text, expected) == 0);
    printable(again, sizeof again, shown, n);
    assert_string_equal(again, expected);
}

static void control_characters_are_escaped(void **state)
{
    (void)state;
    expect_printable("na\xc3\xafve \xf0\x9f\x98\x80 ~", "na\xc3\xafve \xf0\x9f\x98\x80 ~");
    expect_printable("a\nb\r\tc", "a\\nb\\r\\tc");
    expect_printable("\x1b[2Jx\x7f\x01", "\\x1b[2Jx\\x7f\\x01");
    /* CSI as one character, a line separator, and marks that turn the direction. */
    expect_printable(
        "\xc2\x9b|\xe2\x80\xa8|\xe2\x80\xae|\xe2\x81\xa6", "\\u009b|\\u2028|\\u202e|\\u2066");
    /* No UTF-8: a byte alone, an overlong form, a surrogate, one beyond the last, half of one. */
    expect_printable("\xff", "\\xff");
    expect_printable("\xc0\x8a", "\\xc0\\x8a");
    expect_printable("\xed\xa0\xbd", "\\xed\\xa0\\xbd");
    expect_printable("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80");
    expect_printable("\xe2\x82", "\\xe2\\x82");
    /* Cut off between characters, and never within an escape. */
    char little[8];
    assert_int_equal(printable(little, sizeof little, "abcd\xe2\x82\xac\xe2\x82\xac", 10), 7);
    assert_int_equal(printable(little, sizeof little, "abcd\x1b", 5), 4);
    assert_int_equal(printable(little, 1, "x", 1), 0);
    assert_string_equal(little, "");
}

static void a_failure_is_one_line_of_utf8(void **state)
{
    (void)state;
    fail_t fail = {0};
    fail_set(&fail, FAIL_USAGE, "task \"%.2s\": %s", "\xc3\xa9\xc3\xa9", "\x1b[31m\nred");
    assert_string_equal(fail.message, "task \"\xc3\xa9\": \\x1b[31m\\nred");
    fail = (fail_t){0};
    fail_set(&fail, FAIL_USAGE, "%.3s", "\xc3\xa9\xc3\xa9");
    assert_string_equal(fail.message, "\xc3\xa9\\xc3");
}

static rlim_t address_space_bytes(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lu", &pages), 1);
    fclose(file);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static void memory_that_is_refused_names_the_limit(void **state)
{
    (void)state;
    struct rlimit before, low;
    fail_t fail = {0}, unlimited = {0};
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    low = before;
    low.rlim_cur = address_space_bytes() + ((rlim_t)512 << 20);
    assert_int_equal(setrlimit(RLIMIT_AS, &low), 0);
    void *memory = memory_alloc((size_t)1 << 30, "cache", &fail);
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_null(memory);
    assert_int_equal(fail.status, FAIL_MEMORY);
    assert_non_null(strstr(fail.message, "cache: needs 1024.0 MiB of memory, ulimit -v allows "));
    assert_null(strstr(fail.message, "free"));
    assert_null(memory_alloc((size_t)1 << 46, "cache", &unlimited));
    assert_non_null(strstr(unlimited.message, " MiB free"));
}

static void memory_is_zero_and_aligned(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 100, 1 << 20, (4 << 20) + 5, 64 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fail_t fail = {0};
        unsigned char *memory = memory_alloc(sizes[i], "test", &fail);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        for (size_t at = 0; at < sizes[i]; at += 997)
            assert_int_equal(memory[at], 0);
        if (sizes[i] != 0)
            memset(memory, 0xff, sizes[i]);
        memory_free(memory, sizes[i]);
    }
}

static void injected_and_absurd_allocations_fail_with_a_message(void **state)
{
    (void)state;
    fail_t fail = {0};
    memory_fail_nth(2);
    void *first = memory_alloc(10, "first", &fail);
    assert_non_null(first);
    assert_null(memory_alloc(10, "second", &fail));
    assert_int_equal(fail.status, FAIL_MEMORY);
    assert_non_null(strstr(fail.message, "second"));
    memory_free(first, 10);
    fail = (fail_t){0};
    assert_null(memory_alloc(SIZE_MAX - 5, "absurd", &fail));
    assert_int_equal(fail.status, FAIL_MEMORY);
}

enum { MAX_THREADS = 5, ROUNDS = 300 };

typedef struct relay {
    team_t *team;
    size_t values[MAX_THREADS];
    size_t sum;
    int wrong;
} relay_t;

/* Each round every thread writes its place, all meet, and every thread must see all places. */
static void relay_thread(void *context, size_t thread)
{
    relay_t *relay = context;
    size_t n = team_size(relay->team);
    for (size_t round = 1; round <= ROUNDS; round++) {
        relay->values[thread] = round;
        team_barrier(relay->team, thread);
        for (size_t t = 0; t < n; t++)
            if (relay->values[t] != round)
                relay->wrong = 1;
        team_arrive(relay->team, thread);
        if (thread == 0) {
            relay->sum += round;
            team_release(relay->team);
        } else {
            team_await(relay->team, thread);
        }
        if (relay->sum != round * (round + 1) / 2)
            relay->wrong = 1;
        team_barrier(relay->team, thread);
    }
}

static void a_team_meets_at_every_barrier(void **state)
{
    (void)state;
    for (size_t n = 1; n <= MAX_THREADS; n++)
        for (int oversubscribed = 0; oversubscribed < 2; oversubscribed++) {
            fail_t fail = {0};
            relay_t relay = {0};
            assert_int_equal(team_open(&relay.team, n, oversubscribed, &fail), 0);
            for (int run = 0; run < 3; run++) {
                relay.sum = 0;
                team_run(relay.team, relay_thread, &relay);
            }
            assert_int_equal(relay.wrong, 0);
            team_close(relay.team);
        }
}

static void parts_cover_everything_once(void **state)
{
    (void)state;
    for (size_t n = 0; n < 20; n++)
        for (size_t threads = 1; threads < 8; threads++) {
            size_t next = 0;
            for (size_t t = 0; t < threads; t++) {
                team_part_t part = team_part(n, t, threads);
                assert_int_equal(part.begin, next);
                assert_true(part.end - part.begin <= n / threads + 1);
                next = part.end;
            }
            assert_int_equal(next, n);
        }
}

#define MOST_ITEMS 40

/* Phases with 0, 1, 2, ... items; every other thread is slow, so that others take from its part. */
typedef struct deal {
    team_t *team;
    size_t together, most;
    _Atomic int taken[MOST_ITEMS];
    _Atomic size_t wrong;
} deal_t;

static void deal_thread(void *context, size_t thread)
{
    deal_t *d = context;
    for (size_t n = 0; n <= MOST_ITEMS; n++) {
        team_part_t part;
        team_deal(d->team, thread, n);
        while (team_take(d->team, thread, d->together, d->most, &part)) {
            d->wrong += part.end > n || part.end - part.begin > d->most;
            for (size_t i = part.begin; i < part.end; i++)
                d->taken[i]++;
            if (thread % 2 == 1)
                sched_yield();
        }
        team_barrier(d->team, thread);
        if (thread == 0)
            for (size_t i = 0; i < n; i++)
                d->wrong += atomic_exchange(&d->taken[i], 0) != 1;
        team_barrier(d->team, thread);
    }
}

static void every_item_is_dealt_to_one_thread(void **state)
{
    (void)state;
    for (size_t n = 1; n <= MAX_THREADS; n++)
        for (size_t most = 1; most <= 8; most *= 2) {
            fail_t fail = {0};
            deal_t deal = {.together = most / 2 + 1, .most = most};
            assert_int_equal(team_open(&deal.team, n, n > 2, &fail), 0);
            team_run(deal.team, deal_thread, &deal);
            assert_int_equal(deal.wrong, 0);
            team_close(deal.team);
        }
}

/* How many items thread 0 takes of its part, one digit each time, while thread 1 takes none. */
typedef struct portions {
    team_t *team;
    size_t items;
    char text[MOST_ITEMS];
} portions_t;

static void portions_thread(void *context, size_t thread)
{
    portions_t *s = context;
    team_part_t part;
    size_t own = team_part(s->items, 0, 2).end, n = 0;
    team_deal(s->team, thread, s->items);
    for (size_t taken = 0; thread == 0 && taken < own; taken += part.end - part.begin) {
        if (!team_take(s->team, 0, 4, 10, &part))
            break;
        s->text[n++] = (char)('0' + part.end - part.begin);
    }
    team_barrier(s->team, thread);
}

static void items_that_belong_together_are_taken_at_once(void **state)
{
    (void)state;
    static const struct {
        size_t items;
        const char *expected;
    } cases[] = {{2, "1"}, {8, "4"}, {12, "42"}, {24, "444"}, {26, "4441"}, {48, "8844"},
        {64, "88844"}, {80, "888844"}};
    fail_t fail = {0};
    portions_t portions = {0};
    assert_int_equal(team_open(&portions.team, 2, true, &fail), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        portions.items = cases[i].items;
        memset(portions.text, 0, sizeof portions.text);
        team_run(portions.team, portions_thread, &portions);
        assert_string_equal(portions.text, cases[i].expected);
    }
    team_close(portions.team);
}

static void a_byte_order_mark_at_the_start_of_a_text_is_dropped(void **state)
{
    (void)state;
    static const char marked[] = "\xEF\xBB\xBF{\"a\": 1}";
    char path[] = "/tmp/choir_base_XXXXXX", only[] = "\xEF\xBB\xBF", short_one[] = "\xEF\xBB";
    char *text;
    size_t bytes = 3;
    json_t *root;
    fail_t fail = {0};
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, marked, sizeof marked - 1), sizeof marked - 1);
    close(descriptor);
    assert_int_equal(text_file_read(path, 1024, &text, &bytes, &fail), 0);
    assert_int_equal(bytes, sizeof marked - 4);
    assert_string_equal(text, "{\"a\": 1}");
    free(text);
    assert_int_equal(json_file_read(path, &root, &fail), 0);
    assert_int_equal(json_integer_value(json_object_get(root, "a")), 1);
    json_decref(root);
    unlink(path);
    bytes = 3;
    text_drop_bom(only, &bytes);
    assert_int_equal(bytes, 0);
    assert_string_equal(only, "");
    bytes = 2;
    text_drop_bom(short_one, &bytes);
    assert_int_equal(bytes, 2);
}

static void an_error_in_json_lines_names_the_line_once(void **state)
{
    (void)state;
    static const char line[] = "{\"a\": tru}";
    json_t *root;
    fail_t fail = {0};
    assert_int_equal(
        json_line_read(line, sizeof line - 1, "x.jsonl: line 7", &root, &fail), FAIL_FORMAT);
    const char *first = strstr(fail.message, "line");
    assert_non_null(strstr(fail.message, "x.jsonl: line 7: not valid JSON: "));
    assert_non_null(strstr(fail.message, "(column "));
    assert_null(strstr(first + 1, "line"));
}

/* In the first run the last thread sleeps where nobody counts it, as if its core were taken. */
typedef struct shrink {
    team_t *team;
    _Atomic size_t threads, taken;
    bool loses;
} shrink_t;

static void shrink_thread(void *context, size_t thread)
{
    shrink_t *s = context;
    team_part_t part;
    s->threads++;
    team_deal(s->team, thread, MOST_ITEMS);
    while (team_take(s->team, thread, 1, 3, &part))
        s->taken += part.end - part.begin;
    if (s->loses && thread == MAX_THREADS - 1)
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    team_barrier(s->team, thread);
}

static size_t run_shrink(shrink_t *s, void (*run)(team_t *, void (*)(void *, size_t), void *))
{
    s->threads = s->taken = 0;
    run(s->team, shrink_thread, s);
    assert_int_equal(s->taken, MOST_ITEMS);
    assert_int_equal(s->threads, team_active(s->team));
    return s->threads;
}

static void a_team_does_without_threads_that_lose_their_cores(void **state)
{
    (void)state;
    fail_t fail = {0};
    shrink_t s = {.loses = true};
    assert_int_equal(team_open(&s.team, MAX_THREADS, true, &fail), 0);
    assert_int_equal(run_shrink(&s, team_run_active), MAX_THREADS);
    s.loses = false;
    assert_true(run_shrink(&s, team_run_active) < MAX_THREADS);
    assert_int_equal(run_shrink(&s, team_run), MAX_THREADS);
    /* Each run that loses nothing brings one back after a while. */
    while (run_shrink(&s, team_run_active) < MAX_THREADS)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    team_close(s.team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(f64_to_bf16_rounds_once),
        cmocka_unit_test(every_f16_value_survives_the_round_trip),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(an_array_grows_and_stays_as_it_was_when_it_cannot),
        cmocka_unit_test(items_that_belong_together_are_taken_at_once),
        cmocka_unit_test(a_byte_order_mark_at_the_start_of_a_text_is_dropped),
        cmocka_unit_test(an_error_in_json_lines_names_the_line_once),
        cmocka_unit_test(the_first_failure_wins_and_takes_one_line),
        cmocka_unit_test(control_characters_are_escaped),
        cmocka_unit_test(a_failure_is_one_line_of_utf8),
        cmocka_unit_test(memory_that_is_refused_names_the_limit),
        cmocka_unit_test(memory_is_zero_and_aligned),
        cmocka_unit_test(injected_and_absurd_allocations_fail_with_a_message),
        cmocka_unit_test(a_team_meets_at_every_barrier),
        cmocka_unit_test(parts_cover_everything_once),
        cmocka_unit_test(every_item_is_dealt_to_one_thread),
        cmocka_unit_test(a_team_does_without_threads_that_lose_their_cores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
