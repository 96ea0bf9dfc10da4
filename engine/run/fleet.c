/* Letters between the coordinator and the leaders (fleet_wire.c):
 *   REQUEST  a request
 *   CANCEL   the job, a uint64_t
 *   EVENTS   events, one after another
 *   RESULT   a result
 *   FIGURES  scheduler_figures_t, then rank_times_t of each rank
 *   FAILED   fail_t: the sender's replica cannot go on
 *   END      fail_t: how the coordinator ended
 *   STATS    fleet_stats_t: the last letter of a leader, in answer to END
 * The coordinator's own replica takes and gives the same without letters. */
#include "engine/run/fleet.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/mail.h"
#include "engine/base/array.h"
#include "engine/base/clock.h"
#include "engine/base/size.h"
#include "engine/run/fleet_internal.h"
#include "engine/run/route.h"

enum {
    LETTER_REQUEST,
    LETTER_CANCEL,
    LETTER_EVENTS,
    LETTER_RESULT,
    LETTER_FIGURES,
    LETTER_FAILED,
    LETTER_END,
    LETTER_STATS
};

#define NAP_NS 100000        /* of a leader without work */
#define FIGURES_NS 200000000 /* between a leader's letters about itself */

typedef struct queued {
    struct queued *next;
    uint64_t job, begin_ns;
    size_t bytes;
    char request[]; /* as in the letter */
} queued_t;

struct fleet {
    comm_t *comm;      /* all ranks */
    replica_t replica; /* this rank's */
    engine_t *engine;  /* of it */
    mail_t *mail;      /* NULL with one replica */
    runner_t *runner;  /* on leaders */
    size_t n_replicas, ranks_each;
    bool ended;
    uint64_t idle_since, idle_ns; /* idle_since: 0 while there is work */
    /* On the coordinator. */
    queued_t *first, *last;
    size_t n_queued, n_pending, window;
    size_t *in_flight;            /* [n_replicas] */
    route_t *route;               /* NULL: jobs follow no prefixes */
    scheduler_figures_t *figures; /* [n_replicas] as told; not its own */
    rank_times_t *rank_times;     /* [n_replicas * ranks_each] likewise */
    uint64_t told_ns;             /* on leaders: when the last such letter was sent */
    uint64_t next_handle;
    fleet_stats_t *stats;    /* [n_replicas] */
    fleet_result_t *results; /* [n_results] of this step */
    size_t n_results, results_capacity;
    char **kept;           /* [n_results] the bytes they point into */
    fleet_event_t *events; /* [n_events] of this step */
    size_t n_events, events_capacity;
    char **letters; /* [n_letters] what those of other replicas point into */
    size_t n_letters;
};

bool fleet_leads(const comm_t *comm, size_t n_replicas)
{
    size_t each = (size_t)comm_size(comm) / size_max(n_replicas, 1);
    return each == 0 || (size_t)comm_rank(comm) % each == 0;
}

/* ---- Opening and closing --------------------------------------------------------------------- */

static int check_mesh(const comm_t *comm, size_t n_replicas, fail_t *fail)
{
    size_t ranks = (size_t)comm_size(comm);
    if (n_replicas == 0 || ranks % n_replicas != 0)
        return fail_set(fail, FAIL_USAGE,
            "mesh: %zu ranks do not split into %zu replicas of the same size", ranks, n_replicas);
    return 0;
}

/* Collective. */
static int open_replica(fleet_t *f, const fleet_options_t *options, fail_t *fail)
{
    if (replica_open(&f->replica, f->comm, &options->replica, fail) != 0)
        return fail->status;
    f->engine = f->replica.engine;
    /* The limit of a job's length must not depend on the replica that gets it. */
    if (comm_agree_same(f->comm, engine_info(f->engine).max_context,
            "longest sequence (--kv-tokens sets it)", fail) != 0)
        return fail->status;
    return f->n_replicas == 1 ? 0 : mail_open(&f->mail, f->comm, fail);
}

