#include "comm/watch/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/internal.h"
#include "comm/watch/progress_record.h"
#include "comm/watch/trace_write.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/out_file.h"
#include "engine/base/size.h"

enum { TRACE_TAG = 106 };
#define CLOCK_TRIPS 32
#define PIECE_EVENTS 65536 /* of a message */
#define HOST_BYTES 64

struct trace {
    comm_t *comm;
    trace_ring_t ring;
    trace_clock_t clock; /* of this rank */
    uint64_t origin_ns, origin_ticks;
    char *path;       /* on rank 0, with the file's name */
    out_file_t *file; /* NULL when not open */
};

/* What a rank sends before its events. */
typedef struct introduction {
    char host[HOST_BYTES];
    trace_clock_t clock;
    uint64_t n, n_dropped, end_ns;
} introduction_t;

void comm_trace_rows(const comm_t *comm, size_t rows)
{
    trace_record(comm->trace, TRACE_ROWS, 0, rows);
}

/* ---- Clocks ---------------------------------------------------------------------------------- */

/* On rank 0: how far the other's clock is ahead, and the error. The other read its clock between
 * start and end. */
static int64_t compare_clock(comm_t *comm, int other, uint64_t *error_ns)
{
    int64_t ahead = 0;
    *error_ns = UINT64_MAX;
    for (int i = 0; i < CLOCK_TRIPS; i++) {
        uint64_t theirs, start = clock_ns();
        MPI_Send(&start, 1, MPI_UINT64_T, other, TRACE_TAG, comm->world);
        MPI_Recv(&theirs, 1, MPI_UINT64_T, other, TRACE_TAG, comm->world, MPI_STATUS_IGNORE);
        uint64_t half = (clock_ns() - start) / 2;
        if (half >= *error_ns)
            continue;
        *error_ns = half;
        ahead = (int64_t)(theirs - (start + half));
    }
    /* Ranks of a host have one clock; a difference within the error counts as none. */
    return (uint64_t)llabs(ahead) <= *error_ns ? 0 : ahead;
}

static void answer_clock(comm_t *comm)
{
    for (int i = 0; i < CLOCK_TRIPS; i++) {
        uint64_t theirs;
        MPI_Recv(&theirs, 1, MPI_UINT64_T, 0, TRACE_TAG, comm->world, MPI_STATUS_IGNORE);
        uint64_t mine = clock_ns();
        MPI_Send(&mine, 1, MPI_UINT64_T, 0, TRACE_TAG, comm->world);
    }
}

