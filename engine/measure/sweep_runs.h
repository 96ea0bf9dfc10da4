/* The runs of a part of a sweep, and what their reports say of each phase. Pure functions. */
#ifndef CHOIR_MEASURE_SWEEP_RUNS_H
#define CHOIR_MEASURE_SWEEP_RUNS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/measure/bench.h"
#include "engine/measure/sweep.h"
#include "sharding/plan.h"

/* Contexts x batches x scalings at most. */
#define SWEEP_MOST_RUNS (SWEEP_MAX * SWEEP_MAX * SWEEP_SCALINGS)

/* What a run stands for: one row, or two where strong and weak scaling ask for the same. */
typedef struct sweep_cell {
    size_t batch, context; /* indices into the sweep's lists */
    bool scalings[SWEEP_SCALINGS];
} sweep_cell_t;

typedef struct sweep_runs {
    size_t n;
    bench_options_t runs[SWEEP_MOST_RUNS];
    sweep_cell_t cells[SWEEP_MOST_RUNS];
} sweep_runs_t;

/* One run. each: what all have in common; prompt_tokens 0: prompts as long as the context. */
bench_options_t sweep_run(const bench_options_t *each, size_t batch, size_t context);

/* base: the smallest part, which the others are compared with. */
void sweep_runs_list(sweep_runs_t *runs, const sweep_t *sweep, const sweep_part_t *base,
    const sweep_part_t *part, const bench_options_t *each);

typedef enum sweep_time {
    SWEEP_MATRIX,
    SWEEP_ATTENTION,
    SWEEP_ELEMENTWISE,
    SWEEP_EXCHANGE,
    SWEEP_WAITING,
    SWEEP_SAMPLING,
    SWEEP_TIMES
} sweep_time_t;
/* "matrix" */
const char *sweep_time_name(sweep_time_t time);

/* One prefill, or a step, of one replica. */
typedef struct sweep_phase {
    double mean_s[SWEEP_TIMES], max_s[SWEEP_TIMES]; /* over ranks */
    double rank_bytes, node_bytes;                  /* that a rank, a node takes in */
    double bytes_per_s; /* the larger of them over the mean time of exchange; 0: not known */
} sweep_phase_t;

/* model, combine: what ran; rows: of the phase; draws: those of them with logits. */
sweep_phase_t sweep_phase(const bench_report_t *report, bench_phase_t phase,
    const plan_model_t *model, plan_combine_t combine, size_t ranks_per_node, double rows,
    double draws);

#endif