/* Local. */
static int open_queues(fleet_t *f, const fleet_options_t *options, fail_t *fail)
{
    bool leads = comm_rank(f->replica.comm) == 0;
    size_t max_batch = engine_info(f->engine).max_batch;
    f->idle_since = clock_ns();
    /* A replica has a few jobs in reserve, so that it does not wait for the coordinator's next
     * step. */
    f->window = max_batch + max_batch / 4 + 1;
    if (leads)
        runner_open(&f->runner, f->engine, options->tokenizer, fail);
    if (comm_rank(f->comm) != 0)
        return fail->status;
    f->in_flight = calloc(f->n_replicas, sizeof *f->in_flight);
    f->stats = calloc(f->n_replicas, sizeof *f->stats);
    f->figures = calloc(f->n_replicas, sizeof *f->figures);
    f->rank_times = calloc(f->n_replicas * f->ranks_each, sizeof *f->rank_times);
    if (options->follows_prefixes && f->n_replicas > 1)
        route_open(&f->route, fail);
    if (f->in_flight == NULL || f->stats == NULL || f->figures == NULL || f->rank_times == NULL)
        fail_set(fail, FAIL_MEMORY, "fleet: out of memory for %zu replicas", f->n_replicas);
    return fail->status;
}

int fleet_open(fleet_t **out, comm_t *comm, const fleet_options_t *options, fail_t *fail)
{
    *out = NULL;
    fleet_t *f = calloc(1, sizeof *f);
    if (f == NULL)
        fail_set(fail, FAIL_MEMORY, "fleet: out of memory");
    else
        check_mesh(comm, options->replica.n_replicas, fail);
    if (comm_agree(comm, fail) != 0) {
        free(f);
        return fail->status;
    }
    f->comm = comm;
    f->n_replicas = options->replica.n_replicas;
    f->ranks_each = (size_t)comm_size(comm) / f->n_replicas;
    if (open_replica(f, options, fail) == 0) {
        open_queues(f, options, fail);
        comm_agree(comm, fail);
    }
    if (fail->status != 0) {
        fleet_close(f);
        return fail->status;
    }
    *out = f;
    return 0;
}

static void forget_step(fleet_t *f)
{
    for (size_t i = 0; i < f->n_results; i++)
        free(f->kept[i]);
    for (size_t i = 0; i < f->n_letters; i++)
        free(f->letters[i]);
    f->n_results = f->n_letters = f->n_events = 0;
}

void fleet_close(fleet_t *f)
{
    if (f == NULL)
        return;
    forget_step(f);
    for (queued_t *queued = f->first, *next; queued != NULL; queued = next) {
        next = queued->next;
        free(queued);
    }
    runner_close(f->runner);
    mail_close(f->mail);
    replica_close(&f->replica);
    route_close(f->route);
    free(f->figures);
    free(f->rank_times);
    free(f->in_flight);
    free(f->stats);
    free(f->results);
    free(f->kept);
    free(f->events);
    free(f->letters);
    free(f);
}

engine_t *fleet_engine(fleet_t *f)
{
    return f->engine;
}

size_t fleet_n_replicas(const fleet_t *f)
{
    return f->n_replicas;
}

size_t fleet_pending(const fleet_t *f)
{
    return f->n_pending;
}

const fleet_stats_t *fleet_stats(const fleet_t *f)
{
    return f->stats;
}

/* ---- Idle time ------------------------------------------------------------------------------- */

/* Notes whether this leader's replica has work now. */
static void note_work(fleet_t *f, bool has_work)
{
    uint64_t now = clock_ns();
    if (has_work && f->idle_since != 0) {
        f->idle_ns += now - f->idle_since;
        f->idle_since = 0;
    } else if (!has_work && f->idle_since == 0) {
        f->idle_since = now;
    }
}

static void nap(void)
{
    const struct timespec pause = {.tv_nsec = NAP_NS};
    nanosleep(&pause, NULL);
}

static fleet_stats_t stats_of(const fleet_t *f)
{
    engine_info_t info = engine_info(f->engine);
    uint64_t tail = f->idle_since == 0 ? 0 : clock_ns() - f->idle_since;
    return (fleet_stats_t){.n_jobs = runner_n_done(f->runner),
        .totals = engine_totals(f->engine),
        .idle_ns = f->idle_ns + tail,
        .tail_ns = tail,
        .weight_bytes = info.weight_bytes,
        .n_weight_sharers = info.n_weight_sharers,
        .peak_bytes = info.peak_bytes};
}

/* ---- Jobs ------------------------------------------------------------------------------------ */

int fleet_check(const fleet_t *f, const request_t *request, fail_t *fail)
{
    const request_t asked = runner_engine_request(request);
    return engine_check(f->engine, &asked, fail);
}

