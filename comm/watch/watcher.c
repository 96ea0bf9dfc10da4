#include "comm/watch/watcher.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/errqueue.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "comm/fault.h"
#include "comm/watch/process.h"
#include "comm/watch/stack.h"
#include "comm/watch/verdict.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/size.h"

#define TICK_MS 250
#define TICKS_A_SECOND (1000 / TICK_MS)
#define QUIET_TICKS (3 * TICKS_A_SECOND)      /* a rank without a message for this long is silent */
#define BACKUP_TICKS (TICKS_A_SECOND * 3 / 4) /* extra time of the backup before it acts */
#define ALONE_TICKS (2 * TICKS_A_SECOND)      /* extra time of other ranks before they act */
#define CLAIM_TICKS (4 * TICKS_A_SECOND)
#define UNHEARD_TICKS (10 * TICKS_A_SECOND)
#define SIGNAL_TICKS 2  /* without a step before another rank's signal is taken */
#define STACK_MS 1500   /* for a rank to send its stack */
#define FLUSH_MS 300    /* for a launcher to pass a message on */
#define STACK_BYTES 900 /* of a datagram that no network fragments */
#define STOPPED_NS UINT64_C(1500000000)
#define PEERS_A_TICK 16
/* CPU time and bytes in a tick from which a process counts as working: more than MPI's helper
 * threads. */
#define WORK_NS 2000000
#define WORK_BYTES 512

enum { MESSAGE_PROGRESS, MESSAGE_PEER, MESSAGE_CLAIM, MESSAGE_ASK, MESSAGE_STACK, MESSAGE_END };

/* A datagram. Ranks run the same program on machines of one kind, so structs are sent as they
 * are. */
typedef struct message {
    uint64_t key;
    int32_t kind, from, about; /* ranks */
    int32_t state;             /* PEER: of the process */
    progress_view_t record;    /* PROGRESS and PEER */
    char stack[STACK_BYTES];   /* STACK only: the others are sent without */
} message_t;

struct watcher {
    watcher_options_t options;
    int socket, wake; /* wake: a write to it ends the thread */
    pthread_t thread;
    bool running;
    atomic_bool resting;
    int main_thread;
    verdict_limits_t limits;
    verdict_view_t *views; /* [size]; complete on monitors, only monitors' entries on other ranks */
    struct sockaddr_in *places; /* [size] addresses of ranks' last messages; port 0: none came
                                 * yet */
    int host_index;             /* of the ranks on this host */
    progress_view_t own;        /* this rank's record, with work counted as beats */
    process_work_t work;        /* at the last tick */
    uint64_t ticked_ns;         /* when that was */
    uint64_t n_moves;           /* ticks with progress but without a beat */
    int next_peer;
    size_t n_ticks;
    size_t claimed; /* tick until which another monitor is going to write the message */
    char stack[STACK_BYTES];
    bool has_stack;
    bool told_signal; /* this rank has received the signal of another one */
};

/* The main thread does no more work. Neither MPI nor exit handlers can be called beside it; the
 * launcher ends the rest of the run. */
static void end_process(watcher_t *w)
{
    if (w->options.before_end != NULL)
        w->options.before_end();
    _exit(EXIT_FAILURE);
}

/* ---- Sending --------------------------------------------------------------------------------- */

static void send_to(watcher_t *w, const message_t *message, const struct sockaddr_in *place)
{
    size_t bytes = message->kind == MESSAGE_STACK ? sizeof *message : offsetof(message_t, stack);
    /* Lost datagrams are sent again. But a call may fail because of an earlier one to another
     * rank. */
    for (int tries = 0; tries < 3; tries++)
        if (sendto(w->socket, message, bytes, MSG_DONTWAIT | MSG_NOSIGNAL,
                (const struct sockaddr *)place, sizeof *place) >= 0 ||
            errno != ECONNREFUSED)
            return;
}

static message_t message_of(const watcher_t *w, int kind, int about)
{
    return (message_t){
        .key = w->options.key, .kind = kind, .from = w->options.rank, .about = about};
}

static void send_rank(watcher_t *w, const message_t *message, int rank)
{
    if (w->places[rank].sin_port != 0)
        send_to(w, message, &w->places[rank]);
}