/* Collective. moment: 0 at the beginning, 1 at the end. */
static void align_clock(trace_t *t, int moment)
{
    comm_t *comm = t->comm;
    for (int r = 1; r < comm->size; r++) {
        struct {
            int64_t ahead_ns;
            uint64_t error_ns;
        } found;
        if (comm->rank == 0) {
            found.ahead_ns = compare_clock(comm, r, &found.error_ns);
            MPI_Send(&found, sizeof found, MPI_BYTE, r, TRACE_TAG, comm->world);
        } else if (comm->rank == r) {
            answer_clock(comm);
            MPI_Recv(&found, sizeof found, MPI_BYTE, 0, TRACE_TAG, comm->world, MPI_STATUS_IGNORE);
            t->clock.ahead_ns[moment] = found.ahead_ns;
            if (found.error_ns > t->clock.error_ns)
                t->clock.error_ns = found.error_ns;
        }
    }
    t->clock.at_ns[moment] = clock_ns();
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* Rank 0. Fails now rather than after the run. */
static int open_file(trace_t *t, const char *path, fail_t *fail)
{
    fail_t own = {0};
    t->path = strdup(path);
    if (t->path == NULL)
        return fail_set(fail, FAIL_MEMORY, "--trace: out of memory");
    if (out_file_open(&t->file, path, OUT_REPLACE, &own) != 0)
        fail_set(fail, own.status, "--trace %s", own.message);
    return fail->status;
}

static void release(trace_t *t)
{
    if (t == NULL)
        return;
    out_file_drop(t->file);
    free(t->path);
    free(t->ring.events);
    free(t);
}

int trace_open(trace_t **out, comm_t *comm, const char *path, size_t n_events, fail_t *fail)
{
    *out = NULL;
    if (path == NULL)
        return 0;
    trace_t *t = calloc(1, sizeof *t);
    if (t == NULL || !trace_ring_open(&t->ring, n_events, PROGRESS_IDLE))
        fail_set(fail, FAIL_MEMORY, "--trace: out of memory for %zu events", n_events);
    else if (comm->rank == 0)
        open_file(t, path, fail);
    if (comm_agree(comm, fail) != 0) {
        release(t);
        return fail->status;
    }
    t->comm = comm;
    t->origin_ns = clock_ns();
    t->origin_ticks = clock_ticks();
    align_clock(t, 0);
    comm->trace = &t->ring;
    *out = t;
    return 0;
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* From the counter's ticks to nanoseconds. */
static void convert_ticks(trace_t *t)
{
    double ticks = (double)(clock_ticks() - t->origin_ticks);
    double ns_of_tick = ticks > 0 ? (double)(clock_ns() - t->origin_ns) / ticks : 0;
    for (size_t i = 0; i < size_min((size_t)t->ring.n, t->ring.capacity); i++)
        t->ring.events[i].ns =
            t->origin_ns +
            (uint64_t)((double)(t->ring.events[i].ns - t->origin_ticks) * ns_of_tick);
}

static introduction_t introduce(const trace_t *t)
{
    introduction_t own = {.clock = t->clock, .n = t->ring.n, .end_ns = clock_ns()};
    gethostname(own.host, sizeof own.host - 1);
    if (t->ring.n > t->ring.capacity) {
        own.n_dropped = t->ring.n - t->ring.capacity;
        own.n = t->ring.capacity;
    }
    return own;
}

/* The oldest remaining event, and those after it that are contiguous in memory: *n of them. */
static const trace_event_t *piece_of(const trace_t *t, uint64_t done, uint64_t left, size_t *n)
{
    uint64_t first = t->ring.n > t->ring.capacity ? t->ring.n - t->ring.capacity : 0;
    size_t at = (size_t)((first + done) % t->ring.capacity);
    *n = size_min(size_min((size_t)left, t->ring.capacity - at), PIECE_EVENTS);
    return t->ring.events + at;
}

static void send_events(const trace_t *t)
{
    introduction_t own = introduce(t);
    progress_wait_t outer = progress_enter_wait(t->comm, PROGRESS_WAIT_COLLECT);
    MPI_Send(&own, sizeof own, MPI_BYTE, 0, TRACE_TAG, t->comm->world);
    for (uint64_t done = 0; done < own.n;) {
        size_t n;
        const trace_event_t *events = piece_of(t, done, own.n - done, &n);
        MPI_Send(events, (int)(n * sizeof *events), MPI_BYTE, 0, TRACE_TAG, t->comm->world);
        done += n;
    }
    progress_leave_wait(t->comm, outer);
}

/* Rank 0. Events of one rank, its own or another's, through the buffer. */
static introduction_t write_rank(
    const trace_t *t, trace_writer_t *writer, int rank, trace_event_t *buffer)
{
    introduction_t of = {0};
    if (rank == 0)
        of = introduce(t);
    else
        MPI_Recv(&of, sizeof of, MPI_BYTE, rank, TRACE_TAG, t->comm->world, MPI_STATUS_IGNORE);
    trace_write_rank(writer, rank, of.host, &of.clock);
    for (uint64_t done = 0; done < of.n;) {
        size_t n;
        const trace_event_t *events = buffer;
        if (rank == 0) {
            events = piece_of(t, done, of.n - done, &n);
        } else {
            MPI_Status status;
            int bytes;
            MPI_Recv(buffer, PIECE_EVENTS * sizeof *buffer, MPI_BYTE, rank, TRACE_TAG,
                t->comm->world, &status);
            MPI_Get_count(&status, MPI_BYTE, &bytes);
            n = (size_t)bytes / sizeof *buffer;
        }
        for (size_t i = 0; i < n; i++)
            trace_write_event(writer, &events[i]);
        done += n;
    }
    trace_write_rank_end(writer, of.end_ns);
    return of;
}

/* Rank 0. A file that cannot be written fails at the end: every rank's events are received. */
static void write_all(trace_t *t, trace_event_t *buffer, uint64_t *errors_ns)
{
    trace_writer_t writer;
    int n_short = 0;
    uint64_t n_dropped = 0;
    trace_write_begin(&writer, out_file_stream(t->file), t->origin_ns);
    for (int r = 0; r < t->comm->size; r++) {
        introduction_t of = write_rank(t, &writer, r, buffer);
        errors_ns[r] = of.clock.error_ns;
        n_short += of.n_dropped > 0;
        n_dropped += of.n_dropped;
    }
    trace_write_end(&writer, t->comm->size, errors_ns);
    if (n_short > 0)
        log_write(LOG_WARN,
            "--trace %s: has only the last %zu events of %d of the %d ranks; the first %" PRIu64
            " are left out",
            t->path, t->ring.capacity, n_short, t->comm->size, n_dropped);
}

int trace_close(trace_t *t, fail_t *fail)
{
    if (t == NULL)
        return fail->status;
    comm_t *comm = t->comm;
    fail_t own = {0};
    trace_event_t *buffer = NULL;
    uint64_t *errors_ns = NULL;
    comm->trace = NULL;
    convert_ticks(t);
    align_clock(t, 1);
    if (comm->rank == 0) {
        buffer = malloc(PIECE_EVENTS * sizeof *buffer);
        errors_ns = calloc((size_t)comm->size, sizeof *errors_ns);
        if (buffer == NULL || errors_ns == NULL)
            fail_set(&own, FAIL_MEMORY, "out of memory to gather events");
    }
    if (comm_agree(comm, &own) == 0) {
        if (comm->rank != 0) {
            send_events(t);
        } else {
            write_all(t, buffer, errors_ns);
            out_file_close(t->file, &own);
            t->file = NULL;
        }
        comm_agree(comm, &own);
    }
    free(buffer);
    free(errors_ns);
    release(t);
    if (own.status != 0)
        fail_set(fail, own.status, "--trace %s", own.message);
    return fail->status;
}
