/* Timelines of real runs: valid, with every rank, step and layer, slices that nest; too small a
 * memory and a path that cannot be written; with the ranks as one group and as two. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/comm.h"
#include "comm/watch/trace.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/run/engine.h"

enum { PATH_BYTES = 256, N_PROMPT = 9, N_TOKENS = 4, N_LAYERS = 6, PHASES_OF_A_LAYER = 5 };

typedef struct check {
    comm_t *comm;
    const char *name;
    int n_failed;
} check_t;

static void complain(check_t *c, const char *what, long a, long b)
{
    printf("FAILED: %s, %d ranks: %s (%ld, %ld)\n", c->name, comm_size(c->comm), what, a, b);
    c->n_failed++;
}

#define CHECK(c, condition, a, b)                                                                  \
    do {                                                                                           \
        if (!(condition))                                                                          \
            complain(c, #condition, (long)(a), (long)(b));                                         \
    } while (0)

/* ---- Reading a trace ------------------------------------------------------------------------- */

typedef struct slice {
    int64_t begin, end; /* ns */
    int depth;          /* 0 step, 1 layer, 2 phase, 3 collective */
    int64_t number;     /* of a step or layer, rows in `rows` */
    int64_t rows;
    int pid;
} slice_t;

typedef struct timeline {
    slice_t *slices;
    size_t n;
    int n_names; /* of ranks */
} timeline_t;

static int64_t ns_of(json_t *event, const char *key)
{
    return llround(json_number_value(json_object_get(event, key)) * 1000);
}

static int depth_of(const char *category)
{
    static const char *const names[] = {"step", "layer", "phase", "collective"};
    for (int i = 0; category != NULL && i < 4; i++)
        if (strcmp(category, names[i]) == 0)
            return i;
    return -1;
}

/* By rank, then as they begin, outer ones first. */
static int by_place(const void *a, const void *b)
{
    const slice_t *x = a, *y = b;
    if (x->pid != y->pid)
        return x->pid < y->pid ? -1 : 1;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end > y->end ? -1 : 1;
    return x->depth - y->depth;
}

static void read_event(check_t *c, timeline_t *t, json_t *event)
{
    const char *kind = json_string_value(json_object_get(event, "ph"));
    const char *name = json_string_value(json_object_get(event, "name"));
    json_t *args = json_object_get(event, "args");
    int depth = depth_of(json_string_value(json_object_get(event, "cat")));
    CHECK(c, kind != NULL && name != NULL && name[0] != 0, 0, 0);
    if (kind != NULL && strcmp(kind, "M") == 0) {
        t->n_names += strcmp(name, "process_name") == 0;
        return;
    }
    CHECK(c, kind != NULL && strcmp(kind, "X") == 0 && depth >= 0, depth, 0);
    CHECK(c, json_is_integer(json_object_get(event, "tid")), 0, 0);
    slice_t *slice = &t->slices[t->n++];
    *slice = (slice_t){.begin = ns_of(event, "ts"),
        .depth = depth,
        .number = json_integer_value(json_object_get(args, depth == 0 ? "step" : "layer")),
        .rows = json_integer_value(json_object_get(args, "rows")),
        .pid = (int)json_integer_value(json_object_get(event, "pid"))};
    slice->end = slice->begin + ns_of(event, "dur");
    CHECK(c, slice->end >= slice->begin && slice->begin >= 0, slice->begin, slice->end);
}

/* Rank 0. */
static timeline_t read_timeline(check_t *c, const char *path)
{
    timeline_t t = {0};
    fail_t fail = {0};
    char *text = NULL;
    size_t bytes, i;
    json_t *root = NULL, *event, *events;
    if (file_read(path, 64 << 20, &text, &bytes, &fail) != 0 ||
        json_text_read(text, bytes, path, &root, &fail) != 0) {
        printf("%s\n", fail.message);
        complain(c, "the file is no JSON", fail.status, 0);
    }
    events = json_object_get(root, "traceEvents");
    t.slices = calloc(json_array_size(events) + 1, sizeof *t.slices);
    json_array_foreach (events, i, event)
        read_event(c, &t, event);
    qsort(t.slices, t.n, sizeof *t.slices, by_place);
    json_decref(root);
    free(text);
    return t;
}

