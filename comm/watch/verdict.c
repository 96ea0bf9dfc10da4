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
        if (views[r].heard && views[r].heart.group == group && views[r].heart.wide &&
            views[r].heart.wait != HEART_WAIT_NONE)
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
        if (view->heart.group != group)
            continue;
        if (view->still < limit)
            return false;
        busy = busy || view->heart.phase != HEART_IDLE;
    }
    return busy && (all_still || !waits_widely(views, n, group));
}

/* A rank's position in its step: the order in which all ranks reach phases and waits. */
static bool is_behind(const heart_view_t *a, const heart_view_t *b)
{
    bool a_waits = a->wait != HEART_WAIT_NONE, b_waits = b->wait != HEART_WAIT_NONE;
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
        const heart_view_t *heart = &views[r].heart;
        bool is_idle = heart->phase == HEART_IDLE && heart->wait == HEART_WAIT_NONE;
        if (views[r].heard && (heart->group == group || (wide && !is_idle)) &&
            (culprit < 0 || is_behind(heart, &views[culprit].heart)))
            culprit = (int)r;
    }
    for (size_t r = 0; r < n && views[culprit].heart.wait != HEART_WAIT_NONE; r++)
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
        if (stuck < 0 && views[r].heart.phase != HEART_IDLE &&
            is_stuck(views, n, views[r].heart.group, limits->limit))
            stuck = views[r].heart.group;
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

static bool has_layer(const heart_view_t *heart)
{
    return heart->phase >= HEART_QKV && heart->phase <= HEART_DOWN_PROJ;
}

/* "step 3, layer 2, MLP, gather of activations" */
static void add_place(text_t *text, const heart_view_t *heart)
{
    if (heart->phase == HEART_IDLE)
        add(text, heart->step == 0 ? "no step yet" : "no step since %llu",
            (unsigned long long)heart->step);
    else if (heart->phase > HEART_LOAD)
        add(text, "step %llu, ", (unsigned long long)heart->step);
    if (has_layer(heart))
        add(text, "layer %u, ", heart->layer);
    add(text, "%s", heart_phase_name(heart->phase));
    if (heart->wait != HEART_WAIT_NONE)
        add(text, ", %s", heart_wait_name(heart->wait));
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
    else if (view->heart.wait == HEART_WAIT_NONE)
        add(text, "has been for %.0f s in ", still);
    else
        add(text, "is behind the others and has waited for %.0f s in ", still);
    add_place(text, &view->heart);
}

/* Ranks that became silent with the culprit, and where the others wait. */
static void add_others(text_t *text, const verdict_view_t *views, size_t n, int culprit,
    const verdict_limits_t *limits)
{
    enum { MOST = 4096 };
    bool silent[MOST] = {0}, waiting[MOST] = {0};
    const heart_view_t *place = NULL;
    bool any_silent = false;
    if (n > MOST)
        n = MOST;
    for (size_t r = 0; r < n; r++) {
        const verdict_view_t *view = &views[r];
        if ((int)r == culprit || !view->heard)
            continue;
        silent[r] = !verdict_answers(view, limits);
        any_silent = any_silent || silent[r];
        waiting[r] = !silent[r] && view->heart.wait != HEART_WAIT_NONE &&
                     view->heart.group == views[culprit].heart.group;
        if (waiting[r] && (place == NULL || is_behind(&view->heart, place)))
            place = &view->heart;
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
