#include "comm/ping.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/internal.h"
#include "comm/watch/progress_record.h"
#include "engine/base/clock.h"

#define PING_TAG 71
#define SMALL_BYTES 8
#define MEDIUM_BYTES (1 << 17)
#define LARGE_BYTES (1 << 20)
#define LONGEST_TRIP_S 0.05 /* of LARGE_BYTES; links below about 40 MB/s are measured without it */
#define SMALL_WARM_UPS 4
#define LARGE_WARM_UPS 1
#define MOST_TRIPS 256 /* of one size; LEAST_TRIPS is the minimum, however slow */
#define LEAST_TRIPS 3
#define SMALL_NS 3000000 /* time of the leader for each size */
#define MEDIUM_NS 1000000
#define LARGE_NS 6000000
#define CLOCK_TRIPS 8
#define NAP_NS 100000

enum { STOP, GO };

/* ---- Which pairs ----------------------------------------------------------------------------- */

typedef struct pairs {
    ping_t *items;
    size_t n;
} pairs_t;

static void add_pair(pairs_t *pairs, int a, int b)
{
    ping_t pair = {.a = a < b ? a : b, .b = a < b ? b : a};
    if (a == b || pairs->n == PING_MOST_PAIRS)
        return;
    for (size_t i = 0; i < pairs->n; i++)
        if (pairs->items[i].a == pair.a && pairs->items[i].b == pair.b)
            return;
    pairs->items[pairs->n++] = pair;
}

/* Whether no earlier rank is on the node of this one. */
static bool leads_node(const int *nodes, int rank)
{
    for (int r = 0; r < rank; r++)
        if (nodes[r] == nodes[rank])
            return false;
    return true;
}

static void add_leaders(pairs_t *pairs, int n_ranks, const int *nodes)
{
    int before = 0;
    for (int r = 1; r < n_ranks; r++) {
        if (!leads_node(nodes, r))
            continue;
        add_pair(pairs, before, r);
        before = r;
    }
    for (int r = 1; r < n_ranks; r++)
        if (leads_node(nodes, r))
            add_pair(pairs, 0, r);
}

static void add_neighbours(pairs_t *pairs, int n_ranks, const int *nodes)
{
    for (int a = 0; a + 1 < n_ranks; a++)
        for (int b = a + 1; b < n_ranks; b++)
            if (nodes[a] == nodes[b]) {
                add_pair(pairs, a, b);
                break;
            }
}

size_t ping_choose(int n_ranks, const int *nodes, ping_t *items)
{
    pairs_t pairs = {items, 0};
    if (n_ranks > PING_MATRIX_RANKS) {
        add_leaders(&pairs, n_ranks, nodes);
        add_neighbours(&pairs, n_ranks, nodes);
        return pairs.n;
    }
    for (int a = 0; a < n_ranks; a++)
        for (int b = a + 1; b < n_ranks; b++)
            add_pair(&pairs, a, b);
    return pairs.n;
}

/* ---- One pair -------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of a round trip of so many bytes, the lower quartile, since disturbances only make them
 * longer; *n_sent counts them. */
static double lead(comm_t *comm, int other, char *data, int bytes, uint64_t for_ns, size_t *n_sent)
{
    double trips[MOST_TRIPS];
    size_t n = 0, warm_ups = bytes > SMALL_BYTES ? LARGE_WARM_UPS : SMALL_WARM_UPS;
    uint64_t begin = clock_ns(), start = begin;
    data[0] = GO;
    for (*n_sent = 0; n < LEAST_TRIPS || (n < MOST_TRIPS && start - begin < for_ns); ++*n_sent) {
        start = clock_ns();
        MPI_Send(data, bytes, MPI_BYTE, other, PING_TAG, comm->world);
        MPI_Recv(data, bytes, MPI_BYTE, other, PING_TAG, comm->world, MPI_STATUS_IGNORE);
        if (*n_sent >= warm_ups)
            trips[n++] = (double)(clock_ns() - start) * 1e-9;
    }
    qsort(trips, n, sizeof *trips, by_value);
    return trips[n / 4];
}

