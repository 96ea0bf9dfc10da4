/* What the tests of comm/ at any number of ranks have in common: settings that place the ranks on
 * nodes, checks that are counted, and contents that tell steps, rows and columns apart.
 *
 * A failed check is printed and counted but never ends its rank early, so the others are not left
 * waiting; the ranks add up their counts at the end. */
#ifndef CHOIR_TESTS_COMM_FIXTURE_H
#define CHOIR_TESTS_COMM_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"

typedef struct context {
    comm_t *comm;
    comm_path_t path;
    int rank, size;
    uint64_t random; /* the same sequence on all ranks */
    const char *setting, *test;
    int64_t checks, failures;
} context_t;

void check(context_t *t, bool holds, const char *condition, const char *file, int line);
#define CHECK(t, condition) check(t, condition, #condition, __FILE__, __LINE__)

uint64_t hash(uint64_t x);
/* Below n, the same on all ranks. */
size_t draw(context_t *t, size_t n);
/* Ranks drift apart a little, each in its own way. */
void dawdle(const context_t *t, uint64_t step);

/* Columns [begin, end) of what row `row` shall hold in some step: written, and compared. */
void write_part(char *data, uint64_t step, size_t row, size_t stride, size_t begin, size_t end);
bool part_is(const char *data, uint64_t step, size_t row, size_t stride, size_t begin, size_t end);
/* The same of columns [0, end). */
bool row_is(const char *data, uint64_t step, size_t row, size_t stride, size_t end);

/* Splits [0, total) at random; some parts empty, now and then all but one. begins: [ranks + 1] */
void random_split(context_t *t, size_t total, size_t *begins);
comm_buffer_t *open_buffer(context_t *t, size_t bytes);

typedef struct test {
    const char *name;
    void (*run)(context_t *);
} test_t;

#define TEST(function)                                                                             \
    {                                                                                              \
#function, function                                                                        \
    }

typedef struct suite {
    const test_t *plain; /* the same wherever the ranks are placed: run in the first setting only */
    size_t n_plain;
    const test_t *placed; /* run in every setting */
    size_t n_placed;
} suite_t;

/* Around all else. suite_begin ends the program if it cannot start; suite_end gives its status. */
void suite_begin(int *argc, char ***argv);
void suite_run(const suite_t *suite, context_t *total);
int suite_end(const char *program, const context_t *total);

#endif
