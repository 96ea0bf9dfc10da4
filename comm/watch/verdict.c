#include "comm/watch/verdict.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool verdict_has_ended(const verdict_view_t *view)
{
    return view->state == 'Z' || view->state == 'X';
}

/* Whether anything is known of the rank: its own messages, or that its process is stopped. */
static bool is_known(const verdict_view_t *view)
{
    return view->heard || view->state == 'T';
}

bool verdict_answers(const verdict_view_t *view, const verdict_limits_t *limits)
{
    return view->heard && view->silent < limits->quiet && !verdict_has_ended(view);
}

/* Whether a rank of the group waits for ranks of other groups. */
static bool waits_widely(const verdict_view_t *views, size_t n, int group)
{
    for (size_t r = 0; r < n; r++)
        if (views[r].heard && views[r].record.group == group && views[r].record.wide &&
            views[r].record.wait != PROGRESS_WAIT_NONE)
            return true;
    return false;
}

/* Whether a group has work and none of its ranks has made progress for the limit. Where one of them
 * waits for ranks of other groups, no other rank has either. */
static bool is_stuck(const verdict_view_t *views, size_t n, int group, size_t limit)
{
    bool busy = false, all_still = true;
    for (size_t r = 0; r < n; r++) {
        const verdict_view_t *view = &views[r];
        if (!view->heard)
            continue;
        all_still = all_still && view->still >= limit;
        if (view->record.group != group)
            continue;
        if (view->still < limit)
            return false;
        busy = busy || view->record.phase != PROGRESS_IDLE;
    }
    return busy && (all_still || !waits_widely(views, n, group));
}

/* A rank's position in its step: the order in which all ranks reach phases and waits. */
static bool is_behind(const progress_view_t *a, const progress_view_t *b)
{
    bool a_waits = a->wait != PROGRESS_WAIT_NONE, b_waits = b->wait != PROGRESS_WAIT_NONE;
    if (a_waits != b_waits)
        return b_waits;
    if (a->step != b->step)
        return a->step < b->step;
    if (a->layer != b->layer)
        return a->layer < b->layer;
    return a->phase < b->phase;
}

/* Of a group that stalls, the rank that the others wait for: one that never sent a message, if all
 * that did wait. */
static int find_behind(const verdict_view_t *views, size_t n, int group)
{
    bool wide = waits_widely(views, n, group);
    int culprit = -1;
    for (size_t r = 0; r < n; r++) {
        const progress_view_t *record = &views[r].record;
        bool is_idle = record->phase == PROGRESS_IDLE && record->wait == PROGRESS_WAIT_NONE;
        if (views[r].heard && (record->group == group || (wide && !is_idle)) &&
            (culprit < 0 || is_behind(record, &views[culprit].record)))
            culprit = (int)r;
    }
    for (size_t r = 0; r < n && views[culprit].record.wait != PROGRESS_WAIT_NONE; r++)
        if (!views[r].heard)
            return (int)r;
    return culprit;
}

/* The one that has been silent for longest; the first of several that became silent together. */
static int find_silent(const verdict_view_t *views, size_t n, size_t quiet)
{
    int culprit = -1;
    size_t longest = 0;
    for (size_t r = 0; r < n; r++)
        if (is_known(&views[r]) && views[r].silent > longest)
            longest = views[r].silent;
    for (size_t r = 0; r < n && culprit < 0; r++)
        if (is_known(&views[r]) && views[r].silent >= quiet && views[r].silent + 2 >= longest)
            culprit = (int)r;
    return culprit;
}

int verdict_find(const verdict_view_t *views, size_t n, const verdict_limits_t *limits)
{
    int stuck = -1;
    bool silent = false;
    for (size_t r = 0; r < n; r++) {
        if (verdict_has_ended(&views[r]))
            return (int)r;
        if (!is_known(&views[r]))
            continue;
        silent = silent || views[r].silent >= limits->limit;
        if (stuck < 0 && views[r].record.phase != PROGRESS_IDLE &&
            is_stuck(views, n, views[r].record.group, limits->limit))
            stuck = views[r].record.group;
    }
    if (!silent && stuck < 0)
        return -1;
    int culprit = find_silent(views, n, limits->quiet);
    return culprit >= 0 ? culprit : find_behind(views, n, stuck);
}

/* ---- Words ----------------------------------------------------------------------------------- */

typedef struct text {
    char *at;
    size_t left;
} text_t;

__attribute__((format(printf, 2, 3))) static void add(text_t *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text->at, text->left, format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n < text->left ? (size_t)n : text->left - 1;
    text->at += used;
    text->left -= used;
}