static void follow(comm_t *comm, int leader, char *data)
{
    for (;;) {
        MPI_Status status;
        int bytes;
        MPI_Recv(data, LARGE_BYTES, MPI_BYTE, leader, PING_TAG, comm->world, &status);
        if (data[0] == STOP)
            return;
        MPI_Get_count(&status, MPI_BYTE, &bytes);
        MPI_Send(data, bytes, MPI_BYTE, leader, PING_TAG, comm->world);
    }
}

/* Bandwidth by the longest messages that do not take too long. */
static void measure_bandwidth(comm_t *comm, ping_t *pair, char *data)
{
    size_t n_sent, bytes_sent;
    interface_t before[INTERFACES_MAX], after[INTERFACES_MAX];
    size_t n_before = interfaces_read(before, INTERFACES_MAX);
    double seconds = lead(comm, pair->b, data, MEDIUM_BYTES, MEDIUM_NS, &n_sent);
    bytes_sent = n_sent * MEDIUM_BYTES;
    pair->bytes_per_s = MEDIUM_BYTES / (seconds / 2);
    if (seconds * LARGE_BYTES / MEDIUM_BYTES < LONGEST_TRIP_S) {
        seconds = lead(comm, pair->b, data, LARGE_BYTES, LARGE_NS, &n_sent);
        bytes_sent += n_sent * LARGE_BYTES;
        pair->bytes_per_s = LARGE_BYTES / (seconds / 2);
    }
    size_t n_after = interfaces_read(after, INTERFACES_MAX);
    const interface_t *way = interfaces_carrier(before, n_before, after, n_after, bytes_sent);
    if (way != NULL)
        memcpy(pair->way, way->name, sizeof pair->way);
}

static void measure(comm_t *comm, ping_t *pair, char *data)
{
    size_t n_sent;
    if (comm->rank == pair->b) {
        follow(comm, pair->a, data);
        return;
    }
    pair->latency_s = lead(comm, pair->b, data, SMALL_BYTES, SMALL_NS, &n_sent) / 2;
    measure_bandwidth(comm, pair, data);
    data[0] = STOP;
    MPI_Send(data, 1, MPI_BYTE, pair->b, PING_TAG, comm->world);
}

/* Collective. A barrier whose waiting ranks sleep. */
static void meet_asleep(comm_t *comm)
{
    const struct timespec nap = {.tv_nsec = NAP_NS};
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_BARRIER);
    MPI_Request request;
    int done = 0;
    MPI_Ibarrier(comm->world, &request);
    for (;;) {
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (done)
            break;
        nanosleep(&nap, NULL);
    }
    progress_leave_wait(comm, outer);
}

int ping_run(comm_t *comm, ping_t *pairs, size_t n_pairs, fail_t *fail)
{
    char *data = calloc(1, LARGE_BYTES);
    if (data == NULL)
        fail_set(fail, FAIL_MEMORY, "ping: out of memory for a message of %d bytes", LARGE_BYTES);
    if (comm_agree(comm, fail) != 0) {
        free(data);
        return fail->status;
    }
    for (size_t i = 0; i < n_pairs; i++) {
        ping_t *pair = &pairs[i];
        meet_asleep(comm);
        if (comm->rank == pair->a || comm->rank == pair->b)
            measure(comm, pair, data);
        if (pair->a == 0)
            continue;
        if (comm->rank == pair->a)
            MPI_Send(pair, sizeof *pair, MPI_BYTE, 0, PING_TAG, comm->world);
        else if (comm->rank == 0)
            MPI_Recv(
                pair, sizeof *pair, MPI_BYTE, pair->a, PING_TAG, comm->world, MPI_STATUS_IGNORE);
    }
    meet_asleep(comm);
    free(data);
    return 0;
}

/* ---- Nodes and clocks ------------------------------------------------------------------------ */