/* To the address that answers came from, or to all while none came. */
static void send_monitor(watcher_t *w, const message_t *message, const watcher_monitor_t *monitor)
{
    if (monitor->rank < 0 || monitor->rank == w->options.rank)
        return;
    if (w->views[monitor->rank].heard && w->views[monitor->rank].silent < w->limits.quiet) {
        send_rank(w, message, monitor->rank);
        return;
    }
    for (size_t i = 0; i < monitor->n_addresses; i++) {
        struct sockaddr_in place = {.sin_family = AF_INET,
            .sin_port = htons(monitor->port),
            .sin_addr = {.s_addr = monitor->addresses[i]}};
        send_to(w, message, &place);
    }
}

static void send_monitors(watcher_t *w, const message_t *message)
{
    for (size_t j = 0; j < WATCHER_MONITORS; j++)
        send_monitor(w, message, &w->options.monitors[j]);
}

/* ---- Hearing --------------------------------------------------------------------------------- */

/* The index of this rank as a monitor; -1: none. */
static int monitor_index(const watcher_t *w)
{
    for (int j = 0; j < WATCHER_MONITORS; j++)
        if (w->options.monitors[j].rank == w->options.rank)
            return j;
    return -1;
}

static void take_progress(verdict_view_t *view, const progress_view_t *record)
{
    if (memcmp(&view->record, record, sizeof *record) != 0)
        view->still = 0;
    view->record = *record;
}

static void take_peer(watcher_t *w, int rank, char state, const progress_view_t *record)
{
    verdict_view_t *view = &w->views[rank];
    /* A later message of its own counts more. */
    view->state = state;
    if (record->beats > view->record.beats)
        take_progress(view, record);
}

static void tell_stack(watcher_t *w, int to)
{
    message_t message = message_of(w, MESSAGE_STACK, w->options.rank);
    stack_of_busy(w->main_thread, message.stack, sizeof message.stack);
    send_rank(w, &message, to);
}

static void take_message(watcher_t *w, message_t *message, const struct sockaddr_in *from)
{
    verdict_view_t *view = &w->views[message->from];
    switch (message->kind) {
    case MESSAGE_PROGRESS:
        if (message->from != message->about)
            return;
        w->places[message->from] = *from;
        view->heard = true;
        view->silent = 0;
        view->state = 0;
        take_progress(view, &message->record);
        return;
    case MESSAGE_PEER:
        take_peer(w, message->about, (char)message->state, &message->record);
        return;
    case MESSAGE_CLAIM:
        w->claimed = w->n_ticks + CLAIM_TICKS;
        return;
    case MESSAGE_ASK:
        tell_stack(w, message->from);
        return;
    case MESSAGE_STACK:
        message->stack[STACK_BYTES - 1] = 0;
        memcpy(w->stack, message->stack, STACK_BYTES);
        w->has_stack = true;
        return;
    case MESSAGE_END:
        if (!atomic_load(&w->resting))
            end_process(w);
    }
}

/* A host that refuses datagrams at a known address: that process has ended. */
static void hear_refusals(watcher_t *w)
{
    for (;;) {
        struct sockaddr_in to = {0};
        char control[512];
        struct msghdr message = {.msg_name = &to,
            .msg_namelen = sizeof to,
            .msg_control = control,
            .msg_controllen = sizeof control};
        /* Emulators without a queue of errors return success without end. */
        if (recvmsg(w->socket, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0 ||
            (message.msg_flags & MSG_ERRQUEUE) == 0)
            return;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
            struct sock_extended_err error = {0};
            if (c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_RECVERR)
                continue;
            memcpy(&error, CMSG_DATA(c), sizeof error);
            for (int r = 0; error.ee_errno == ECONNREFUSED && r < w->options.size; r++)
                if (w->views[r].heard && w->places[r].sin_port == to.sin_port &&
                    w->places[r].sin_addr.s_addr == to.sin_addr.s_addr)
                    w->views[r].state = 'X';
        }
    }
}

/* All that has arrived. */
static void hear(watcher_t *w)
{
    hear_refusals(w);
    for (;;) {
        message_t message = {0};
        struct sockaddr_in from;
        socklen_t from_bytes = sizeof from;
        ssize_t n = recvfrom(w->socket, &message, sizeof message, MSG_DONTWAIT,
            (struct sockaddr *)&from, &from_bytes);
        /* Errors of sent datagrams are reported here too, once each. */
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            continue;
        if (n < 0)
            return;
        if ((size_t)n < offsetof(message_t, stack) || message.key != w->options.key ||
            message.from < 0 || message.from >= w->options.size || message.about < 0 ||
            message.about >= w->options.size)
            continue;
        take_message(w, &message, &from);
    }
}

