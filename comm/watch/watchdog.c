#include "comm/watch/watchdog.h"

#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "comm/fault.h"
#include "comm/internal.h"
#include "comm/watch/process.h"
#include "comm/watch/progress_record.h"
#include "comm/watch/watcher.h"
#include "engine/base/log.h"

struct watchdog {
    comm_t *comm;
    watcher_t *watcher;
    progress_record_t own; /* this rank's record where ranks share no memory */
    window_t records;      /* [host ranks] */
};

/* What ranks send each other about themselves. */
typedef struct introduction {
    char host[WATCHER_HOST_BYTES];
    int32_t pid, host_rank;
    uint64_t started;
    watcher_monitor_t at;
} introduction_t;

/* Collective. Records in memory that the ranks of a host share, unless the user wants no shared
 * memory. */
static int open_records(watchdog_t *w, fail_t *fail)
{
    comm_t *comm = w->comm;
    int host_rank, host_size;
    MPI_Comm_rank(comm->host, &host_rank);
    MPI_Comm_size(comm->host, &host_size);
    bool shares = comm->path == COMM_AUTO && host_size > 1;
    if (shares)
        window_open(&w->records, comm, comm->host, (size_t)host_size * sizeof(progress_record_t),
            "heartbeats", fail);
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    comm->record = shares ? (progress_record_t *)w->records.data + host_rank : &w->own;
    return 0;
}

static introduction_t introduce(const watchdog_t *w, const watcher_monitor_t *at)
{
    introduction_t own = {.pid = (int32_t)getpid(), .at = *at};
    int host_rank;
    MPI_Comm_rank(w->comm->host, &host_rank);
    gethostname(own.host, sizeof own.host - 1);
    own.host_rank = host_rank;
    own.started = process_look(own.pid).started;
    return own;
}

/* Ranks of this host, by their numbers in the whole run. */
static int mark_host(const comm_t *comm, bool *on_host, fail_t *fail)
{
    int host_size;
    MPI_Comm_size(comm->host, &host_size);
    int *ranks = calloc((size_t)host_size, sizeof *ranks);
    if (ranks == NULL)
        fail_set(fail, FAIL_MEMORY, "watchdog: out of memory for %d ranks", host_size);
    if (agree_on(comm->host, fail) == 0)
        MPI_Allgather(&comm->rank, 1, MPI_INT, ranks, 1, MPI_INT, comm->host);
    for (int i = 0; fail->status == 0 && i < host_size; i++)
        on_host[ranks[i]] = true;
    free(ranks);
    return fail->status;
}

static void fill_peers(
    const watchdog_t *w, const introduction_t *all, const bool *on_host, watcher_peer_t *peers)
{
    for (int r = 0; r < w->comm->size; r++) {
        watcher_peer_t *peer = &peers[r];
        *peer =
            (watcher_peer_t){.pid = all[r].pid, .started = all[r].started, .on_host = on_host[r]};
        memcpy(peer->host, all[r].host, sizeof peer->host);
        peer->host[sizeof peer->host - 1] = 0;
        /* Ranks of one host in separate containers do not see each other's processes. */
        if (on_host[r] && process_look(peer->pid).started != peer->started)
            peer->on_host = 0;
        if (on_host[r] && w->records.data != NULL)
            peer->record = (const progress_record_t *)w->records.data + all[r].host_rank;
    }
}

/* The first rank, and the first of another host, or else the next one. */
static void choose_monitors(
    const comm_t *comm, const introduction_t *all, watcher_monitor_t *monitors)
{
    int backup = comm->size > 1 ? 1 : -1;
    for (int r = comm->size - 1; r > 0; r--)
        if (strcmp(all[r].host, all[0].host) != 0)
            backup = r;
    monitors[0] = all[0].at;
    monitors[0].rank = 0;
    monitors[1] = backup < 0 ? (watcher_monitor_t){0} : all[backup].at;
    monitors[1].rank = backup;
}

/* Collective. */
static int begin(watchdog_t *w, size_t seconds, const watcher_monitor_t *at,
    void (*before_end)(void), fail_t *fail)
{
    comm_t *comm = w->comm;
    size_t n = (size_t)comm->size;
    introduction_t own = introduce(w, at), *all = calloc(n, sizeof *all);
    bool *on_host = calloc(n, sizeof *on_host);
    watcher_options_t options = {.rank = comm->rank,
        .size = comm->size,
        .seconds = seconds,
        .record = comm->record,
        .launcher = comm->size > 1 ? (int)getppid() : 0,
        .before_end = before_end};
    options.peers = calloc(n, sizeof *options.peers);
    if (all == NULL || on_host == NULL || options.peers == NULL)
        fail_set(fail, FAIL_MEMORY, "watchdog: out of memory for %zu ranks", n);
    else if (getrandom(&options.key, sizeof options.key, 0) != sizeof options.key)
        options.key = own.started ^ (uint64_t)own.pid << 32;
    if (comm_agree(comm, fail) == 0) {
        comm_bcast(comm, &options.key, sizeof options.key);
        comm_allgather(comm, &own, sizeof own, all);
        mark_host(comm, on_host, fail);
    }
    if (fail->status == 0) {
        fill_peers(w, all, on_host, options.peers);
        choose_monitors(comm, all, options.monitors);
        watcher_begin(w->watcher, &options, fail);
    } else {
        free(options.peers);
    }
    free(all);
    free(on_host);
    return comm_agree(comm, fail);
}

/* Collective over the host, where records are shared. */
static void release(watchdog_t *w)
{
    if (w == NULL)
        return;
    watcher_close(w->watcher);
    w->comm->record = NULL;
    window_close(&w->records);
    free(w);
}

int watchdog_open(
    watchdog_t **out, comm_t *comm, size_t seconds, void (*before_end)(void), fail_t *fail)
{
    watcher_monitor_t at = {0};
    fail_t refused = {0};
    *out = NULL;
    seconds = (size_t)comm_max(comm, (int64_t)seconds);
    if (seconds == 0)
        return 0;
    watchdog_t *w = aligned_alloc(_Alignof(watchdog_t), sizeof *w);
    if (w == NULL) {
        fail_set(fail, FAIL_MEMORY, "watchdog: out of memory");
    } else {
        memset(w, 0, sizeof *w);
        w->comm = comm;
        watcher_open(&w->watcher, &at, &refused);
    }
    /* A machine that forbids sockets can still run the model. */
    if (comm_agree(comm, fail) == 0 && comm_agree(comm, &refused) != 0)
        log_write(LOG_WARN, "%s: a hang of this run will not be reported", refused.message);
    else if (fail->status == 0 && open_records(w, fail) == 0 &&
             begin(w, seconds, &at, before_end, fail) == 0) {
        comm_set_phase(comm, PROGRESS_WORK, 0);
        *out = w;
        return 0;
    }
    release(w);
    return fail->status;
}

void watchdog_close(watchdog_t *w)
{
    if (w == NULL)
        return;
    watcher_rest(w->watcher);
    fault_at("leave");
    /* A rank that has left is not reported as silent. */
    MPI_Barrier(w->comm->world);
    release(w);
}
