#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "comm/internal.h"
#include "comm/watch/progress_record.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define SMALL_PAGE_BYTES 4096
/* From this size on a window has huge pages: with small ones, translating the addresses of
 * activations takes twice as long as computing with them (bench/LOG.md). */
#define HUGE_FROM_BYTES ((size_t)512 << 10)
#define MIB 1048576.0

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* The memory of the group's first rank: an unnamed file. */
typedef struct address {
    long pid;
    int file, error; /* error: errno, or 0 */
} address_t;

static address_t create(size_t bytes)
{
    address_t address = {.pid = (long)getpid()};
    address.file = memfd_create("choir", MFD_CLOEXEC);
    if (address.file < 0 || ftruncate(address.file, (off_t)bytes) != 0)
        address.error = errno;
    return address;
}

/* The others open the file through the first one's descriptor. */
static int open_there(const address_t *address)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/fd/%d", address->pid, address->file);
    return open(path, O_RDWR | O_CLOEXEC);
}

/* Huge pages need the same alignment in memory as in the file. */
static void *map(int file, size_t bytes)
{
    char *room = mmap(NULL, bytes + HUGE_PAGE_BYTES, PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return NULL;
    char *at = (char *)size_round_up((size_t)(uintptr_t)room, HUGE_PAGE_BYTES);
    char *end = room + bytes + HUGE_PAGE_BYTES;
    if (at > room)
        munmap(room, (size_t)(at - room));
    if (end > at + bytes)
        munmap(at + bytes, (size_t)(end - at - (ptrdiff_t)bytes));
    void *data = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    if (data == MAP_FAILED) {
        munmap(at, bytes);
        return NULL;
    }
    return data;
}

/* Local. Maps `file`; error: of the step before. */
static void map_file(window_t *window, int file, int error, const char *what, fail_t *fail)
{
    window->data = error == 0 && file >= 0 ? map(file, window->bytes) : NULL;
    if (window->data != NULL)
        return;
    char reason[160];
    error = error != 0 ? error : errno;
    snprintf(reason, sizeof reason, "%s", strerror(error));
    if (error == ENOMEM)
        memory_describe_refusal(window->bytes, reason, sizeof reason);
    fail_set(fail, FAIL_MEMORY,
        "%s: %.1f MiB cannot be shared between processes: %s (--comm mpi does without)", what,
        (double)window->bytes / MIB, reason);
}

static void check_memory(size_t bytes, const char *what, fail_t *fail)
{
    size_t available = memory_available_bytes();
    if (available != 0 && bytes > available)
        fail_set(fail, FAIL_MEMORY, "%s: needs %.1f MiB of memory, the machine has %.1f MiB free",
            what, (double)bytes / MIB, (double)available / MIB);
}

/* Collective. Each rank touches its part of the pages, on its NUMA node; huge ones where there are
 * some. Most systems give shared memory small pages unless asked page by page, and refusal costs
 * speed only. */
static void take_pages(window_t *window, const comm_t *comm, MPI_Comm group)
{
    int rank, size, huge = window->bytes % HUGE_PAGE_BYTES == 0;
    MPI_Comm_rank(group, &rank);
    MPI_Comm_size(group, &size);
    size_t page_bytes = huge ? HUGE_PAGE_BYTES : SMALL_PAGE_BYTES;
    size_t pages = window->bytes / page_bytes, n = (size_t)size;
    for (size_t p = pages * (size_t)rank / n; p < pages * ((size_t)rank + 1) / n; p++) {
        char *page = (char *)window->data + p * page_bytes;
        comm_set_phase(comm, PROGRESS_LOAD, 0);
        *(volatile char *)page = 0; /* a page must exist first */
        huge = huge && madvise(page, HUGE_PAGE_BYTES, MADV_COLLAPSE) == 0;
        if (!huge)
            memset(page, 0, page_bytes);
    }
    MPI_Allreduce(MPI_IN_PLACE, &huge, 1, MPI_INT, MPI_MIN, group);
    window->huge = huge;
}

int window_open(window_t *window, const comm_t *comm, MPI_Comm group, size_t bytes,
    const char *what, fail_t *fail)
{
    int rank;
    MPI_Comm_rank(group, &rank);
    *window = (window_t){.bytes = size_round_up(size_max(bytes, 1),
                             bytes < HUGE_FROM_BYTES ? SMALL_PAGE_BYTES : HUGE_PAGE_BYTES)};
    if (rank == 0)
        check_memory(window->bytes, what, fail);
    if (agree_on(group, fail) != 0)
        return fail->status;
    address_t address = rank == 0 ? create(window->bytes) : (address_t){0};
    MPI_Bcast(&address, (int)sizeof address, MPI_BYTE, 0, group);
    int file = rank == 0 || address.error != 0 ? address.file : open_there(&address);
    map_file(window, file, address.error != 0 ? address.error : file < 0 ? errno : 0, what, fail);
    agree_on(group, fail); /* no rank needs the first one's descriptor any more */
    if (file >= 0 && (rank == 0 || address.error == 0))
        close(file);
    if (fail->status != 0) {
        window_close(window);
        return fail->status;
    }
    take_pages(window, comm, group);
    return 0;
}

void window_close(window_t *window)
{
    if (window->data != NULL)
        munmap(window->data, window->bytes);
    window->data = NULL;
}
