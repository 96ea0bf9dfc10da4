/* How long an exchange of activations takes: a gather through shared windows, the same gather
 * through MPI_Allgatherv (--comm mpi), and MPI_Allreduce of as many bytes (--combine reduce).
 *
 *   mpirun -n 2 collectives [ROUNDS]
 *
 * Method: for each payload (bytes of the whole activation) the three paths take turns, ROUNDS times
 * (default 15); a turn is a train of exchanges after a barrier, long enough to take some
 * milliseconds, timed as the slowest rank sees it; the table shows medians over turns in
 * microseconds per exchange, and ratios of medians of this one run. "exchange" times the exchange
 * alone. "with data" also has each rank write what it contributes (its slice; for the reduction a
 * whole vector of partial sums) from memory of its own and read the whole result, as the matrices
 * before and after do; a shared window moves its data there, between caches, and not in the
 * exchange. Two buffers alternate, as in a forward pass. A wrong sum of the data read ends the run.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"

#define MAX_PAYLOAD ((size_t)4 << 20)
#define MAX_ROUNDS 101

typedef enum path { PATH_WINDOW, PATH_ALLGATHERV, PATH_ALLREDUCE, N_PATHS } path_t;

typedef struct bench {
    comm_t *comms[2]; /* COMM_AUTO, COMM_MPI */
    comm_buffer_t *buffers[2][2];
    float *sums[2], *source;
    size_t *begins;
    int rank, size;
    size_t rounds;
    bool wrong;
} bench_t;

/* The sum of all words, which are equal: it is right only if the data arrived. */
static void read_all(bench_t *bench, const void *data, size_t bytes, uint32_t word)
{
    const uint32_t *words = data;
    uint32_t sum = 0;
    for (size_t i = 0; i < bytes / 4; i++)
        sum += words[i];
    bench->wrong |= sum != word * (uint32_t)(bytes / 4);
}

static uint32_t word_of(float value)
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

static void exchange_once(bench_t *bench, path_t path, size_t payload, int turn, bool with_data)
{
    if (path == PATH_ALLREDUCE) {
        if (with_data)
            memcpy(bench->sums[turn], bench->source, payload);
        comm_allreduce_f32(bench->comms[0], bench->sums[turn], payload / 4);
        if (with_data)
            read_all(bench, bench->sums[turn], payload, word_of((float)bench->size));
        return;
    }
    comm_buffer_t *buffer = bench->buffers[path][turn];
    size_t begin = bench->begins[bench->rank], end = bench->begins[bench->rank + 1];
    if (with_data)
        memcpy((char *)comm_buffer_data(buffer) + begin, bench->source, end - begin);
    comm_gather_columns(buffer, 1, payload, bench->begins);
    if (with_data)
        read_all(bench, comm_buffer_data(buffer), payload, word_of(1));
}

