/* Large aligned memory, and the memory of this machine.
 *
 * Thread safe. Memory from memory_alloc is zeroed, aligned to 64 bytes (2 MiB for large blocks,
 * which also ask for transparent huge pages) and is released with memory_free of the same size.
 * Pages are placed on the NUMA node of the thread that first writes them. */
#ifndef CHOIR_BASE_MEMORY_H
#define CHOIR_BASE_MEMORY_H

#include <stddef.h>

#include "engine/base/status.h"

/* NULL and a message naming `what` when there is not enough. bytes 0 gives a valid pointer. */
void *memory_alloc(size_t bytes, const char *what, fail_t *fail);

/* NULL is allowed. */
void memory_free(void *memory, size_t bytes);

/* Bytes that this host has free without swapping (MemAvailable of /proc/meminfo, and the limit of
 * this process's control group where that is lower). 0 when unknown. */
size_t memory_available_bytes(void);

/* Why the system refuses `bytes` more: the limit of this process that they exceed ("ulimit -v
 * allows 500.0 MiB of address space, of which 480.2 are taken"), or else the machine's free
 * memory. */
void memory_describe_refusal(size_t bytes, char *text, size_t text_bytes);

/* Largest resident set of this process so far, in bytes (getrusage). */
size_t memory_peak_bytes(void);

/* Makes the n-th following call of memory_alloc in this process fail (1: the next); 0 turns it off.
 * For tests of failure paths. */
void memory_fail_nth(size_t n);

#endif
