/* The thread of a rank that watches, and what it says to those of other ranks: datagrams over UDP,
 * apart from MPI, which has no part in this module.
 *
 * Four times a second every rank tells two judges where it stands: the first rank, and a deputy on
 * another host where there is one. Judges answer, keep the table that verdict.h reads, and when
 * they find who holds the run up, one of them says so and all ranks end. A rank that hears neither
 * judge any more ends by itself. The first two ranks of a host also look after the host's other
 * processes: they tell of those that were stopped or have ended, and where those stood. */
#ifndef CHOIR_COMM_WATCHER_H
#define CHOIR_COMM_WATCHER_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/watch/heart.h"
#include "engine/base/status.h"

#define WATCHER_JUDGES 2
#define WATCHER_HOST_BYTES 64
#define WATCHER_ADDRESSES 8

/* Where a judge can be reached: at the port, by one of these addresses. */
typedef struct watcher_judge {
    int32_t rank; /* -1: there is no such judge */
    uint16_t port;
    uint16_t n_addresses;
    uint32_t addresses[WATCHER_ADDRESSES]; /* IPv4, in network order */
} watcher_judge_t;

typedef struct watcher_peer {
    char host[WATCHER_HOST_BYTES];
    int32_t pid;
    int32_t on_host;      /* 1: on this rank's host */
    uint64_t started;     /* as in /proc/PID/stat, so that another process of that id is noticed */
    const heart_t *heart; /* in memory shared with this rank; NULL: none */
} watcher_peer_t;

typedef struct watcher_options {
    int rank, size;
    size_t seconds;        /* without progress; not 0 */
    uint64_t key;          /* of this run: words of others are not heard */
    heart_t *heart;        /* this rank's own; borrowed */
    watcher_peer_t *peers; /* [size]; taken: freed by watcher_close */
    watcher_judge_t judges[WATCHER_JUDGES];
    int launcher;             /* process that started this one and whose end ends it; 0: none */
    void (*before_end)(void); /* called before the process ends; may be NULL */
} watcher_options_t;

typedef struct watcher watcher_t;

/* Local. Opens the socket and finds out where it can be reached, *at, for watcher_begin elsewhere.
 */
int watcher_open(watcher_t **watcher, watcher_judge_t *at, fail_t *fail);
/* Local. Starts the thread. */
int watcher_begin(watcher_t *watcher, const watcher_options_t *options, fail_t *fail);
/* Local. From here on it judges nobody, and goes on answering: the run comes to its end. */
void watcher_rest(watcher_t *watcher);
/* Local. Ends the thread. NULL is allowed. */
void watcher_close(watcher_t *watcher);

#endif