int fleet_submit(fleet_t *f, const request_t *request, uint64_t *job, fail_t *fail)
{
    size_t bytes = runner_request_bytes(request);
    queued_t *queued = malloc(sizeof *queued + bytes);
    if (queued == NULL)
        return fail_set(fail, FAIL_MEMORY, "job: out of memory for %zu ids", request->n_prompt);
    *job = f->next_handle++;
    *queued = (queued_t){.job = *job, .begin_ns = clock_ns(), .bytes = bytes};
    runner_write_request(request, *job, queued->request);
    if (f->last != NULL)
        f->last->next = queued;
    else
        f->first = queued;
    f->last = queued;
    f->n_queued++;
    f->n_pending++;
    return 0;
}

/* The replica with the fewest jobs, if it has room for another: not more than its even part of the
 * remaining jobs, so that all end at about the same time. */
static bool find_room(const fleet_t *f, size_t *replica)
{
    size_t left = (f->n_pending + f->n_replicas - 1) / f->n_replicas;
    *replica = 0;
    for (size_t r = 1; r < f->n_replicas; r++)
        if (f->in_flight[r] < f->in_flight[*replica])
            *replica = r;
    return f->in_flight[*replica] < size_min(f->window, left);
}

/* The replica for a job that find_room has found room for. */
static size_t choose_replica(const fleet_t *f, const char *bytes, size_t emptiest)
{
    uint64_t job;
    const char *stops;
    if (f->route == NULL)
        return emptiest;
    const request_t request = runner_read_request(bytes, &job, &stops);
    size_t replica = route_find(f->route, request.prompt_ids, request.n_prompt);
    if (replica == ROUTE_NONE || f->in_flight[replica] >= f->window)
        replica = emptiest;
    route_note(f->route, request.prompt_ids, request.n_prompt, replica);
    return replica;
}

static void unqueue(fleet_t *f, queued_t **at)
{
    queued_t *queued = *at;
    *at = queued->next;
    if (f->last == queued)
        f->last = at == &f->first ? NULL : (queued_t *)at; /* of which next is the first member */
    f->n_queued--;
}

static int hand_out(fleet_t *f, fail_t *fail)
{
    size_t replica;
    while (f->first != NULL && find_room(f, &replica) && fail->status == 0) {
        queued_t *queued = f->first;
        unqueue(f, &f->first);
        replica = choose_replica(f, queued->request, replica);
        f->in_flight[replica]++;
        if (replica == 0)
            runner_take(f->runner, queued->request,
                f->n_replicas == 1 ? queued->begin_ns : clock_ns(), fail);
        else
            mail_send(f->mail, (int)(replica * f->ranks_each), LETTER_REQUEST, queued->request,
                queued->bytes, fail);
        free(queued);
    }
    return fail->status;
}

int fleet_cancel(fleet_t *f, uint64_t job, fail_t *fail)
{
    for (queued_t **at = &f->first; *at != NULL; at = &(*at)->next)
        if ((*at)->job == job) {
            queued_t *queued = *at;
            unqueue(f, at);
            free(queued);
            f->in_flight[0]++;
            return runner_cancel_unbegun(f->runner, job, fail);
        }
    /* Replicas without this job ignore it. */
    runner_cancel(f->runner, job);
    for (size_t r = 1; r < f->n_replicas; r++)
        mail_send(f->mail, (int)(r * f->ranks_each), LETTER_CANCEL, &job, sizeof job, fail);
    return fail->status;
}

/* Keeps a result for the caller; takes its bytes. */
static int keep_result(fleet_t *f, char *bytes, size_t replica, fail_t *fail)
{
    size_t capacity = f->results_capacity, n = f->n_results + 1;
    if (array_reserve(&f->results, &capacity, n, sizeof *f->results, "results", fail) != 0 ||
        array_reserve(&f->kept, &f->results_capacity, n, sizeof *f->kept, "results", fail) != 0) {
        free(bytes);
        return fail->status;
    }
    f->kept[f->n_results] = bytes;
    f->results[f->n_results] = runner_read_result(bytes);
    f->results[f->n_results++].replica = replica;
    f->in_flight[replica]--;
    f->n_pending--;
    return 0;
}

char *fleet_keep(fleet_t *f, const fleet_result_t *result)
{
    size_t i = (size_t)(result - f->results);
    char *bytes = f->kept[i];
    f->kept[i] = NULL;
    return bytes;
}

