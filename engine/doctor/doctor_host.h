/* Facts of one host from one of its processes, read from the system, the driver and the loader,
 * without MPI and without measuring. Local. */
#ifndef CHOIR_DOCTOR_DOCTOR_HOST_H
#define CHOIR_DOCTOR_DOCTOR_HOST_H

#include <stdint.h>

#include "comm/interfaces.h"

#define DOCTOR_NAME_BYTES 64
#define DOCTOR_TEXT_BYTES 256
#define DOCTOR_UNLIMITED UINT64_MAX

typedef enum doctor_pages {
    DOCTOR_PAGES_UNKNOWN,
    DOCTOR_PAGES_ALWAYS,
    DOCTOR_PAGES_ADVISED, /* "madvise": only for programs that ask, as Choir does */
    DOCTOR_PAGES_NEVER
} doctor_pages_t;

/* Plain data without pointers, sent unchanged. Bytes are 0 where the system does not report
 * them. */
typedef struct doctor_host {
    char name[DOCTOR_NAME_BYTES];
    char cpu[DOCTOR_NAME_BYTES];
    char governor[32];                 /* "performance/acpi-cpufreq": of the first hardware thread,
                                        * and its driver; empty when unknown */
    char libraries[DOCTOR_TEXT_BYTES]; /* "libmpi 40.30.4, ...": as loaded */
    uint64_t boot;                     /* digest of the boot's id: one machine, one value; 0 none */
    uint64_t program;                  /* digest of the executable file; 0 when unreadable */
    uint64_t memory_available_bytes, memory_total_bytes;
    uint64_t shm_free_bytes, shm_bytes; /* of /dev/shm */
    uint64_t memlock_bytes;             /* ulimit -l, or DOCTOR_UNLIMITED */
    double mhz;                         /* clock of the first hardware thread; 0 when unknown */
    int32_t pages;                      /* doctor_pages_t: transparent huge pages */
    int32_t copies;                     /* 1: a process may read another's memory */
    int32_t is_root;
    int32_t in_slurm; /* started within an allocation of Slurm */
    int32_t pretends; /* nodes are set by a test (CHOIR_RANKS_PER_NODE) */
    int32_t n_interfaces;
    interface_t interfaces[INTERFACES_MAX];
} doctor_host_t;

void doctor_host_read(doctor_host_t *host);

/* "always", "madvise", "never", "unknown". */
const char *doctor_pages_name(int pages);

#endif
