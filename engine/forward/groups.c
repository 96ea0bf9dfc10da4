#include "engine/forward/groups.h"

#include <stdlib.h>

#include "engine/base/size.h"

#define NO_SEQUENCE SIZE_MAX

int groups_open(forward_t *f, fail_t *fail)
{
    groups_t *g = &f->groups;
    size_t max_rows = f->options.max_rows, n_blocks = f->cache->n_blocks;
    g->members = calloc(max_rows, sizeof *g->members);
    g->begins = calloc(max_rows + 1, sizeof *g->begins);
    g->common = calloc(max_rows, sizeof *g->common);
    g->next = calloc(max_rows, sizeof *g->next);
    g->last = calloc(n_blocks + 1, sizeof *g->last);
    g->steps = calloc(n_blocks + 1, sizeof *g->steps);
    if (g->members == NULL || g->begins == NULL || g->common == NULL || g->next == NULL ||
        g->last == NULL || g->steps == NULL)
        return fail_set(fail, FAIL_MEMORY, "forward: out of memory");
    return 0;
}

void groups_close(forward_t *f)
{
    groups_t *g = &f->groups;
    free(g->members);
    free(g->begins);
    free(g->common);
    free(g->next);
    free(g->last);
    free(g->steps);
}

/* Blocks that are full of keys of both, and the same. */
static size_t common_blocks(const forward_sequence_t *a, const forward_sequence_t *b)
{
    size_t most = size_min(a->first_position, b->first_position) / KV_BLOCK, n = 0;
    while (n < most && a->blocks[n] == b->blocks[n])
        n++;
    return n;
}

/* Links sequence i to the one before it that begins with the same block. Whether there is one. */
static bool link_sequence(groups_t *g, const forward_batch_t *batch, size_t i, size_t max_rows)
{
    const forward_sequence_t *s = &batch->sequences[i];
    if (!s->single_row || s->n_rows > max_rows || s->first_position < KV_BLOCK)
        return false;
    size_t block = (size_t)s->blocks[0];
    bool known = g->steps[block] == g->step;
    if (known)
        g->next[g->last[block]] = i;
    g->last[block] = i;
    g->steps[block] = g->step;
    return known;
}

void groups_find(forward_t *f, size_t max_rows)
{
    groups_t *g = &f->groups;
    const forward_batch_t *batch = f->batch;
    g->n = g->n_groups = g->n_grouped = 0;
    g->step++;
    for (size_t i = 0; i < batch->n_sequences; i++) {
        g->next[i] = NO_SEQUENCE;
        /* The first ones of groups, for now. */
        if (!f->sdpa || !link_sequence(g, batch, i, max_rows))
            g->begins[g->n_groups++] = i;
    }
    for (size_t group = 0; group < g->n_groups; group++) {
        size_t i = g->begins[group], before = NO_SEQUENCE, begin = g->n;
        g->begins[group] = begin;
        for (; i != NO_SEQUENCE; before = i, i = g->next[i]) {
            g->common[g->n] = before == NO_SEQUENCE
                                  ? 0
                                  : common_blocks(&batch->sequences[before], &batch->sequences[i]);
            g->members[g->n++] = i;
        }
        g->n_grouped += g->n - begin > 1 ? g->n - begin : 0;
    }
    g->begins[g->n_groups] = g->n;
}