static int add_event(fleet_t *f, const fleet_event_t *event, fail_t *fail)
{
    if (array_reserve(&f->events, &f->events_capacity, f->n_events + 1, sizeof *f->events, "events",
            fail) != 0)
        return fail->status;
    f->events[f->n_events++] = *event;
    return 0;
}

/* Takes the bytes of a letter of events. */
static int take_events(fleet_t *f, char *bytes, size_t n_bytes, fail_t *fail)
{
    if (array_extend(&f->letters, f->n_letters, sizeof *f->letters, "events", fail) != 0) {
        free(bytes);
        return fail->status;
    }
    f->letters[f->n_letters++] = bytes;
    for (size_t at = 0; at < n_bytes && fail->status == 0;) {
        const fleet_event_t event = runner_read_event(bytes + at);
        add_event(f, &event, fail);
        at += runner_event_bytes(&event);
    }
    return fail->status;
}

scheduler_figures_t fleet_figures(const fleet_t *f, size_t replica)
{
    return replica == 0 ? engine_figures(f->engine) : f->figures[replica];
}

rank_times_t fleet_rank_times(const fleet_t *f, size_t rank)
{
    return rank < f->ranks_each ? engine_rank_times(f->engine, rank) : f->rank_times[rank];
}

/* The coordinator's letters: events, results, and the failures of leaders. */
static int read_letters(fleet_t *f, fail_t *fail)
{
    mail_letter_t letter;
    while (f->n_replicas > 1 && fail->status == 0 && mail_poll(f->mail, &letter, fail) > 0) {
        if (letter.kind == LETTER_FAILED) {
            const fail_t *failed = letter.data;
            fail_set(fail, failed->status, "%s", failed->message);
            continue;
        }
        if (letter.kind == LETTER_FIGURES) {
            size_t r = (size_t)letter.from / f->ranks_each;
            runner_read_figures(
                letter.data, f->ranks_each, &f->figures[r], f->rank_times + r * f->ranks_each);
            continue;
        }
        char *bytes = malloc(letter.bytes);
        if (bytes == NULL)
            return fail_set(
                fail, FAIL_MEMORY, "fleet: out of memory for a result of %zu bytes", letter.bytes);
        memcpy(bytes, letter.data, letter.bytes);
        if (letter.kind == LETTER_EVENTS)
            take_events(f, bytes, letter.bytes, fail);
        else
            keep_result(f, bytes, (size_t)letter.from / f->ranks_each, fail);
    }
    return fail->status;
}

/* What the coordinator's own replica made in a step. */
static int collect(fleet_t *f, fail_t *fail)
{
    size_t bytes, n_events;
    const fleet_event_t *events = runner_events(f->runner, &n_events);
    for (size_t i = 0; i < n_events && fail->status == 0; i++)
        add_event(f, &events[i], fail);
    for (char *result; fail->status == 0 && (result = runner_give(f->runner, &bytes)) != NULL;)
        keep_result(f, result, 0, fail);
    return fail->status;
}

int fleet_step(fleet_t *f, const fleet_result_t **results, size_t *n_results, fail_t *fail)
{
    forget_step(f);
    *n_results = 0;
    if (engine_was_interrupted(f->engine))
        return fail_set(fail, FAIL_INTERRUPTED, "interrupted");
    if (read_letters(f, fail) != 0 || hand_out(f, fail) != 0)
        return fail->status;
    bool has_work = runner_n_active(f->runner) > 0;
    note_work(f, has_work);
    if (runner_step(f->runner, fail) < 0 || collect(f, fail) != 0)
        return fail->status;
    if (!has_work && f->n_results == 0 && f->n_events == 0)
        nap();
    *results = f->results;
    *n_results = f->n_results;
    return f->n_pending > 0 ? 1 : 0;
}

const fleet_event_t *fleet_events(const fleet_t *f, size_t *n_events)
{
    *n_events = f->n_events;
    return f->events;
}

int fleet_partial(fleet_t *f, const fleet_result_t **results, size_t *n_results, fail_t *fail)
{
    size_t bytes;
    forget_step(f);
    runner_cancel_all(f->runner, fail);
    for (char *result; fail->status == 0 && (result = runner_give(f->runner, &bytes)) != NULL;)
        keep_result(f, result, 0, fail);
    *results = f->results;
    *n_results = f->n_results;
    return fail->status;
}

