#include <assert.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "comm/internal.h"
#include "comm/watch/progress_record.h"
#include "engine/base/clock.h"
#include "engine/base/size.h"

/* MPI counts in int, so long messages are sent in pieces. */
#define PIECE ((size_t)1 << 30)
#define GATHER_TAG 1

/* Payloads up to this size are sent with the wait itself; longer ones follow a one-byte message. */
#define PATIENT_INLINE_BYTES 4096
#define PATIENT_SPIN_NS 20000000
#define PATIENT_FIRST_SLEEP_NS 20000
#define PATIENT_LAST_SLEEP_NS 1000000

void comm_bcast(comm_t *comm, void *data, size_t bytes)
{
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_BROADCAST);
    if (shares_all(comm))
        board_bcast(&comm->board, data, bytes);
    for (size_t done = 0; done < bytes && !shares_all(comm); done += PIECE)
        MPI_Bcast(
            (char *)data + done, (int)size_min(PIECE, bytes - done), MPI_BYTE, 0, comm->world);
    progress_leave_wait(comm, outer);
}

/* Polls until the request completes: without a pause at first, so that a running generation loses
 * no time, then with growing sleeps, so that an idle rank uses no core. */
static void wait_idle(const comm_t *comm, MPI_Request *request)
{
    uint64_t start = clock_ns();
    long sleep_ns = PATIENT_FIRST_SLEEP_NS;
    for (;;) {
        int done;
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done)
            return;
        if (clock_ns() - start < PATIENT_SPIN_NS) {
            if (comm->oversubscribed)
                sched_yield();
            continue;
        }
        nanosleep(&(struct timespec){.tv_nsec = sleep_ns}, NULL);
        if (sleep_ns < PATIENT_LAST_SLEEP_NS)
            sleep_ns =
                sleep_ns * 3 / 2 < PATIENT_LAST_SLEEP_NS ? sleep_ns * 3 / 2 : PATIENT_LAST_SLEEP_NS;
    }
}

void comm_bcast_idle(comm_t *comm, void *data, size_t bytes)
{
    if (shares_all(comm)) { /* whose waits are all patient */
        comm_bcast(comm, data, bytes);
        return;
    }
    char bell = 0;
    bool inlined = bytes <= PATIENT_INLINE_BYTES;
    MPI_Request request;
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_BROADCAST);
    MPI_Ibcast(
        inlined ? data : &bell, inlined ? (int)bytes : 1, MPI_BYTE, 0, comm->world, &request);
    wait_idle(comm, &request);
    /* All ranks are awake now; a long message is fast only while they stay inside of MPI. */
    if (!inlined)
        comm_bcast(comm, data, bytes);
    progress_leave_wait(comm, outer);
}

void comm_barrier(comm_t *comm)
{
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_BARRIER);
    if (shares_all(comm))
        node_barrier_wait(&comm->barrier);
    else
        MPI_Barrier(comm->world);
    progress_leave_wait(comm, outer);
}

static int64_t reduce_int64(comm_t *comm, int64_t value, MPI_Op op)
{
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_REDUCE);
    MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, op, comm->world);
    progress_leave_wait(comm, outer);
    return value;
}

int64_t comm_min(comm_t *comm, int64_t value)
{
    return reduce_int64(comm, value, MPI_MIN);
}

int64_t comm_max(comm_t *comm, int64_t value)
{
    return reduce_int64(comm, value, MPI_MAX);
}

int64_t comm_bit_and(comm_t *comm, int64_t value)
{
    return reduce_int64(comm, value, MPI_BAND);
}

int64_t comm_sum(comm_t *comm, int64_t value)
{
    return reduce_int64(comm, value, MPI_SUM);
}

/* Point to point, because MPI_Gatherv's displacements are int. */
static void send_to_root(comm_t *comm, const void *mine, size_t bytes)
{
    assert(bytes <= INT_MAX);
    if (shares_all(comm))
        board_send(&comm->board, mine, bytes);
    else
        MPI_Send(mine, (int)bytes, MPI_BYTE, 0, GATHER_TAG, comm->world);
}

static void receive_parts(comm_t *comm, const size_t *counts, char *all)
{
    for (int r = 1; r < comm->size; all += counts[r++]) {
        if (shares_all(comm))
            board_receive(&comm->board, r, all, counts[r]);
        else
            MPI_Irecv(
                all, (int)counts[r], MPI_BYTE, r, GATHER_TAG, comm->world, &comm->requests[r]);
    }
    if (!shares_all(comm))
        MPI_Waitall(comm->size - 1, comm->requests + 1, MPI_STATUSES_IGNORE);
}

void comm_gatherv_root(comm_t *comm, const void *mine, const size_t *counts, void *all)
{
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_COLLECT);
    if (comm->rank != 0) {
        send_to_root(comm, mine, counts[comm->rank]);
    } else {
        memmove(all, mine, counts[0]);
        receive_parts(comm, counts, (char *)all + counts[0]);
    }
    progress_leave_wait(comm, outer);
}

void comm_gather_root(comm_t *comm, const void *mine, size_t bytes, void *all)
{
    assert(bytes <= INT_MAX);
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_COLLECT);
    MPI_Gather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, 0, comm->world);
    progress_leave_wait(comm, outer);
}

void comm_allgather(comm_t *comm, const void *mine, size_t bytes, void *all)
{
    assert(bytes <= INT_MAX);
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_COLLECT);
    MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, comm->world);
    progress_leave_wait(comm, outer);
}

static void allreduce(comm_t *comm, void *data, size_t n, size_t element_bytes, MPI_Datatype type)
{
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_REDUCE);
    for (size_t done = 0; done < n; done += PIECE)
        MPI_Allreduce(MPI_IN_PLACE, (char *)data + done * element_bytes,
            (int)size_min(PIECE, n - done), type, MPI_SUM, comm->world);
    progress_leave_wait(comm, outer);
}

void comm_allreduce_f32(comm_t *comm, float *data, size_t n)
{
    allreduce(comm, data, n, sizeof *data, MPI_FLOAT);
}

void comm_allreduce_f64(comm_t *comm, double *data, size_t n)
{
    allreduce(comm, data, n, sizeof *data, MPI_DOUBLE);
}
