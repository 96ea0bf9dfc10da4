/* The same model on more and more cores (sweep.h): runs the parts, and says how each row scales. */
#ifndef CHOIR_MEASURE_BENCH_SWEEP_H
#define CHOIR_MEASURE_BENCH_SWEEP_H

#include <stddef.h>

#include "engine/base/status.h"
#include "engine/measure/bench_part.h"
#include "engine/measure/sweep_runs.h"
#include "engine/model/config.h"

/* What a row of the sweep says, borrowed for the call. */
typedef struct bench_sweep_row {
    const bench_taken_t *taken;
    sweep_scaling_t scaling;
    sweep_part_t base, part; /* base: the smallest, which the others are compared with */
    size_t base_batch;
    double rates[BENCH_PHASES]; /* tokens/s */
    sweep_gain_t gains[BENCH_PHASES];
    sweep_phase_t phases[BENCH_PHASES];
} bench_sweep_row_t;

typedef struct bench_sweep {
    bench_part_t part;      /* comm, replica (but for threads and n_replicas), read_bytes, opened */
    const config_t *config; /* of all layers */
    size_t n_layers;        /* that are measured */
    const char *sweep;
    size_t batch, context; /* where the sweep has no list of them */
    bench_options_t each;  /* what all runs have in common (sweep_run) */
    /* On rank 0: all is checked, and the first part begins; then every row. The context is part's. */
    void (*begin)(void *context);
    void (*take)(void *context, const bench_sweep_row_t *row, fail_t *fail);
} bench_sweep_t;

/* Collective. FAIL_LIMIT for a model with too few positions, FAIL_INTERNAL when the logits of two
 * parts differ. */
int bench_sweep_run(const bench_sweep_t *options, fail_t *fail);

#endif