void fleet_end(fleet_t *f, const fail_t *fail)
{
    fail_t ignored = {0};
    mail_letter_t letter;
    if (f->ended)
        return;
    f->ended = true;
    note_work(f, false);
    f->stats[0] = stats_of(f);
    for (size_t r = 1; r < f->n_replicas; r++)
        mail_send(f->mail, (int)(r * f->ranks_each), LETTER_END, fail, sizeof *fail, &ignored);
    engine_end(f->engine, fail);
    for (size_t n_ended = 1; n_ended < f->n_replicas;) {
        if (mail_poll(f->mail, &letter, &ignored) <= 0) {
            nap();
        } else if (letter.kind == LETTER_STATS) {
            memcpy(&f->stats[(size_t)letter.from / f->ranks_each], letter.data, sizeof *f->stats);
            n_ended++;
        }
    }
}

/* ---- The others ------------------------------------------------------------------------------ */

/* A leader's letters: requests, what is cancelled, and the end. Returns whether it has come; *end
 * is how. */
static bool read_orders(fleet_t *f, fail_t *end, fail_t *fail)
{
    mail_letter_t letter;
    while (mail_poll(f->mail, &letter, fail) > 0) {
        if (letter.kind == LETTER_END) {
            memcpy(end, letter.data, sizeof *end);
            return true;
        }
        if (fail->status == 0 && letter.kind == LETTER_CANCEL)
            runner_cancel(f->runner, *(const uint64_t *)letter.data);
        else if (fail->status == 0)
            runner_take(f->runner, letter.data, clock_ns(), fail);
    }
    return false;
}

/* A leader's events, in one letter. */
static int send_events(fleet_t *f, fail_t *fail)
{
    size_t n_events, bytes = 0;
    const fleet_event_t *events = runner_events(f->runner, &n_events);
    for (size_t i = 0; i < n_events; i++)
        bytes += events[i].choice != NULL ? runner_event_bytes(&events[i]) : 0;
    if (bytes == 0)
        return 0;
    char *all = malloc(bytes), *at = all;
    if (all == NULL)
        return fail_set(fail, FAIL_MEMORY, "fleet: out of memory for %zu events", n_events);
    for (size_t i = 0; i < n_events; i++)
        if (events[i].choice != NULL) {
            runner_write_event(&events[i], at);
            at += runner_event_bytes(&events[i]);
        }
    mail_send(f->mail, 0, LETTER_EVENTS, all, bytes, fail);
    free(all);
    return fail->status;
}

/* A leader's figures, from time to time. */
static void send_figures(fleet_t *f, fail_t *fail)
{
    size_t bytes;
    uint64_t now = clock_ns();
    if (now - f->told_ns < FIGURES_NS)
        return;
    f->told_ns = now;
    char *letter = runner_write_figures(f->engine, f->ranks_each, &bytes);
    if (letter != NULL)
        mail_send(f->mail, 0, LETTER_FIGURES, letter, bytes, fail);
    free(letter);
}

/* One step of a leader's replica; a failure is sent to the coordinator, once. */
static void work(fleet_t *f, bool *told, fail_t *fail)
{
    size_t bytes;
    bool has_work = runner_n_active(f->runner) > 0 && fail->status == 0;
    note_work(f, has_work);
    if (engine_was_interrupted(f->engine))
        fail_set(fail, FAIL_INTERRUPTED, "interrupted");
    if (has_work && fail->status == 0 && runner_step(f->runner, fail) == 0)
        send_events(f, fail);
    if (fail->status == 0)
        send_figures(f, fail);
    for (char *result; fail->status == 0 && (result = runner_give(f->runner, &bytes)) != NULL;) {
        mail_send(f->mail, 0, LETTER_RESULT, result, bytes, fail);
        free(result);
    }
    if (fail->status != 0 && !*told) {
        fail_t ignored = {0};
        mail_send(f->mail, 0, LETTER_FAILED, fail, sizeof *fail, &ignored);
        *told = true;
    }
    if (!has_work)
        nap();
}

int fleet_serve(fleet_t *f, fail_t *fail)
{
    if (comm_rank(f->replica.comm) != 0)
        return engine_serve(f->engine, fail);
    fail_t end = {0}, own = {0}, ignored = {0};
    bool told = false;
    while (!read_orders(f, &end, &own))
        work(f, &told, &own);
    note_work(f, false);
    fleet_stats_t stats = stats_of(f);
    engine_end(f->engine, &end);
    mail_send(f->mail, 0, LETTER_STATS, &stats, sizeof stats, &ignored);
    return end.status == 0 ? 0 : fail_set(fail, end.status, "%s", end.message);
}