/* A slice lies in the one around it, and is of a kind that may. */
static void check_nesting(check_t *c, const timeline_t *t)
{
    const slice_t *around[4];
    int n = 0;
    for (size_t i = 0; i < t->n; i++) {
        const slice_t *s = &t->slices[i];
        while (n > 0 && (around[n - 1]->pid != s->pid || around[n - 1]->end <= s->begin))
            if (around[n - 1]->pid == s->pid && s->begin == s->end &&
                around[n - 1]->end == s->end && around[n - 1]->depth < s->depth)
                break; /* of no length, at the end of the other */
            else
                n--;
        if (n > 0) {
            CHECK(c, s->end <= around[n - 1]->end, s->begin, i);
            CHECK(c, s->depth > around[n - 1]->depth, s->depth, around[n - 1]->depth);
        }
        if (n < 4)
            around[n++] = s;
        else
            complain(c, "slices lie too deep", (long)i, n);
    }
}

/* Every rank has the steps, and every step all layers with their phases. */
static void check_contents(check_t *c, const timeline_t *t)
{
    int size = comm_size(c->comm);
    CHECK(c, t->n_names == size, t->n_names, size);
    for (int r = 0; r < size; r++) {
        int64_t n_steps = 0, n_layers = 0, n_phases = 0, n_gathers = 0, rows = 0, next_layer = 0;
        for (size_t i = 0; i < t->n; i++) {
            const slice_t *s = &t->slices[i];
            if (s->pid != r)
                continue;
            if (s->depth == 0) {
                CHECK(c, s->number == n_steps, s->number, n_steps);
                n_steps++;
                rows += s->rows;
            } else if (s->depth == 1) {
                CHECK(c, s->number == next_layer, s->number, next_layer);
                next_layer = (next_layer + 1) % N_LAYERS;
                n_layers++;
            }
            n_phases += s->depth == 2;
            n_gathers += s->depth == 3;
        }
        /* The first token comes with the prompt. */
        CHECK(c, n_steps == N_TOKENS, n_steps, r);
        CHECK(c, rows == N_PROMPT + N_TOKENS - 1, rows, r);
        CHECK(c, n_layers == N_TOKENS * N_LAYERS, n_layers, r);
        CHECK(c, n_phases > n_layers * PHASES_OF_A_LAYER, n_phases, n_layers);
        CHECK(c, n_gathers >= n_layers * 4, n_gathers, n_layers);
    }
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static void generate(check_t *c, comm_t *comm)
{
    static const int32_t prompt[N_PROMPT] = {5, 17, 300, 301, 302, 44, 45, 46, 47};
    const engine_options_t options = {.model_dir = CHOIR_SOURCE_DIR "/configs/demo", .threads = 1};
    const request_t request = {.prompt_ids = prompt,
        .n_prompt = N_PROMPT,
        .max_tokens = N_TOKENS,
        .sampling = {.top_p = 1, .repetition_penalty = 1}};
    const engine_event_t *events;
    engine_t *engine;
    size_t n_events;
    uint64_t handle;
    fail_t fail = {0};
    if (engine_open(&engine, comm, &options, &fail) != 0) {
        fprintf(stderr, "mpi_trace: %s\n", fail.message);
        comm_abort(1);
    }
    if (comm_rank(comm) == 0) {
        CHECK(c, engine_submit(engine, &request, &handle, &fail) == 0, fail.status, 0);
        while (engine_step(engine, &events, &n_events, &fail) > 0)
            ;
    } else {
        engine_serve(engine, &fail);
    }
    engine_close(engine);
}

static void all_ranks_and_layers_are_there(check_t *c, const char *path)
{
    trace_t *trace;
    fail_t fail = {0};
    c->name = "one group";
    CHECK(c, trace_open(&trace, c->comm, path, TRACE_EVENTS, &fail) == 0, fail.status, 0);
    generate(c, c->comm);
    CHECK(c, trace_close(trace, &fail) == 0, fail.status, 0);
    if (comm_rank(c->comm) != 0)
        return;
    char part[PATH_BYTES + 8];
    snprintf(part, sizeof part, "%s.part", path);
    CHECK(c, access(part, F_OK) != 0, 0, 0);
    timeline_t t = read_timeline(c, path);
    check_nesting(c, &t);
    check_contents(c, &t);
    free(t.slices);
}

/* Two models side by side, each on half of the ranks, take the same steps here. */
static void groups_are_recorded_too(check_t *c, const char *path)
{
    trace_t *trace;
    comm_t *group;
    fail_t fail = {0};
    c->name = "two groups";
    CHECK(c, trace_open(&trace, c->comm, path, TRACE_EVENTS, &fail) == 0, fail.status, 0);
    comm_split(c->comm, comm_rank(c->comm) % 2, COMM_AUTO, &group, &fail);
    generate(c, group);
    comm_close(group);
    CHECK(c, trace_close(trace, &fail) == 0, fail.status, 0);
    if (comm_rank(c->comm) != 0)
        return;
    timeline_t t = read_timeline(c, path);
    check_nesting(c, &t);
    check_contents(c, &t);
    free(t.slices);
}

/* The last events are kept, whatever they happen to be. */
static void too_small_a_memory_keeps_the_end(check_t *c, const char *path)
{
    static const size_t sizes[] = {1, 2, 57, 200};
    c->name = "a small memory";
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        trace_t *trace;
        fail_t fail = {0};
        CHECK(c, trace_open(&trace, c->comm, path, sizes[i], &fail) == 0, fail.status, 0);
        generate(c, c->comm);
        CHECK(c, trace_close(trace, &fail) == 0, fail.status, 0);
        if (comm_rank(c->comm) != 0)
            continue;
        timeline_t t = read_timeline(c, path);
        check_nesting(c, &t);
        CHECK(c, t.n_names == comm_size(c->comm), t.n_names, sizes[i]);
        /* An event begins at most a phase and a layer. */
        CHECK(c, t.n <= 2 * sizes[i] * (size_t)comm_size(c->comm), t.n, sizes[i]);
        CHECK(c, sizes[i] < 57 || t.n > 20, t.n, sizes[i]);
        free(t.slices);
    }
}

