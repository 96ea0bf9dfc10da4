#include "engine/base/memory.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "engine/base/proc_file.h"
#include "engine/base/size.h"

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define MIB 1048576.0

/* Counts down to an injected failure; 0 is off. Process-wide because allocation is. */
static atomic_size_t fail_countdown;

void memory_fail_nth(size_t n)
{
    atomic_store(&fail_countdown, n);
}

static bool injected_failure(void)
{
    size_t left = atomic_load(&fail_countdown);
    while (left != 0)
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1))
            return left == 1;
    return false;
}

/* From activations of a few hundred rows on: with small pages, tile instructions on a virtual
 * machine wait for address translation half of the time. */
static bool is_huge(size_t bytes)
{
    return bytes >= HUGE_PAGE_BYTES / 4;
}

/* Bytes requested from the kernel for a block; a part of them is returned at once. */
static size_t mapped_bytes(size_t bytes)
{
    return is_huge(bytes) && bytes < SIZE_MAX / 2
               ? size_round_up(bytes, HUGE_PAGE_BYTES) + HUGE_PAGE_BYTES
               : bytes;
}

/* Whole pages from the kernel: zero, and untouched until used. Maps a huge page more than needed
 * and returns the part outside of the aligned block. */
static void *map_huge(size_t bytes)
{
    size_t length = size_round_up(bytes, HUGE_PAGE_BYTES);
    size_t mapped = mapped_bytes(bytes);
    char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    size_t head = (HUGE_PAGE_BYTES - (uintptr_t)base % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    if (head != 0)
        munmap(base, head);
    munmap(base + head + length, mapped - head - length);
    /* Refusal costs speed only. */
    madvise(base + head, length, MADV_HUGEPAGE);
    return base + head;
}

/* The number that a line begins with, or a value; 0: none. */
static size_t read_number(const char *path, const char *key)
{
    char text[256];
    proc_value(path, key, text, sizeof text);
    return (size_t)strtoull(text, NULL, 10);
}

size_t memory_available_bytes(void)
{
    size_t available = read_number("/proc/meminfo", "MemAvailable") * 1024;
    size_t limit = read_number("/sys/fs/cgroup/memory.max", NULL); /* "max" reads as 0 */
    size_t used = read_number("/sys/fs/cgroup/memory.current", NULL);
    if (limit != 0 && limit > used && limit - used < available)
        available = limit - used;
    return available;
}

/* Whether one limit of this process refuses; then *text says so. key: of /proc/self/status, in KiB.
 */
static bool exceeds_limit(int resource, const char *key, const char *flag, const char *of,
    size_t bytes, char *text, size_t text_bytes)
{
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return false;
    size_t taken = read_number("/proc/self/status", key) * 1024;
    if (taken + bytes <= (size_t)limit.rlim_cur)
        return false;
    snprintf(text, text_bytes, "%s allows %.1f MiB of %s, of which %.1f are taken", flag,
        (double)limit.rlim_cur / MIB, of, (double)taken / MIB);
    return true;
}

void memory_describe_refusal(size_t bytes, char *text, size_t text_bytes)
{
    if (!exceeds_limit(
            RLIMIT_AS, "VmSize", "ulimit -v", "address space", bytes, text, text_bytes) &&
        !exceeds_limit(RLIMIT_DATA, "VmData", "ulimit -d", "data", bytes, text, text_bytes))
        snprintf(text, text_bytes, "the machine has %.1f MiB free",
            (double)memory_available_bytes() / MIB);
}

void *memory_alloc(size_t bytes, const char *what, fail_t *fail)
{
    void *memory = NULL;
    if (bytes < SIZE_MAX / 2 && !injected_failure()) {
        if (is_huge(bytes)) {
            memory = map_huge(bytes);
        } else {
            size_t rounded = size_round_up(size_max(bytes, 1), 64);
            memory = aligned_alloc(64, rounded);
            if (memory != NULL)
                memset(memory, 0, rounded);
        }
    }
    if (memory == NULL) {
        char refusal[160];
        memory_describe_refusal(mapped_bytes(bytes), refusal, sizeof refusal);
        fail_set(fail, FAIL_MEMORY, "%s: needs %.1f MiB of memory, %s", what, (double)bytes / MIB,
            refusal);
    }
    return memory;
}

void memory_free(void *memory, size_t bytes)
{
    if (memory != NULL && is_huge(bytes))
        munmap(memory, size_round_up(bytes, HUGE_PAGE_BYTES));
    else
        free(memory);
}

size_t memory_peak_bytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (size_t)usage.ru_maxrss * 1024;
}
