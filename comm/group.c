/* Groups of ranks: all of them, and parts. */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "comm/internal.h"
#include "comm/watch/progress_record.h"
#include "engine/base/memory.h"

/* Open MPI copies large messages straight from one process to another, and does not notice when a
 * container forbids that until such a message fails. Whether reading processes is forbidden shows
 * on reading ourselves. A setting of the user stays. */
static void avoid_forbidden_copies(void)
{
    char from = 1, to = 0;
    struct iovec remote = {&from, 1}, local = {&to, 1};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != 1)
        setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

int comm_start(int *argc, char ***argv, fail_t *fail)
{
    int provided;
    avoid_forbidden_copies();
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return fail_set(fail, FAIL_COMM, "MPI did not start");
    if (provided < MPI_THREAD_FUNNELED)
        return fail_set(fail, FAIL_COMM,
            "MPI: expected support for threads (MPI_THREAD_FUNNELED), this library has none: %s",
            comm_library_version());
    return 0;
}

void comm_stop(void)
{
    int started, stopped;
    MPI_Initialized(&started);
    MPI_Finalized(&stopped);
    if (started && !stopped)
        MPI_Finalize();
}

void comm_abort(int exit_status)
{
    MPI_Abort(MPI_COMM_WORLD, exit_status);
}

const char *comm_library_version(void)
{
    /* Filled with the same text by every call, so that callers need not provide room for it. */
    static char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(version, &length);
    version[strcspn(version, "\n")] = '\0';
    return version;
}

/* MPI moves a message only while its sender or receiver is inside of a call. A rank that waits for
 * long may have sent what the late one is waiting for, so now and then it lets MPI do its work. */
static void let_mpi_work(void *context)
{
    const comm_t *comm = context;
    int found;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm->world, &found, MPI_STATUS_IGNORE);
}

/* The start of what the ranks of a sharing group meet in; the board follows. */
typedef struct meeting {
    wait_load_t load;
    wait_place_t place;
    node_flag_t flags[]; /* [sharing_size] */
} meeting_t;

/* Collective. */
static int open_meeting(comm_t *comm, fail_t *fail)
{
    size_t head = sizeof(meeting_t) + (size_t)comm->sharing_size * sizeof(node_flag_t);
    if (comm->sharing_size > 1)
        window_open(&comm->meeting, comm, comm->sharing, head + board_bytes(comm->sharing_size),
            "flags of the ranks on a node", fail);
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    meeting_t *meeting = comm->meeting.data;
    comm->waiter = (waiter_t){.load = meeting != NULL ? &meeting->load : &comm->own_load,
        .shared = true,
        .slept_ns = &comm->slept_ns,
        .poll = let_mpi_work,
        .poll_context = comm};
    comm->barrier = (node_barrier_t){
        .waiter = &comm->waiter, .n_ranks = comm->sharing_size, .rank = comm->sharing_rank};
    if (meeting == NULL)
        return 0;
    comm->barrier.flags = meeting->flags;
    comm->barrier.place = &meeting->place;
    board_init(&comm->board, (char *)meeting + head, comm->sharing_size, comm->sharing_rank,
        &comm->waiter);
    return 0;
}

/* Collective over ranks. parent: the group that they are a part of, or NULL for all. */
static int open_group(
    comm_t **out, MPI_Comm ranks, const comm_t *parent, comm_path_t path, fail_t *fail)
{
    *out = NULL;
    comm_t *comm = aligned_alloc(WAIT_LINE, sizeof *comm);
    if (comm == NULL)
        fail_set(fail, FAIL_MEMORY, "communicator: out of memory");
    if (agree_on(ranks, fail) != 0) {
        free(comm);
        return fail->status;
    }
    memset(comm, 0, sizeof *comm);
    comm->world = comm->host = comm->node = comm->sharing = comm->leaders = MPI_COMM_NULL;
    comm->path = path;
    comm->is_world = parent == NULL;
    if (placement_open(comm, ranks, path, fail) != 0 || open_meeting(comm, fail) != 0) {
        comm_close(comm);
        return fail->status;
    }
    if (parent != NULL) {
        comm->record = parent->record;
        comm->trace = parent->trace;
        MPI_Allreduce(&parent->rank, &comm->first_rank, 1, MPI_INT, MPI_MIN, comm->world);
        /* The ranks of other parts compute at the same time: a part has its share of the host. */
        int share = parent->host_cpus * comm->host_ranks / parent->host_ranks;
        comm->host_cpus = share > 0 ? share : 1;
        comm->host_ranks = parent->host_ranks;
        comm->binding_ranks = parent->binding_ranks;
        comm->binding_index = parent->binding_index;
    }
    comm_set_threads(comm, 1);
    *out = comm;
    return 0;
}

int comm_open_world(comm_t **out, comm_path_t path, fail_t *fail)
{
    return open_group(out, MPI_COMM_WORLD, NULL, path, fail);
}

int comm_split(comm_t *parent, int color, comm_path_t path, comm_t **out, fail_t *fail)
{
    MPI_Comm ranks;
    progress_wait_t outer = progress_enter_wait(parent, PROGRESS_WAIT_AGREE);
    MPI_Comm_split(parent->world, color, parent->rank, &ranks);
    open_group(out, ranks, parent, path, fail);
    MPI_Comm_free(&ranks);
    progress_leave_wait(parent, outer);
    if (comm_agree(parent, fail) != 0) {
        comm_close(*out);
        *out = NULL;
    }
    return fail->status;
}

void comm_take_host(comm_t *comm, const comm_t *parent)
{
    comm->host_cpus = parent->host_cpus;
    MPI_Comm_size(comm->host, &comm->host_ranks);
}

void comm_close(comm_t *comm)
{
    if (comm == NULL)
        return;
    window_close(&comm->meeting);
    placement_close(comm);
    memory_free(comm->staging, comm->staging_bytes);
    free(comm);
}

void comm_set_threads(comm_t *comm, size_t threads)
{
    uint64_t total = threads;
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_REDUCE);
    MPI_Allreduce(MPI_IN_PLACE, &total, 1, MPI_UINT64_T, MPI_SUM, comm->host);
    progress_leave_wait(comm, outer);
    comm->oversubscribed = total > (uint64_t)comm->host_cpus;
    comm->waiter.oversubscribed = comm->oversubscribed;
}