static void a_failure_is_everyones(check_t *c, const char *folder)
{
    char path[PATH_BYTES + 32];
    trace_t *trace;
    fail_t fail = {0}, earlier = {0};
    c->name = "failures";
    snprintf(path, sizeof path, "%s/missing/trace.json", folder);
    CHECK(c, trace_open(&trace, c->comm, path, 16, &fail) == FAIL_FILE, fail.status, 0);
    CHECK(c, trace == NULL && strstr(fail.message, "missing/trace.json") != NULL, 0, 0);
    CHECK(c, trace_close(trace, &fail) == FAIL_FILE, fail.status, 0);
    /* The file is a folder by the time it is put in place. */
    fail = (fail_t){0};
    snprintf(path, sizeof path, "%s/full", folder);
    CHECK(c, trace_open(&trace, c->comm, path, 16, &fail) == 0, fail.status, 0);
    if (comm_rank(c->comm) == 0 && mkdir(path, 0700) != 0)
        complain(c, "mkdir", 0, 0);
    CHECK(c, trace_close(trace, &fail) == FAIL_FILE, fail.status, 0);
    /* Nothing that took long is lost. */
    const char *kept =
        strstr(fail.message, "cannot be replaced") == NULL ? NULL : strstr(fail.message, folder);
    kept = kept == NULL ? NULL : strstr(kept + 1, folder);
    CHECK(c, kept != NULL, 0, 0);
    comm_barrier(c->comm);
    if (comm_rank(c->comm) == 0) {
        CHECK(c, kept != NULL && unlink(kept) == 0, 0, 0);
        rmdir(path);
    }
    /* A failure from before stays what it is, and the file is written. */
    snprintf(path, sizeof path, "%s/late.json", folder);
    fail_set(&earlier, FAIL_MODEL, "earlier");
    fail = (fail_t){0};
    CHECK(c, trace_open(&trace, c->comm, path, 16, &fail) == 0, fail.status, 0);
    CHECK(c, trace_close(trace, &earlier) == FAIL_MODEL, earlier.status, 0);
    CHECK(c, strcmp(earlier.message, "earlier") == 0, 0, 0);
    if (comm_rank(c->comm) == 0)
        CHECK(c, unlink(path) == 0, 0, 0);
    fail = (fail_t){0};
    CHECK(c, trace_open(&trace, c->comm, NULL, 16, &fail) == 0 && trace == NULL, 0, 0);
}

int main(int argc, char **argv)
{
    check_t c = {0};
    fail_t fail = {0};
    char folder[PATH_BYTES / 2] = "/tmp/mpi_trace_XXXXXX", path[PATH_BYTES];
    if (comm_start(&argc, &argv, &fail) != 0 || comm_open_world(&c.comm, COMM_AUTO, &fail) != 0) {
        fprintf(stderr, "mpi_trace: %s\n", fail.message);
        return 1;
    }
    log_set_level(LOG_ERROR);
    if (comm_rank(c.comm) == 0 && mkdtemp(folder) == NULL)
        comm_abort(1);
    comm_bcast(c.comm, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/trace.json", folder);
    all_ranks_and_layers_are_there(&c, path);
    if (comm_size(c.comm) > 1)
        groups_are_recorded_too(&c, path);
    too_small_a_memory_keeps_the_end(&c, path);
    a_failure_is_everyones(&c, folder);
    int failed = (int)comm_sum(c.comm, c.n_failed);
    if (comm_rank(c.comm) == 0) {
        unlink(path);
        rmdir(folder);
        printf("mpi_trace: %d failures\n", failed);
    }
    comm_close(c.comm);
    comm_stop();
    return failed == 0 ? 0 : 1;
}
