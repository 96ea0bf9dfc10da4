#include "tests/comm_fixture.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HANG_SECONDS 1200

void check(context_t *t, bool holds, const char *condition, const char *file, int line)
{
    t->checks++;
    if (holds)
        return;
    if (t->failures++ < 5)
        fprintf(stderr, "%s:%d: rank %d of %d, %s, %s: expected %s\n", strrchr(file, '/') + 1, line,
            t->rank, t->size, t->setting, t->test, condition);
}

uint64_t hash(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 27)) * 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 32);
}

size_t draw(context_t *t, size_t n)
{
    t->random = hash(t->random + 0x632be59bd9b4e019u);
    return (size_t)(t->random % n);
}

void dawdle(const context_t *t, uint64_t step)
{
    for (uint64_t n = hash(step * 64 + (uint64_t)t->rank) % 3; n > 0; n--)
        sched_yield();
}

/* Eight bytes of what row `row` shall hold in some step, beginning at column 8 * word. */
static uint64_t pattern(uint64_t step, size_t row, size_t word)
{
    return hash(step * 7919 + row * 104729 + word);
}

void write_part(char *data, uint64_t step, size_t row, size_t stride, size_t begin, size_t end)
{
    for (size_t c = begin; c < end; c++)
        data[row * stride + c] = (char)(pattern(step, row, c / 8) >> (c % 8 * 8));
}

bool part_is(const char *data, uint64_t step, size_t row, size_t stride, size_t begin, size_t end)
{
    for (size_t c = begin; c < end; c++)
        if (data[row * stride + c] != (char)(pattern(step, row, c / 8) >> (c % 8 * 8)))
            return false;
    return true;
}

bool row_is(const char *data, uint64_t step, size_t row, size_t stride, size_t end)
{
    for (size_t c = 0; c < end; c += 8) {
        uint64_t word = pattern(step, row, c / 8); /* little-endian, as write_part */
        size_t bytes = end - c < 8 ? end - c : 8;
        for (size_t b = 0; b < bytes; b++, word >>= 8)
            if ((uint8_t)data[row * stride + c + b] != (uint8_t)word)
                return false;
    }
    return true;
}

void random_split(context_t *t, size_t total, size_t *begins)
{
    size_t style = draw(t, 4);
    begins[0] = 0;
    begins[t->size] = total;
    for (int r = 1; r < t->size; r++) {
        if (style == 0)
            begins[r] = total * (size_t)r / (size_t)t->size;
        else if (style == 1)
            begins[r] = r > (int)(t->random >> 40) % t->size ? total : 0;
        else
            begins[r] = draw(t, total + 1);
    }
    for (int i = 1; i < t->size; i++)
        for (int j = i; j > 1 && begins[j - 1] > begins[j]; j--) {
            size_t swap = begins[j];
            begins[j] = begins[j - 1];
            begins[j - 1] = swap;
        }
}

comm_buffer_t *open_buffer(context_t *t, size_t bytes)
{
    fail_t fail = {0};
    comm_buffer_t *buffer = NULL;
    CHECK(t, comm_buffer_open(t->comm, bytes, "test buffer", &buffer, &fail) == 0);
    return buffer;
}

/* ---- Settings -------------------------------------------------------------------------------- */

typedef struct setting {
    const char *name;
    const char *ranks_per_node; /* CHOIR_RANKS_PER_NODE or NULL */
    comm_path_t path;
    int per_node; /* 0: all on one */
    bool cyclic;
    const char *exchange; /* CHOIR_EXCHANGE or NULL */
} setting_t;

static const setting_t settings[] = {
    {"one node", NULL, COMM_AUTO, 0, false, NULL},
    {"plain MPI", NULL, COMM_MPI, 0, false, NULL},
    {"nodes of 1", "1", COMM_AUTO, 1, false, "direct"},
    {"nodes of 1 by doubling", "1", COMM_AUTO, 1, false, "doubling"},
    {"nodes of 2", "2", COMM_AUTO, 2, false, NULL},
    {"nodes of 3", "3", COMM_AUTO, 3, false, "allgatherv"},
    {"nodes of 2 in turn", "2,cyclic", COMM_AUTO, 2, true, "doubling"},
    {"nodes of 3 in turn", "3,cyclic", COMM_AUTO, 3, true, "direct"},
    {"plain MPI on nodes of 2", "2", COMM_MPI, 2, false, "direct"},
};

/* Run under mpirun on one machine. */
static void nodes_are_as_set(context_t *t, const setting_t *setting)
{
    int k = setting->per_node == 0 ? t->size : setting->per_node;
    int n_nodes = (t->size + k - 1) / k;
    int node = setting->cyclic ? t->rank % n_nodes : t->rank / k;
    int node_rank = setting->cyclic ? t->rank / n_nodes : t->rank % k;
    int node_size = 0;
    for (int r = 0; r < t->size; r++)
        node_size += (setting->cyclic ? r % n_nodes : r / k) == node;
    CHECK(t, comm_n_nodes(t->comm) == n_nodes);
    CHECK(t, comm_node_rank(t->comm) == node_rank);
    CHECK(t, comm_node_size(t->comm) == node_size);
}

static void run_tests(context_t *t, const test_t *tests, size_t n_tests)
{
    for (size_t i = 0; i < n_tests; i++) {
        t->test = tests[i].name;
        tests[i].run(t);
    }
}

static void run_setting(const suite_t *suite, const setting_t *setting, context_t *total)
{
    fail_t fail = {0};
    context_t t = {.path = setting->path, .setting = setting->name, .test = "opening", .random = 7};
    unsetenv("CHOIR_RANKS_PER_NODE");
    if (setting->ranks_per_node != NULL)
        setenv("CHOIR_RANKS_PER_NODE", setting->ranks_per_node, 1);
    unsetenv("CHOIR_EXCHANGE");
    if (setting->exchange != NULL)
        setenv("CHOIR_EXCHANGE", setting->exchange, 1);
    int status = comm_open_world(&t.comm, setting->path, &fail);
    CHECK(&t, status == 0);
    if (status == 0) {
        t.rank = comm_rank(t.comm);
        t.size = comm_size(t.comm);
        nodes_are_as_set(&t, setting);
        if (setting == &settings[0])
            run_tests(&t, suite->plain, suite->n_plain);
        run_tests(&t, suite->placed, suite->n_placed);
        t.failures = comm_sum(t.comm, t.failures);
        t.checks = comm_sum(t.comm, t.checks);
        total->rank = t.rank;
        total->size = t.size;
    }
    total->checks += t.checks;
    total->failures += t.failures;
    comm_close(t.comm);
}

void suite_begin(int *argc, char ***argv)
{
    fail_t fail = {0};
    /* If ranks wait for each other without end, the signal ends them and mpirun reports it. */
    alarm(HANG_SECONDS);
    if (comm_start(argc, argv, &fail) != 0) {
        fprintf(stderr, "%s\n", fail.message);
        exit(1);
    }
}

void suite_run(const suite_t *suite, context_t *total)
{
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        run_setting(suite, &settings[i], total);
}

int suite_end(const char *program, const context_t *total)
{
    if (total->rank == 0)
        printf("%s: %d ranks, %" PRId64 " checks, %" PRId64 " failures\n", program, total->size,
            total->checks, total->failures);
    comm_stop();
    return total->failures != 0;
}