/* Receives for so long; false when the thread is to end. */
static bool hear_for(watcher_t *w, uint64_t ms, const bool *enough)
{
    uint64_t end = clock_ns() + ms * 1000000;
    for (uint64_t now = clock_ns(); now < end && !(enough != NULL && *enough); now = clock_ns()) {
        struct pollfd ready[2] = {
            {.fd = w->socket, .events = POLLIN}, {.fd = w->wake, .events = POLLIN}};
        poll(ready, 2, (int)((end - now) / 1000000) + 1);
        if (ready[1].revents != 0)
            return false;
        hear(w);
    }
    return true;
}

/* ---- Judging --------------------------------------------------------------------------------- */

static void say_to_all(watcher_t *w, const message_t *message)
{
    for (int r = 0; r < w->options.size; r++)
        if (r != w->options.rank)
            send_rank(w, message, r);
}

static void say(watcher_t *w, int kind)
{
    const message_t message = message_of(w, kind, w->options.rank);
    say_to_all(w, &message);
}

/* Asks the culprit for its stack, writes the message, and ends the run. */
static void pronounce(watcher_t *w, int culprit)
{
    char text[2000];
    say(w, MESSAGE_CLAIM);
    w->has_stack = false;
    w->stack[0] = 0;
    if (culprit == w->options.rank) {
        stack_of_busy(w->main_thread, w->stack, sizeof w->stack);
    } else if (verdict_answers(&w->views[culprit], &w->limits)) {
        message_t message = message_of(w, MESSAGE_ASK, culprit);
        send_rank(w, &message, culprit);
        if (!hear_for(w, STACK_MS, &w->has_stack))
            return;
    }
    verdict_text(
        w->views, (size_t)w->options.size, culprit, &w->limits, w->stack, text, sizeof text);
    log_write(LOG_ERROR, "%s", text);
    process_pause_ms(FLUSH_MS);
    /* The launcher knows of a process that has ended. */
    if (!verdict_has_ended(&w->views[culprit]))
        process_see_launcher_off(w->options.launcher);
    say(w, MESSAGE_END);
    const message_t message = message_of(w, MESSAGE_END, w->options.rank);
    send_monitors(w, &message); /* which may not have received it yet */
    end_process(w);
}

/* Warns once that some ranks cannot be monitored. */
static void tell_unheard(watcher_t *w)
{
    int n_unheard = 0;
    for (int r = 0; r < w->options.size; r++)
        n_unheard += !w->views[r].heard;
    if (n_unheard > 0)
        log_write(LOG_WARN,
            "watchdog: no heartbeat came from %d of %d ranks (a firewall between the nodes?); a hang of one of those will not be reported",
            n_unheard, w->options.size);
}

/* Rank 0, which waits for a user: the others cannot end the wait by themselves. */
static void take_signal(watcher_t *w)
{
    const verdict_view_t *own = &w->views[w->options.rank];
    if (w->told_signal || own->record.phase != PROGRESS_IDLE ||
        own->record.wait != PROGRESS_WAIT_NONE || own->still < SIGNAL_TICKS)
        return;
    for (int r = 0; r < w->options.size && !w->told_signal; r++)
        if (r != w->options.rank && w->views[r].record.signal != 0) {
            w->told_signal = true;
            kill(getpid(), w->views[r].record.signal);
        }
}

/* A process that was stopped and continues has received nothing meanwhile: a monitor may be ending
 * the run. */
static void note_stop(watcher_t *w)
{
    uint64_t now = clock_ns();
    if (now - w->ticked_ns > STOPPED_NS)
        w->claimed = w->n_ticks + CLAIM_TICKS;
    w->ticked_ns = now;
}