static bool has_layer(const progress_view_t *record)
{
    return record->phase >= PROGRESS_QKV && record->phase <= PROGRESS_DOWN_PROJ;
}

/* "step 3, layer 2, MLP, gather of activations" */
static void add_place(text_t *text, const progress_view_t *record)
{
    if (record->phase == PROGRESS_IDLE)
        add(text, record->step == 0 ? "no step yet" : "no step since %llu",
            (unsigned long long)record->step);
    else if (record->phase > PROGRESS_LOAD)
        add(text, "step %llu, ", (unsigned long long)record->step);
    if (has_layer(record))
        add(text, "layer %u, ", record->layer);
    add(text, "%s", progress_phase_name(record->phase));
    if (record->wait != PROGRESS_WAIT_NONE)
        add(text, ", %s", progress_wait_name(record->wait));
}

/* "rank 0", "ranks 0, 2-3": those for which `counts` holds; how many they are. */
static size_t add_ranks(text_t *text, const bool *counts, size_t n)
{
    size_t n_counted = 0;
    for (size_t r = 0; r < n; r++)
        n_counted += counts[r];
    add(text, n_counted == 1 ? "rank " : "ranks ");
    const char *comma = "";
    for (size_t r = 0; r < n; r++) {
        if (!counts[r])
            continue;
        size_t last = r;
        while (last + 1 < n && counts[last + 1])
            last++;
        add(text, last == r ? "%s%zu" : "%s%zu-%zu", comma, r, last);
        comma = ", ";
        r = last;
    }
    return n_counted;
}

static double seconds_of(size_t ticks, const verdict_limits_t *limits)
{
    return (double)ticks * limits->seconds_a_tick;
}

static void add_culprit(
    text_t *text, const verdict_view_t *view, int rank, const verdict_limits_t *limits)
{
    double still = seconds_of(view->still, limits), silent = seconds_of(view->silent, limits);
    add(text, "rank %d on %s (process %d) ", rank, view->host, view->pid);
    if (verdict_has_ended(view))
        add(text, "has ended; it was last in ");
    else if (!verdict_answers(view, limits) && view->state == 'T')
        add(text, "is stopped (SIGSTOP or a debugger), in ");
    else if (!verdict_answers(view, limits))
        add(text,
            "has sent no heartbeat for %.0f s (stopped, ended, or disconnected); "
            "it was last in ",
            silent);
    else if (view->record.wait == PROGRESS_WAIT_NONE)
        add(text, "has been for %.0f s in ", still);
    else
        add(text, "is behind the others and has waited for %.0f s in ", still);
    add_place(text, &view->record);
}

/* Ranks that became silent with the culprit, and where the others wait. */
static void add_others(text_t *text, const verdict_view_t *views, size_t n, int culprit,
    const verdict_limits_t *limits)
{
    enum { MOST = 4096 };
    bool silent[MOST] = {0}, waiting[MOST] = {0};
    const progress_view_t *place = NULL;
    bool any_silent = false;
    if (n > MOST)
        n = MOST;
    for (size_t r = 0; r < n; r++) {
        const verdict_view_t *view = &views[r];
        if ((int)r == culprit || !view->heard)
            continue;
        silent[r] = !verdict_answers(view, limits);
        any_silent = any_silent || silent[r];
        waiting[r] = !silent[r] && view->record.wait != PROGRESS_WAIT_NONE &&
                     view->record.group == views[culprit].record.group;
        if (waiting[r] && (place == NULL || is_behind(&view->record, place)))
            place = &view->record;
    }
    if (any_silent) {
        add(text, "; also silent: ");
        add_ranks(text, silent, n);
    }
    if (place != NULL) {
        add(text, "; ");
        add(text, add_ranks(text, waiting, n) == 1 ? " waits in " : " wait in ");
        add_place(text, place);
    }
}

void verdict_text(const verdict_view_t *views, size_t n, int culprit,
    const verdict_limits_t *limits, const char *stack, char *text_out, size_t text_bytes)
{
    text_t text = {text_out, text_bytes};
    const verdict_view_t *view = &views[culprit];
    if (!verdict_has_ended(view)) {
        size_t ticks = verdict_answers(view, limits) ? view->still : view->silent;
        add(&text, "no progress for %.0f s: ", seconds_of(ticks, limits));
    }
    add_culprit(&text, view, culprit, limits);
    add_others(&text, views, n, culprit, limits);
    if (stack[0] != 0)
        add(&text, "; its stack: %s", stack);
}