void ping_nodes(comm_t *comm, int *nodes)
{
    int first = comm->rank, n_nodes = 0;
    MPI_Bcast(&first, 1, MPI_INT, 0, comm->node);
    MPI_Allgather(&first, 1, MPI_INT, nodes, 1, MPI_INT, comm->world);
    /* A node's first rank comes before its others, so its number is known by then. */
    for (int r = 0; r < comm->size; r++)
        nodes[r] = nodes[r] == r ? n_nodes++ : nodes[nodes[r]];
}

static double wall_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The other's clock is read about half way between sending and receiving. */
static double ahead_of_me(comm_t *comm, int other)
{
    double shortest = -1, ahead = 0;
    for (int i = 0; i < CLOCK_TRIPS; i++) {
        double theirs, start = wall_s();
        MPI_Send(&start, 1, MPI_DOUBLE, other, PING_TAG, comm->world);
        MPI_Recv(&theirs, 1, MPI_DOUBLE, other, PING_TAG, comm->world, MPI_STATUS_IGNORE);
        double end = wall_s();
        if (shortest >= 0 && end - start >= shortest)
            continue;
        shortest = end - start;
        ahead = theirs - (start + end) / 2;
    }
    return ahead;
}

void ping_clocks(comm_t *comm, double *ahead_s)
{
    if (comm->rank == 0)
        ahead_s[0] = 0;
    for (int r = 1; r < comm->size; r++) {
        if (comm->rank == 0)
            ahead_s[r] = ahead_of_me(comm, r);
        for (int i = 0; comm->rank == r && i < CLOCK_TRIPS; i++) {
            double theirs;
            MPI_Recv(&theirs, 1, MPI_DOUBLE, 0, PING_TAG, comm->world, MPI_STATUS_IGNORE);
            double mine = wall_s();
            MPI_Send(&mine, 1, MPI_DOUBLE, 0, PING_TAG, comm->world);
        }
    }
}

/* ---- Transports ------------------------------------------------------------------------------ */

/* Adds COMPONENT of a variable "KIND_COMPONENT_..." unless the text has it. */
static void add_component(char *text, size_t text_bytes, const char *variable, const char *kind)
{
    char word[32] = " ";
    size_t length = strlen(kind), used = strlen(text);
    if (strncmp(variable, kind, length) != 0)
        return;
    const char *name = variable + length;
    snprintf(word + 1, sizeof word - 1, "%.*s", (int)strcspn(name, "_"), name);
    const char *found = strstr(text, word);
    size_t end = strlen(word);
    if (strcmp(word, " base") == 0 || word[1] == '\0' || used + end >= text_bytes)
        return;
    if (found == NULL || (found[end] != ' ' && found[end] != '\0'))
        memcpy(text + used, word, end + 1);
}

void ping_transports(char *text, size_t text_bytes)
{
    /* Open MPI removes the variables of components that it opened and does not use. */
    char pmls[128] = "", btls[128] = "";
    int provided, n = 0;
    if (MPI_T_init_thread(MPI_THREAD_SINGLE, &provided) != MPI_SUCCESS) {
        snprintf(text, text_bytes, "unknown");
        return;
    }
    MPI_T_cvar_get_num(&n);
    for (int i = 0; i < n; i++) {
        char name[256];
        int name_bytes = sizeof name, description_bytes = 0, verbosity, binding, scope;
        MPI_Datatype type;
        MPI_T_enum enumeration;
        if (MPI_T_cvar_get_info(i, name, &name_bytes, &verbosity, &type, &enumeration, NULL,
                &description_bytes, &binding, &scope) != MPI_SUCCESS)
            continue;
        add_component(pmls, sizeof pmls, name, "pml_");
        add_component(btls, sizeof btls, name, "btl_");
    }
    MPI_T_finalize();
    if (pmls[0] == '\0')
        snprintf(text, text_bytes, "unknown");
    else
        snprintf(text, text_bytes, "%s:%s", pmls + 1, btls);
}