static void monitor(watcher_t *w, int which)
{
    message_t message = message_of(w, MESSAGE_PROGRESS, w->options.rank);
    message.record = w->own;
    verdict_limits_t limits = w->limits;
    limits.limit += which == 0 ? 0 : BACKUP_TICKS;
    say_to_all(w, &message);
    if (w->options.rank == 0)
        take_signal(w);
    if (which == 0 && w->n_ticks == UNHEARD_TICKS)
        tell_unheard(w);
    int culprit = verdict_find(w->views, (size_t)w->options.size, &limits);
    if (culprit < 0)
        return;
    /* This process may have been stopped in the middle of this tick, and what ended since then have said why. */
    note_stop(w);
    hear(w);
    if (w->n_ticks >= w->claimed)
        pronounce(w, culprit);
}

/* Whether all monitors that ever answered have stopped. */
static bool is_alone(const watcher_t *w)
{
    bool any = false;
    for (size_t j = 0; j < WATCHER_MONITORS; j++) {
        int rank = w->options.monitors[j].rank;
        if (rank < 0 || !w->views[rank].heard)
            continue;
        any = true;
        if (w->views[rank].silent < w->limits.limit + ALONE_TICKS)
            return false;
    }
    return any;
}

static void end_alone(watcher_t *w)
{
    const verdict_view_t *own = &w->views[w->options.rank];
    log_write(LOG_ERROR,
        "rank %d on %s (process %d) is disconnected: no message from rank %d on %s for %.0f s; this rank ends",
        w->options.rank, own->host, own->pid, w->options.monitors[0].rank,
        w->views[w->options.monitors[0].rank].host,
        (double)w->views[w->options.monitors[0].rank].silent * w->limits.seconds_a_tick);
    process_pause_ms(FLUSH_MS);
    process_see_launcher_off(w->options.launcher);
    end_process(w);
}

/* ---- Ticks ----------------------------------------------------------------------------------- */

/* Checks some of the host's other processes, on its first two ranks. */
static void look_after_mates(watcher_t *w)
{
    for (int i = 0; i < PEERS_A_TICK && i < w->options.size; i++) {
        int rank = w->next_peer;
        const watcher_peer_t *peer = &w->options.peers[rank];
        w->next_peer = (rank + 1) % w->options.size;
        if (rank == w->options.rank || !peer->on_host || peer->pid == 0)
            continue;
        const process_t process = process_look(peer->pid);
        char state = process.started == peer->started ? process.state : 'X';
        if (state != 'T' && state != 't' && state != 'Z' && state != 'X')
            continue;
        message_t message = message_of(w, MESSAGE_PEER, rank);
        message.state = state == 't' ? 'T' : state;
        if (peer->record != NULL)
            message.record = progress_record_view(peer->record);
        take_peer(w, rank, (char)message.state, &message.record);
        send_monitors(w, &message);
    }
}

static void end_orphan(watcher_t *w)
{
    const verdict_view_t *own = &w->views[w->options.rank];
    log_write(LOG_ERROR, "rank %d on %s (process %d): the launcher of this rank has ended",
        w->options.rank, own->host, own->pid);
    end_process(w);
}

/* This rank's record. While it reads its weights, bytes count as beats. In work without beats, CPU
 * time, reads and writes of the process count, and so does waiting for the other end of a stream,
 * such as a user. An idle rank that waits for a file system is at work. */
static progress_view_t look_at_own(watcher_t *w)
{
    progress_view_t record = progress_record_view(w->options.record);
    if (record.phase <= PROGRESS_LOAD && record.wait == PROGRESS_WAIT_NONE) {
        process_place_t place = process_place(w->main_thread);
        process_work_t before = w->work;
        w->work = process_work();
        if (record.phase == PROGRESS_IDLE && place == PROCESS_IN_FILE)
            record.phase = PROGRESS_WORK;
        bool moves = w->work.io_bytes >= before.io_bytes + WORK_BYTES;
        if (record.phase == PROGRESS_WORK)
            moves =
                moves || place == PROCESS_IN_STREAM || w->work.cpu_ns >= before.cpu_ns + WORK_NS;
        w->n_moves += moves;
    }
    record.beats += w->n_moves;
    return record;
}

static void tick(watcher_t *w)
{
    note_stop(w);
    fault_at("tick");
    w->own = look_at_own(w);
    message_t message = message_of(w, MESSAGE_PROGRESS, w->options.rank);
    int which = monitor_index(w);
    w->n_ticks++;
    for (int r = 0; r < w->options.size; r++) {
        w->views[r].still++;
        w->views[r].silent++;
    }
    w->views[w->options.rank].silent = 0;
    take_progress(&w->views[w->options.rank], &w->own);
    message.record = w->own;
    send_monitors(w, &message);
    if (w->options.launcher != 0 && getppid() != w->options.launcher)
        end_orphan(w);
    if (atomic_load(&w->resting))
        return;
    if (w->host_index < 2)
        look_after_mates(w);
    if (which >= 0)
        monitor(w, which);
    else if (is_alone(w))
        end_alone(w);
}

