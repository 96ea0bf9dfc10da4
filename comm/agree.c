#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "comm/internal.h"
#include "comm/watch/progress_record.h"

/* Orders failures by status, then by rank: the smallest key is the failure to report. No failure
 * has the largest status, 0. */
static uint64_t key_of(int status, int rank)
{
    assert(status <= 0);
    return (uint64_t)((int64_t)status - INT32_MIN) << 32 | (uint32_t)rank;
}

static int status_of(uint64_t key)
{
    return (int)((int64_t)(key >> 32) + INT32_MIN);
}

/* Collective. All take the failure of `key`. */
static int take_failure(MPI_Comm ranks, int rank, uint64_t key, fail_t *fail)
{
    int status = status_of(key);
    int root = (int)(uint32_t)key;
    fail_t common;
    if (rank == root)
        common = *fail;
    MPI_Bcast(common.message, FAIL_MESSAGE_BYTES, MPI_CHAR, root, ranks);
    int same = fail->status == status && strcmp(fail->message, common.message) == 0;
    MPI_Allreduce(MPI_IN_PLACE, &same, 1, MPI_INT, MPI_MIN, ranks);
    fail->status = 0;
    return same ? fail_set(fail, status, "%s", common.message)
                : fail_set(fail, status, "rank %d: %s", root, common.message);
}

int agree_on(MPI_Comm ranks, fail_t *fail)
{
    int rank;
    MPI_Comm_rank(ranks, &rank);
    uint64_t key = key_of(fail->status, rank);
    MPI_Allreduce(MPI_IN_PLACE, &key, 1, MPI_UINT64_T, MPI_MIN, ranks);
    return status_of(key) == 0 ? 0 : take_failure(ranks, rank, key, fail);
}

int comm_agree(comm_t *comm, fail_t *fail)
{
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_AGREE);
    agree_on(comm->world, fail);
    progress_leave_wait(comm, outer);
    return fail->status;
}

/* Collective. Names rank 0's value and that of the first rank that differs from it. */
static int fail_differing(comm_t *comm, uint64_t value, const char *what, fail_t *fail)
{
    uint64_t values[2] = {value, value};
    MPI_Bcast(&values[0], 1, MPI_UINT64_T, 0, comm->world);
    int first = value == values[0] ? comm->size : comm->rank;
    MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm->world);
    MPI_Bcast(&values[1], 1, MPI_UINT64_T, first, comm->world);
    return fail_set(fail, FAIL_MODEL,
        "%s: expected the same on all ranks, rank 0 has %016" PRIx64 ", rank %d has %016" PRIx64,
        what, values[0], first, values[1]);
}

int comm_agree_same(comm_t *comm, uint64_t value, const char *what, fail_t *fail)
{
    /* Lowest value, and lowest complement, which is the complement of the largest. */
    uint64_t votes[3] = {key_of(fail->status, comm->rank), value, ~value};
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_AGREE);
    MPI_Allreduce(MPI_IN_PLACE, votes, 3, MPI_UINT64_T, MPI_MIN, comm->world);
    progress_leave_wait(comm, outer);
    if (status_of(votes[0]) != 0)
        return take_failure(comm->world, comm->rank, votes[0], fail);
    if (votes[1] != ~votes[2])
        return fail_differing(comm, value, what, fail);
    return 0;
}
