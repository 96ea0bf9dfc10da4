/* A rank's progress record for the watchdog (watchdog.h): a few words that the rank stores and that
 * other threads and processes read. An update costs a few relaxed stores.
 *
 * One record a process; all groups of ranks that the process is in share it. Only the thread that
 * communicates with other ranks updates it. */
#ifndef CHOIR_COMM_HEART_H
#define CHOIR_COMM_HEART_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"

#define HEART_BYTES 64

typedef enum heart_phase {
    HEART_IDLE, /* nothing to do: between steps, or waiting for a user */
    HEART_WORK, /* a command's own work: CPU time, reads and writes count as progress */
    HEART_OPEN,
    HEART_LOAD,
    HEART_ORDER, /* the step's entries from the coordinator */
    HEART_EMBED,
    HEART_QKV,
    HEART_ATTENTION,
    HEART_O_PROJ,
    HEART_MLP,
    HEART_DOWN_PROJ,
    HEART_LOGITS,
    HEART_SAMPLE,
    HEART_PHASES
} heart_phase_t;

/* The collective in which a rank waits for other ranks. */
typedef enum heart_wait {
    HEART_WAIT_NONE,
    HEART_WAIT_GATHER, /* of activations */
    HEART_WAIT_BROADCAST,
    HEART_WAIT_BARRIER,
    HEART_WAIT_REDUCE,
    HEART_WAIT_COLLECT, /* to rank 0, or to all */
    HEART_WAIT_AGREE,
    HEART_WAITS
} heart_wait_t;

typedef struct heart {
    _Alignas(HEART_BYTES) atomic_uint_fast64_t beats; /* updates so far */
    atomic_uint_fast64_t step;                        /* steps begun */
    atomic_uint_fast32_t layer;
    atomic_int phase, wait;
    atomic_int group;  /* rank in the whole run of the first rank of the group it works in */
    atomic_int wide;   /* 1: the collective may include ranks of other groups */
    atomic_int signal; /* that asked this rank to end; 0: none */
} heart_t;

/* A copy of it at one time. */
typedef struct heart_view {
    uint64_t beats, step;
    uint32_t layer;
    int32_t group;
    int16_t phase, wait, wide, signal; /* no padding: views are compared as bytes */
} heart_view_t;

heart_view_t heart_look(const heart_t *heart);

/* "attention"; "" for HEART_IDLE. */
const char *heart_phase_name(int phase);
/* "gather of activations"; "" for HEART_WAIT_NONE. */
const char *heart_wait_name(int wait);

/* Local. This rank begins a phase of its group's work, of a layer where the phase has one. */
void comm_mark(const comm_t *comm, heart_phase_t phase, size_t layer);
/* Counts as progress within the same phase, where a phase may take long. */
void comm_beat(const comm_t *comm);
/* Local, in a signal handler too. This rank was asked to end. The group's rank 0, where it waits
 * for input, gets the signal as well, so that it need not wait for a step to notice it. */
void comm_mark_signal(const comm_t *comm, int signal);
/* Local. The next step begins, in phase HEART_ORDER. */
void comm_mark_step(const comm_t *comm);

/* Local, of this folder. Around what waits for other ranks. heart_leave takes what heart_enter returned: a wait
 * inside of another counts as the outer one. */
heart_wait_t heart_enter(const comm_t *comm, heart_wait_t wait);
void heart_leave(const comm_t *comm, heart_wait_t outer);

#endif
