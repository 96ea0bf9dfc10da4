#include "engine/measure/sweep.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"

#define MOST 1000000

static const char *const names[SWEEP_SCALINGS] = {"strong", "weak"};

const char *sweep_scaling_name(sweep_scaling_t scaling)
{
    return names[scaling];
}

/* ---- Parsing --------------------------------------------------------------------------------- */

typedef struct word {
    const char *text, *end;
} word_t;

static int complain(const word_t *word, const char *expected, fail_t *fail)
{
    return fail_set(fail, FAIL_USAGE, "--sweep: expected %s, found \"%.*s\"", expected,
        (int)(word->end - word->text), word->text);
}

static bool add_item(sweep_list_t *list, size_t value)
{
    size_t i = 0;
    while (i < list->n && list->items[i] < value)
        i++;
    if (i < list->n && list->items[i] == value)
        return true;
    if (list->n == SWEEP_MAX)
        return false;
    memmove(list->items + i + 1, list->items + i, (list->n - i) * sizeof *list->items);
    list->items[i] = value;
    list->n++;
    return true;
}

/* at: after the "=". */
static int parse_list(
    const word_t *word, const char *at, size_t most, sweep_list_t *list, fail_t *fail)
{
    for (;; at++) {
        char *end = NULL;
        errno = 0;
        unsigned long value = isdigit((unsigned char)*at) ? strtoul(at, &end, 10) : 0;
        if (value == 0 || errno != 0 || value > MOST)
            return complain(word, "numbers above 0 with commas between them", fail);
        if (value > most)
            return fail_set(fail, FAIL_USAGE, "--sweep: \"%.*s\": expected at most %zu, found %lu",
                (int)(word->end - word->text), word->text, most, value);
        if (!add_item(list, value))
            return complain(word, "at most 16 numbers", fail);
        at = end;
        if (at == word->end)
            return 0;
        if (*at != ',')
            return complain(word, "numbers with commas between them", fail);
    }
}

static int parse_scalings(const word_t *word, const char *at, sweep_t *sweep, fail_t *fail)
{
    for (;; at++) {
        size_t n = strcspn(at, ", "), s = 0;
        while (s < SWEEP_SCALINGS && (strlen(names[s]) != n || memcmp(names[s], at, n) != 0))
            s++;
        if (s == SWEEP_SCALINGS)
            return complain(word, "scaling=strong,weak", fail);
        sweep->scalings[s] = true;
        at += n;
        if (at >= word->end)
            return 0;
    }
}

static int parse_word(const word_t *word, size_t n_ranks, sweep_t *sweep, fail_t *fail)
{
    const struct {
        const char *name;
        sweep_list_t *list;
        size_t most;
    } lists[] = {{"ranks=", &sweep->ranks, n_ranks}, {"threads=", &sweep->threads, 4096},
        {"mesh=", &sweep->replicas, n_ranks}, {"batch=", &sweep->batches, 4096},
        {"context=", &sweep->contexts, MOST}};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        size_t length = strlen(lists[i].name);
        if (strncmp(word->text, lists[i].name, length) == 0)
            return parse_list(word, word->text + length, lists[i].most, lists[i].list, fail);
    }
    if (strncmp(word->text, "scaling=", 8) == 0)
        return parse_scalings(word, word->text + 8, sweep, fail);
    return complain(word, "ranks=, threads=, mesh=, batch=, context= or scaling=", fail);
}

/* 1, 2, 4, ... and the largest itself. */
static void fill_powers(sweep_list_t *list, size_t most)
{
    if (list->n > 0)
        return;
    for (size_t value = 1; value < most && list->n < SWEEP_MAX - 1; value *= 2)
        add_item(list, value);
    add_item(list, most);
}

int sweep_parse(const char *text, size_t n_ranks, size_t node_cores, size_t batch, size_t context,
    sweep_t *sweep, fail_t *fail)
{
    *sweep = (sweep_t){0};
    if (strcmp(text, "auto") == 0)
        text = "";
    for (const char *at = text + strspn(text, " "); *at != 0; at += strspn(at, " ")) {
        const word_t word = {at, at + strcspn(at, " ")};
        if (parse_word(&word, n_ranks, sweep, fail) != 0)
            return fail->status;
        at = word.end;
    }
    fill_powers(&sweep->ranks, n_ranks);
    fill_powers(&sweep->threads, size_max(1, node_cores));
    if (sweep->replicas.n == 0)
        add_item(&sweep->replicas, 1);
    if (sweep->batches.n == 0)
        add_item(&sweep->batches, batch);
    if (sweep->contexts.n == 0)
        add_item(&sweep->contexts, context);
    if (!sweep->scalings[SWEEP_STRONG] && !sweep->scalings[SWEEP_WEAK])
        sweep->scalings[SWEEP_STRONG] = true;
    return 0;
}

/* ---- Parts ----------------------------------------------------------------------------------- */

bool sweep_part(
    const sweep_t *sweep, size_t i, size_t ranks_per_node, size_t node_cores, sweep_part_t *part)
{
    for (size_t r = 0; r < sweep->ranks.n; r++)
        for (size_t t = 0; t < sweep->threads.n; t++)
            for (size_t d = 0; d < sweep->replicas.n; d++) {
                *part = (sweep_part_t){
                    sweep->ranks.items[r], sweep->threads.items[t], sweep->replicas.items[d]};
                size_t on_node = size_min(part->ranks, ranks_per_node);
                bool fits = on_node * part->threads <= node_cores || part->threads == 1;
                if (part->ranks % part->replicas == 0 && fits && i-- == 0)
                    return true;
            }
    return false;
}

static size_t cores(const sweep_part_t *part)
{
    return part->ranks * part->threads;
}

size_t sweep_batch(
    const sweep_part_t *base, const sweep_part_t *part, sweep_scaling_t scaling, size_t batch)
{
    size_t total = scaling == SWEEP_WEAK ? batch * cores(part) / cores(base) : batch;
    bool even = scaling != SWEEP_WEAK || batch * cores(part) % cores(base) == 0;
    return even && total % part->replicas == 0 ? total / part->replicas : 0;
}

sweep_gain_t sweep_gain(const sweep_part_t *base, double base_rate, const sweep_part_t *part,
    double rate, sweep_scaling_t scaling)
{
    double p = (double)cores(part) / (double)cores(base);
    sweep_gain_t gain = {.speedup = base_rate > 0 ? rate / base_rate : 0};
    gain.efficiency = gain.speedup / p;
    gain.has_fraction = scaling == SWEEP_STRONG && p > 1 && gain.speedup > 0;
    if (gain.has_fraction)
        gain.serial_fraction = (1 / gain.speedup - 1 / p) / (1 - 1 / p);
    return gain;
}
