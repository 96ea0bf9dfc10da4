/* What drafts would gain: the time of steps that verify them, by their rows, and the speed-up that
 * follows for drafts that are right with some chance.
 *
 * Method. One sequence with a context; a round has a step of each number of rows, in turn, so that
 * what disturbs the machine disturbs all alike. Medians of the rounds count. Every step computes,
 * draws and exchanges what a step of a run does; its rows are overwritten by the next.
 *
 * Where a model drafts, so many tokens are then decoded in turn without drafts and, for the last chance, with the number
 * of drafts that the times favour: drafted and verified as in a run, but accepted by chance. */
#ifndef CHOIR_MEASURE_BENCH_DRAFTS_H
#define CHOIR_MEASURE_BENCH_DRAFTS_H

#include <stddef.h>

#include "engine/base/status.h"
#include "engine/run/engine.h"

enum { BENCH_DRAFTS_ROWS = 5, BENCH_DRAFTS_CHANCES = 4, BENCH_DRAFTS_MOST_ROWS = 16 };

typedef struct bench_drafts_options {
    size_t context, rounds, warmup; /* rounds: at least 1; warmup: rounds before, not counted */
    size_t n_tokens;                /* decoded in turn where a model drafts */
    double chance;                  /* of the last speed-up */
} bench_drafts_options_t;

typedef struct bench_drafts {
    size_t rows[BENCH_DRAFTS_ROWS];    /* 1, 2, 4, 8, 16: one that is given, the others drafted */
    double seconds[BENCH_DRAFTS_ROWS]; /* of a step */
    /* Chances that a draft is right, given that those before it are; the number of drafts that
     * gains most; and how many times as many tokens a second that gives as no drafts. */
    double chances[BENCH_DRAFTS_CHANCES], speedups[BENCH_DRAFTS_CHANCES];
    size_t drafts[BENCH_DRAFTS_CHANCES];
    /* Where a model drafts, else 0: the time of a token that it drafts; and the last speed-up as it was measured. */
    double draft_seconds, measured;
} bench_drafts_t;

/* What the engine has to be opened with, besides. */
void bench_drafts_set(const bench_drafts_options_t *options, engine_options_t *engine);

/* Collective, on an engine that has been opened and not used; afterwards it can only be closed.
 * drafts: filled on the coordinator. FAIL_LIMIT when the context is too long, FAIL_MEMORY,
 * FAIL_INTERRUPTED; all ranks agree. */
int bench_drafts_run(
    engine_t *engine, const bench_drafts_options_t *options, bench_drafts_t *drafts, fail_t *fail);

/* Speed-ups from the steps' times. */
void bench_drafts_gain(bench_drafts_t *drafts, double chance);

#endif
