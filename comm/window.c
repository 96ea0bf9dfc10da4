#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "comm/internal.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"

#define WINDOW_ALIGN 64
#define MIB 1048576.0

/* Where Open MPI usually puts the files behind shared windows. */
static void guess_directory(char *path, size_t path_bytes)
{
    const char *set = getenv("OMPI_MCA_osc_sm_backing_directory");
    snprintf(path, path_bytes, "%s", set != NULL ? set : "/dev/shm");
}

/* Where it really puts them, which a configuration file or a missing /dev/shm may have changed.
 * Asking through the tools interface takes a fifth of a second. path is left alone when it cannot
 * be told. */
static void ask_directory(char *path, size_t path_bytes)
{
    int provided, index, count;
    MPI_T_cvar_handle handle;
    if (MPI_T_init_thread(MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return;
    if (MPI_T_cvar_get_index("osc_sm_backing_directory", &index) == MPI_SUCCESS &&
        MPI_T_cvar_handle_alloc(index, NULL, &handle, &count) == MPI_SUCCESS) {
        if (count > 0 && (size_t)count < path_bytes) {
            memset(path, 0, path_bytes);
            MPI_T_cvar_read(handle, path);
        }
        MPI_T_cvar_handle_free(&handle);
    }
    MPI_T_finalize();
}

/* Free bytes of a file system; 0 when there is no such directory. */
static double free_bytes(const char *path)
{
    struct statvfs space;
    if (statvfs(path, &space) != 0)
        return 0;
    /* A tmpfs without limit reports no blocks at all. */
    return space.f_blocks == 0 ? HUGE_VAL : (double)space.f_bavail * (double)space.f_frsize;
}

int window_check(size_t bytes, const char *what, fail_t *fail)
{
    char path[PATH_MAX];
    guess_directory(path, sizeof path);
    if (free_bytes(path) < (double)bytes)
        ask_directory(path, sizeof path);
    double room = free_bytes(path);
    if (room < (double)bytes)
        return fail_set(fail, FAIL_MEMORY,
            "%s: needs %.1f MiB of shared memory, %s has %.1f MiB free (in a container, allow it "
            "more, "
            "as with docker's --shm-size; or choose --comm mpi)",
            what, (double)bytes / MIB, path, room / MIB);
    size_t available = memory_available_bytes();
    if (available != 0 && bytes > available)
        return fail_set(fail, FAIL_MEMORY,
            "%s: needs %.1f MiB of memory, the machine has %.1f MiB free", what,
            (double)bytes / MIB, (double)available / MIB);
    return 0;
}

void window_open(window_t *window, MPI_Comm group, size_t bytes)
{
    int rank, size, unit;
    void *base;
    MPI_Aint base_bytes;
    MPI_Comm_rank(group, &rank);
    MPI_Comm_size(group, &size);
    /* All of it is the first rank's, so that it is one piece. */
    MPI_Aint mine = rank == 0 ? (MPI_Aint)(bytes + WINDOW_ALIGN) : 0;
    MPI_Win_allocate_shared(mine, 1, MPI_INFO_NULL, group, &base, &window->win);
    MPI_Win_shared_query(window->win, 0, &base_bytes, &unit, &base);
    /* Loads and stores belong into an epoch; this one lasts as long as the window. */
    MPI_Win_lock_all(MPI_MODE_NOCHECK, window->win);
    window->data = (void *)size_round_up((size_t)(uintptr_t)base, WINDOW_ALIGN);
    /* Each rank clears a part, so that the pages spread over the NUMA nodes of the ranks. */
    size_t part = size_round_up((bytes + (size_t)size - 1) / (size_t)size, 4096);
    size_t begin = size_min(part * (size_t)rank, bytes);
    memset((char *)window->data + begin, 0, size_min(part, bytes - begin));
    MPI_Barrier(group);
}

void window_close(window_t *window)
{
    if (window->data == NULL)
        return;
    MPI_Win_unlock_all(window->win);
    MPI_Win_free(&window->win);
    window->data = NULL;
}
