/* A rank's progress record for the watchdog (watchdog.h): a few words that the rank stores and that
 * other threads and processes read. An update costs a few relaxed stores.
 *
 * One record a process; all groups of ranks that the process is in share it. Only the thread that
 * communicates with other ranks updates it. */
#ifndef CHOIR_COMM_PROGRESS_RECORD_H
#define CHOIR_COMM_PROGRESS_RECORD_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"

#define PROGRESS_BYTES 64

typedef enum progress_phase {
    PROGRESS_IDLE, /* nothing to do: between steps, or waiting for a user */
    PROGRESS_WORK, /* a command's own work: CPU time, reads and writes count as progress */
    PROGRESS_OPEN,
    PROGRESS_LOAD,
    PROGRESS_ORDER, /* the step's entries from the coordinator */
    PROGRESS_EMBED,
    PROGRESS_QKV,
    PROGRESS_ATTENTION,
    PROGRESS_O_PROJ,
    PROGRESS_MLP,
    PROGRESS_DOWN_PROJ,
    PROGRESS_LOGITS,
    PROGRESS_SAMPLE,
    PROGRESS_PHASES
} progress_phase_t;

/* The collective in which a rank waits for other ranks. */
typedef enum progress_wait {
    PROGRESS_WAIT_NONE,
    PROGRESS_WAIT_GATHER, /* of activations */
    PROGRESS_WAIT_BROADCAST,
    PROGRESS_WAIT_BARRIER,
    PROGRESS_WAIT_REDUCE,
    PROGRESS_WAIT_COLLECT, /* to rank 0, or to all */
    PROGRESS_WAIT_AGREE,
    PROGRESS_WAITS
} progress_wait_t;

typedef struct record {
    _Alignas(PROGRESS_BYTES) atomic_uint_fast64_t beats; /* updates so far */
    atomic_uint_fast64_t step;                           /* steps begun */
    atomic_uint_fast32_t layer;
    atomic_int phase, wait;
    atomic_int group;  /* rank in the whole run of the first rank of the group it works in */
    atomic_int wide;   /* 1: the collective may include ranks of other groups */
    atomic_int signal; /* that asked this rank to end; 0: none */
} progress_record_t;

/* A copy of it at one time. */
typedef struct progress_view {
    uint64_t beats, step;
    uint32_t layer;
    int32_t group;
    int16_t phase, wait, wide, signal; /* no padding: views are compared as bytes */
} progress_view_t;

progress_view_t progress_record_view(const progress_record_t *record);

/* "attention"; "" for PROGRESS_IDLE. */
const char *progress_phase_name(int phase);
/* "gather of activations"; "" for PROGRESS_WAIT_NONE. */
const char *progress_wait_name(int wait);

/* Local. This rank begins a phase of its group's work, of a layer where the phase has one. */
void comm_set_phase(const comm_t *comm, progress_phase_t phase, size_t layer);
/* Counts as progress within the same phase, where a phase may take long. */
void comm_report_progress(const comm_t *comm);
/* Local, in a signal handler too. This rank was asked to end. The group's rank 0, where it waits
 * for input, gets the signal as well, so that it need not wait for a step to notice it. */
void comm_record_signal(const comm_t *comm, int signal);
/* Local. The next step begins, in phase PROGRESS_ORDER. */
void comm_record_step(const comm_t *comm);

/* Local, of this folder. Around what waits for other ranks. progress_leave_wait takes what progress_enter_wait returned: a wait
 * inside of another counts as the outer one. */
progress_wait_t progress_enter_wait(const comm_t *comm, progress_wait_t wait);
void progress_leave_wait(const comm_t *comm, progress_wait_t outer);

#endif