/* Microseconds per exchange of one train. */
static double time_train(bench_t *bench, path_t path, size_t payload, bool with_data)
{
    size_t n = size_max(20, size_min(1000, ((size_t)8 << 20) / payload));
    comm_barrier(bench->comms[0]);
    uint64_t start = clock_ns();
    for (size_t i = 0; i < n; i++)
        exchange_once(bench, path, payload, (int)(i % 2), with_data);
    uint64_t ns = clock_ns() - start;
    return (double)comm_max(bench->comms[0], (int64_t)ns) / (double)n / 1e3;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(bench_t *bench, size_t payload, bool with_data, double *medians)
{
    double times[N_PATHS][MAX_ROUNDS];
    for (int r = 0; r <= bench->size; r++)
        bench->begins[r] = payload / 4 * (size_t)r / (size_t)bench->size * 4;
    for (size_t i = 0; i < payload / 4; i++) {
        bench->source[i] = 1;
        bench->sums[0][i] = bench->sums[1][i] = 0;
    }
    for (int path = 0; path < N_PATHS; path++) /* warm up */
        time_train(bench, path, payload, with_data);
    for (size_t round = 0; round < bench->rounds; round++)
        for (int path = 0; path < N_PATHS; path++)
            times[path][round] = time_train(bench, path, payload, with_data);
    for (int path = 0; path < N_PATHS; path++) {
        qsort(times[path], bench->rounds, sizeof(double), compare);
        medians[path] = times[path][bench->rounds / 2];
    }
}

static int open_all(bench_t *bench, fail_t *fail)
{
    if (comm_open_world(&bench->comms[0], COMM_AUTO, fail) != 0 ||
        comm_open_world(&bench->comms[1], COMM_MPI, fail) != 0)
        return fail->status;
    bench->rank = comm_rank(bench->comms[0]);
    bench->size = comm_size(bench->comms[0]);
    for (int path = 0; path < 2; path++)
        for (int turn = 0; turn < 2; turn++)
            if (comm_buffer_open(bench->comms[path], MAX_PAYLOAD, "payload",
                    &bench->buffers[path][turn], fail) != 0)
                return fail->status;
    bench->source = memory_alloc(MAX_PAYLOAD, "payload", fail);
    bench->sums[0] = memory_alloc(MAX_PAYLOAD, "payload", fail);
    bench->sums[1] = memory_alloc(MAX_PAYLOAD, "payload", fail);
    bench->begins = memory_alloc(((size_t)bench->size + 1) * sizeof *bench->begins, "splits", fail);
    return comm_agree(bench->comms[0], fail);
}

static void close_all(bench_t *bench)
{
    for (int path = 0; path < 2; path++)
        for (int turn = 0; turn < 2; turn++)
            comm_buffer_close(bench->buffers[path][turn]);
    memory_free(bench->source, MAX_PAYLOAD);
    memory_free(bench->sums[0], MAX_PAYLOAD);
    memory_free(bench->sums[1], MAX_PAYLOAD);
    memory_free(bench->begins, ((size_t)bench->size + 1) * sizeof *bench->begins);
    comm_close(bench->comms[1]);
    comm_close(bench->comms[0]);
}

static void print_header(const bench_t *bench)
{
    printf("# %s\n", comm_library_version());
    printf("# %d ranks on %d nodes, %zu rounds%s; medians in us, ratios to allreduce\n",
        bench->size, comm_n_nodes(bench->comms[0]), bench->rounds,
        comm_oversubscribed(bench->comms[0]) ? ", more ranks than cores" : "");
    printf("%9s | %35s | %35s\n", "", "exchange", "with data");
    printf("%9s | %8s %10s %9s %5s | %8s %10s %9s %5s\n", "bytes", "window", "allgatherv",
        "allreduce", "ratio", "window", "allgatherv", "allreduce", "ratio");
}

static void print_table(bench_t *bench)
{
    static const size_t payloads[] = {
        64, 256, 1024, 4096, 14 << 10, 16 << 10, 38 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20};
    if (bench->rank == 0)
        print_header(bench);
    for (size_t i = 0; i < sizeof payloads / sizeof *payloads; i++) {
        double m[2][N_PATHS];
        for (int with_data = 0; with_data < 2; with_data++)
            measure(bench, payloads[i], with_data != 0, m[with_data]);
        if (bench->rank != 0)
            continue;
        printf("%9zu", payloads[i]);
        for (int d = 0; d < 2; d++)
            printf(" | %8.2f %10.2f %9.2f %5.2f", m[d][PATH_WINDOW], m[d][PATH_ALLGATHERV],
                m[d][PATH_ALLREDUCE], m[d][PATH_WINDOW] / m[d][PATH_ALLREDUCE]);
        printf("\n");
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    fail_t fail = {0};
    bench_t bench = {.rounds = 15};
    if (argc > 1)
        bench.rounds = (size_t)strtoul(argv[1], NULL, 10);
    if (bench.rounds < 1 || bench.rounds > MAX_ROUNDS) {
        fprintf(stderr, "collectives: ROUNDS: expected 1 to %d, found %s\n", MAX_ROUNDS, argv[1]);
        return 1;
    }
    if (comm_start(&argc, &argv, &fail) == 0) {
        if (open_all(&bench, &fail) == 0)
            print_table(&bench);
        if (bench.wrong)
            fail_set(&fail, FAIL_INTERNAL, "an exchange brought wrong data");
        close_all(&bench);
    }
    if (fail.status != 0)
        fprintf(stderr, "collectives: %s\n", fail.message);
    comm_stop();
    return fail.status != 0;
}