static void *watch(void *context)
{
    watcher_t *w = context;
    do
        tick(w);
    while (hear_for(w, TICK_MS, NULL));
    return NULL;
}

/* ---- Opening and closing --------------------------------------------------------------------- */

static void find_addresses(watcher_monitor_t *at)
{
    struct ifaddrs *all;
    if (getifaddrs(&all) != 0)
        return;
    for (struct ifaddrs *one = all; one != NULL; one = one->ifa_next)
        if (one->ifa_addr != NULL && one->ifa_addr->sa_family == AF_INET &&
            (one->ifa_flags & IFF_UP) != 0 && at->n_addresses < WATCHER_ADDRESSES)
            at->addresses[at->n_addresses++] =
                ((const struct sockaddr_in *)(const void *)one->ifa_addr)->sin_addr.s_addr;
    freeifaddrs(all);
}

int watcher_open(watcher_t **out, watcher_monitor_t *at, fail_t *fail)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr = {.s_addr = INADDR_ANY}};
    socklen_t bytes = sizeof place;
    *at = (watcher_monitor_t){.rank = -1};
    watcher_t *w = *out = calloc(1, sizeof *w);
    if (w == NULL)
        return fail_set(fail, FAIL_MEMORY, "watchdog: out of memory");
    const int on = 1;
    w->wake = eventfd(0, EFD_CLOEXEC);
    w->socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (w->wake < 0 || w->socket < 0 ||
        setsockopt(w->socket, IPPROTO_IP, IP_RECVERR, &on, sizeof on) != 0 ||
        bind(w->socket, (const struct sockaddr *)&place, sizeof place) != 0 ||
        getsockname(w->socket, (struct sockaddr *)&place, &bytes) != 0) {
        fail_set(fail, FAIL_COMM, "watchdog: cannot open a UDP socket: %s", strerror(errno));
        watcher_close(w);
        *out = NULL;
        return fail->status;
    }
    at->port = ntohs(place.sin_port);
    find_addresses(at);
    return 0;
}

static void fill_views(watcher_t *w)
{
    for (int r = 0; r < w->options.size; r++) {
        w->views[r].host = w->options.peers[r].host;
        w->views[r].pid = w->options.peers[r].pid;
        w->host_index += r < w->options.rank && w->options.peers[r].on_host;
    }
    w->views[w->options.rank].heard = true;
}

int watcher_begin(watcher_t *w, const watcher_options_t *options, fail_t *fail)
{
    size_t n = (size_t)options->size, limit = options->seconds * TICKS_A_SECOND;
    w->options = *options;
    w->main_thread = (int)syscall(SYS_gettid);
    w->limits = (verdict_limits_t){.limit = limit,
        .quiet = size_max(size_min(QUIET_TICKS, limit / 2), 1),
        .seconds_a_tick = TICK_MS * 1e-3};
    w->views = calloc(n, sizeof *w->views);
    w->places = calloc(n, sizeof *w->places);
    if (w->views == NULL || w->places == NULL)
        return fail_set(fail, FAIL_MEMORY, "watchdog: out of memory for %zu ranks", n);
    fill_views(w);
    w->ticked_ns = clock_ns();
    int error = process_start_thread(&w->thread, watch, w);
    if (error != 0)
        return fail_set(fail, FAIL_COMM, "watchdog: cannot start a thread: %s", strerror(error));
    w->running = true;
    return 0;
}

void watcher_rest(watcher_t *w)
{
    atomic_store(&w->resting, true);
}

void watcher_close(watcher_t *w)
{
    if (w == NULL)
        return;
    if (w->running) {
        uint64_t one = 1;
        ssize_t done = write(w->wake, &one, sizeof one);
        (void)done;
        pthread_join(w->thread, NULL);
    }
    if (w->socket >= 0)
        close(w->socket);
    if (w->wake >= 0)
        close(w->wake);
    free(w->options.peers);
    free(w->views);
    free(w->places);
    free(w);
}
