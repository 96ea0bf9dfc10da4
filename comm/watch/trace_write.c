#include "comm/watch/trace_write.h"

#include <inttypes.h>

#include "comm/watch/progress_record.h"

/* The rank's time by rank 0's clock. Monotonic in ns, so that nested slices stay nested. */
static uint64_t aligned(const trace_writer_t *w, uint64_t ns)
{
    const trace_clock_t *c = &w->clock;
    int64_t ahead = c->ahead_ns[0];
    if (c->at_ns[1] > c->at_ns[0]) {
        double part =
            (double)(int64_t)(ns - c->at_ns[0]) / (double)(int64_t)(c->at_ns[1] - c->at_ns[0]);
        ahead += (int64_t)(part * (double)(c->ahead_ns[1] - c->ahead_ns[0]));
    }
    int64_t since = (int64_t)ns - ahead - (int64_t)w->origin_ns;
    return since > 0 ? (uint64_t)since : 0;
}

static void begin_line(trace_writer_t *w)
{
    fputs(w->any ? ",\n" : "\n", w->file);
    w->any = true;
}

/* Ends a slice, if it is open, with a line. name and category need no quoting. */
static void end_slice(
    trace_writer_t *w, trace_slice_t *slice, uint64_t ns, const char *category, const char *name)
{
    uint64_t length = ns > slice->begin_ns ? ns - slice->begin_ns : 0;
    if (!slice->open)
        return;
    slice->open = false;
    begin_line(w);
    fprintf(w->file, "{\"name\":\"%s", name);
    if (slice == &w->layer)
        fprintf(w->file, " %" PRIu64, slice->number);
    if (slice == &w->step)
        fprintf(w->file, " %" PRIu64, slice->number);
    fprintf(w->file,
        "\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":0,\"ts\":%" PRIu64 ".%03" PRIu64
        ",\"dur\":%" PRIu64 ".%03" PRIu64,
        category, w->rank, slice->begin_ns / 1000, slice->begin_ns % 1000, length / 1000,
        length % 1000);
    if (slice == &w->step)
        fprintf(w->file, ",\"args\":{\"step\":%" PRIu64 ",\"rows\":%" PRIu64 "}", slice->number,
            w->rows);
    if (slice == &w->layer)
        fprintf(w->file, ",\"args\":{\"layer\":%" PRIu64 "}", slice->number);
    fputs("}", w->file);
}

static void begin_slice(trace_slice_t *slice, uint64_t ns, uint64_t number)
{
    *slice = (trace_slice_t){true, ns, number};
}

static void end_wait(trace_writer_t *w, uint64_t ns)
{
    w->n_waits = 0;
    end_slice(w, &w->wait, ns, "collective", progress_wait_name((int)w->wait.number));
}

static void end_phase(trace_writer_t *w, uint64_t ns)
{
    end_wait(w, ns);
    end_slice(w, &w->phase, ns, "phase", progress_phase_name((int)w->phase.number));
}

static void end_layer(trace_writer_t *w, uint64_t ns)
{
    end_slice(w, &w->layer, ns, "layer", "layer");
}

/* A step ends with its last phase; after it the rank waits for the next step. */
static void end_step(trace_writer_t *w)
{
    end_slice(w, &w->step, w->idle_ns, "step", "step");
}

static void begin_phase(trace_writer_t *w, uint64_t ns, const trace_event_t *event)
{
    bool in_layer = event->what >= PROGRESS_QKV && event->what <= PROGRESS_DOWN_PROJ;
    end_phase(w, ns);
    if (w->layer.open && (!in_layer || w->layer.number != event->value))
        end_layer(w, ns);
    w->idle_ns = ns;
    if (event->what == PROGRESS_IDLE)
        return;
    if (event->what == PROGRESS_WORK || event->what == PROGRESS_OPEN ||
        event->what == PROGRESS_LOAD)
        end_step(w); /* of a model that was closed */
    if (event->what == PROGRESS_WORK)
        return;
    if (in_layer && !w->layer.open)
        begin_slice(&w->layer, ns, event->value);
    begin_slice(&w->phase, ns, event->what);
}

void trace_write_event(trace_writer_t *w, const trace_event_t *event)
{
    uint64_t ns = aligned(w, event->ns);
    switch (event->kind) {
    case TRACE_STEP:
        end_phase(w, ns);
        end_layer(w, ns);
        end_step(w);
        begin_slice(&w->step, ns, w->n_steps++);
        w->idle_ns = ns;
        w->rows = 0;
        break;
    case TRACE_ROWS:
        w->rows = event->value;
        break;
    case TRACE_PHASE:
        begin_phase(w, ns, event);
        break;
    case TRACE_ENTER:
        if (w->n_waits++ == 0)
            begin_slice(&w->wait, ns, event->what);
        break;
    default:
        if (w->n_waits > 0 && --w->n_waits == 0)
            end_wait(w, ns);
        break;
    }
}

/* ---- The file -------------------------------------------------------------------------------- */

void trace_write_begin(trace_writer_t *w, FILE *file, uint64_t origin_ns)
{
    *w = (trace_writer_t){.file = file, .origin_ns = origin_ns};
    fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[", file);
}

/* Host names have no characters that JSON needs quoted; others are left out. */
static void put_name(FILE *file, const char *name)
{
    for (; *name != '\0'; name++)
        if (*name > ' ' && *name < 127 && *name != '"' && *name != '\\')
            fputc(*name, file);
}

void trace_write_rank(trace_writer_t *w, int rank, const char *host, const trace_clock_t *clock)
{
    *w = (trace_writer_t){
        .file = w->file, .origin_ns = w->origin_ns, .any = w->any, .rank = rank, .clock = *clock};
    begin_line(w);
    fprintf(w->file,
        "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{\"name\":\"rank %d "
        "on ",
        rank, rank);
    put_name(w->file, host);
    fprintf(w->file,
        "\"}},\n{\"name\":\"process_sort_index\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{"
        "\"sort_index\":%d}}",
        rank, rank);
}

void trace_write_rank_end(trace_writer_t *w, uint64_t ns)
{
    uint64_t at = aligned(w, ns);
    if (w->phase.open)
        w->idle_ns = at;
    end_phase(w, at);
    end_layer(w, at);
    end_step(w);
}

void trace_write_end(trace_writer_t *w, int n_ranks, const uint64_t *errors_ns)
{
    fputs("\n],\"otherData\":{\"clock_error_us\":[", w->file);
    for (int r = 0; r < n_ranks; r++)
        fprintf(w->file, "%s%.3f", r == 0 ? "" : ",", (double)errors_ns[r] * 1e-3);
    fputs("]}}\n", w->file);
}
