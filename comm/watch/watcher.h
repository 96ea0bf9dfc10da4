/* The monitoring thread of a rank, and its messages to those of other ranks: UDP datagrams, without
 * MPI.
 *
 * Four times a second every rank sends its progress record to two monitors: the primary on
 * rank 0, and a backup on another host where there is one. Monitors answer and keep the table that
 * verdict.h reads. When one finds the rank that blocks the run, it prints the message and all ranks
 * end. A rank that gets no answer from either monitor ends by itself. The first two ranks of a host
 * also check the host's other processes: they report those that are stopped or have ended, with
 * their last progress record. */
#ifndef CHOIR_COMM_WATCHER_H
#define CHOIR_COMM_WATCHER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/watch/progress_record.h"
#include "engine/base/status.h"

#define WATCHER_MONITORS 2
#define WATCHER_HOST_BYTES 64
#define WATCHER_ADDRESSES 8

/* A monitor's port and addresses. */
typedef struct watcher_monitor {
    int32_t rank; /* -1: no such monitor */
    uint16_t port;
    uint16_t n_addresses;
    uint32_t addresses[WATCHER_ADDRESSES]; /* IPv4, in network order */
} watcher_monitor_t;

typedef struct watcher_peer {
    char host[WATCHER_HOST_BYTES];
    int32_t pid;
    int32_t on_host;  /* 1: on this rank's host */
    uint64_t started; /* as in /proc/PID/stat, so that another process of that id is detected */
    const progress_record_t *record; /* in memory shared with this rank; NULL: none */
} watcher_peer_t;

typedef struct watcher_options {
    int rank, size;
    size_t seconds;            /* without progress; not 0 */
    uint64_t key;              /* of this run: messages with another key are ignored */
    progress_record_t *record; /* this rank's own; borrowed */
    watcher_peer_t *peers;     /* [size]; taken: freed by watcher_close */
    watcher_monitor_t monitors[WATCHER_MONITORS];
    int launcher;             /* process that started this one and whose end ends it; 0: none */
    void (*before_end)(void); /* called before the process ends; may be NULL */
} watcher_options_t;

typedef struct watcher watcher_t;

/* Local. Opens the socket. *at: its port and addresses, for watcher_begin on other ranks. */
int watcher_open(watcher_t **watcher, watcher_monitor_t *at, fail_t *fail);
/* Local. Starts the thread. */
int watcher_begin(watcher_t *watcher, const watcher_options_t *options, fail_t *fail);
/* Local. For the end of a run: from here on it ends no run, and still answers. */
void watcher_rest(watcher_t *watcher);
/* Local. Ends the thread. NULL is allowed. */
void watcher_close(watcher_t *watcher);

#endif
