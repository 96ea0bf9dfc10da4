#include "comm/exchange.h"

#include <float.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"

enum { DIRECT_TAG = 1, DOUBLING_TAG = 2 };

/* Largest payloads of the classes, all groups together; larger ones use the last class. */
static const int class_bytes[EXCHANGE_CLASSES] = {4 << 10, 32 << 10, 128 << 10};

#define ROUNDS 7
#define TRIPS 4
/* MPI's own algorithm unless another takes less than this share of its time. */
#define WORTH 0.9

/* ---- Ways ------------------------------------------------------------------------------------ */

static void by_library(comm_t *comm, char *data)
{
    MPI_Allgatherv(
        MPI_IN_PLACE, 0, MPI_BYTE, data, comm->counts, comm->displs, MPI_BYTE, comm->leaders);
}

/* Every leader to every other one, all at once. */
static void directly(comm_t *comm, char *data)
{
    int n = comm->n_groups, me = comm->group, n_requests = 0;
    for (int i = 1; i < n; i++) {
        int from = (me + n - i) % n;
        MPI_Irecv(data + comm->displs[from], comm->counts[from], MPI_BYTE, from, DIRECT_TAG,
            comm->leaders, &comm->requests[n_requests++]);
    }
    for (int i = 1; i < n; i++)
        MPI_Isend(data + comm->displs[me], comm->counts[me], MPI_BYTE, (me + i) % n, DIRECT_TAG,
            comm->leaders, &comm->requests[n_requests++]);
    MPI_Waitall(n_requests, comm->requests, MPI_STATUSES_IGNORE);
}

/* Bytes of groups [first, first + n). */
static int span(const comm_t *comm, int first, int n)
{
    return comm->displs[first + n - 1] + comm->counts[first + n - 1] - comm->displs[first];
}

/* In steps, each with twice the groups of the one before; for a number of groups that is a power of
 * two. */
static void by_doubling(comm_t *comm, char *data)
{
    for (int n = 1; n < comm->n_groups; n *= 2) {
        int other = comm->group ^ n, mine = comm->group & ~(n - 1), theirs = other & ~(n - 1);
        MPI_Sendrecv(data + comm->displs[mine], span(comm, mine, n), MPI_BYTE, other, DOUBLING_TAG,
            data + comm->displs[theirs], span(comm, theirs, n), MPI_BYTE, other, DOUBLING_TAG,
            comm->leaders, MPI_STATUS_IGNORE);
    }
}

static const struct {
    const char *name; /* name in CHOIR_EXCHANGE */
    void (*run)(comm_t *comm, char *data);
} ways[] = {
    {"allgatherv", by_library},
    {"direct", directly},
    {"doubling", by_doubling},
};

enum { N_WAYS = sizeof ways / sizeof *ways };

/* ---- Choice ---------------------------------------------------------------------------------- */

static int n_ways(const comm_t *comm)
{
    bool power_of_two = (comm->n_groups & (comm->n_groups - 1)) == 0;
    return power_of_two && comm->n_groups > 2 ? N_WAYS : N_WAYS - 1;
}

static int class_of(const comm_t *comm)
{
    int64_t bytes = 0;
    for (int g = 0; g < comm->n_groups; g++)
        bytes += comm->counts[g];
    int c = 0;
    while (c + 1 < EXCHANGE_CLASSES && bytes > class_bytes[c])
        c++;
    return c;
}

/* Collective over the leaders. Nanoseconds of an exchange, the slowest leader's. */
static double time_way(comm_t *comm, int way, char *data)
{
    MPI_Barrier(comm->leaders);
    uint64_t start = clock_ns();
    for (int i = 0; i < TRIPS; i++)
        ways[way].run(comm, data);
    double ns = (double)(clock_ns() - start) / TRIPS;
    MPI_Allreduce(MPI_IN_PLACE, &ns, 1, MPI_DOUBLE, MPI_MAX, comm->leaders);
    return ns;
}

/* Collective over the leaders. The fastest algorithm of a class; they are measured in turn. */
static int measure(comm_t *comm, int class, char *data)
{
    double best[N_WAYS];
    int n = n_ways(comm), chosen = 0, each = class_bytes[class] / comm->n_groups;
    for (int g = 0; g < comm->n_groups; g++) {
        comm->counts[g] = each;
        comm->displs[g] = g * each;
    }
    for (int w = 0; w < n; w++)
        best[w] = DBL_MAX;
    for (int round = 0; round < ROUNDS; round++)
        for (int w = 0; w < n; w++) {
            double ns = time_way(comm, w, data);
            best[w] = ns < best[w] ? ns : best[w];
        }
    for (int w = 1; w < n; w++)
        if (best[w] < (chosen == 0 ? WORTH : 1) * best[chosen])
            chosen = w;
    if (comm->rank == 0)
        log_write(LOG_DEBUG,
            "exchange of up to %d KiB between %d nodes: %s, %.1f us (allgatherv %.1f us)",
            class_bytes[class] >> 10, comm->n_groups, ways[chosen].name, best[chosen] * 1e-3,
            best[0] * 1e-3);
    return chosen;
}

/* CHOIR_EXCHANGE, see comm.h. -1: not set. */
static int read_way(fail_t *fail)
{
    const char *text = getenv("CHOIR_EXCHANGE");
    for (int w = 0; w < N_WAYS && text != NULL; w++)
        if (strcmp(text, ways[w].name) == 0)
            return w;
    if (text != NULL)
        fail_set(fail, FAIL_USAGE,
            "CHOIR_EXCHANGE: expected allgatherv, direct or doubling, found \"%s\"", text);
    return -1;
}

int exchange_choose(comm_t *comm, fail_t *fail)
{
    size_t bytes = (size_t)class_bytes[EXCHANGE_CLASSES - 1];
    char *data = NULL;
    comm->chosen = true;
    if (comm->n_nodes == 1)
        return 0;
    int way = (int)comm_max(comm, read_way(fail));
    if (comm->leaders != MPI_COMM_NULL)
        data = memory_alloc(bytes, "messages between nodes", fail);
    if (comm_agree(comm, fail) == 0) {
        for (int c = 0; c < EXCHANGE_CLASSES && data != NULL; c++)
            comm->ways[c] = way < 0 ? measure(comm, c, data) : way < n_ways(comm) ? way : 0;
        MPI_Bcast(comm->ways, EXCHANGE_CLASSES, MPI_INT, 0, comm->world);
    }
    memory_free(data, bytes);
    return fail->status;
}

void exchange_run(comm_t *comm, void *data)
{
    ways[comm->ways[class_of(comm)]].run(comm, data);
}
