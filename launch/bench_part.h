/* Measurements on some of the ranks, as a run of these alone would find them. */
#ifndef CHOIR_LAUNCH_BENCH_PART_H
#define CHOIR_LAUNCH_BENCH_PART_H

#include "launch/bench_job.h"

/* Some ranks of the run, those of `color` 0, measure while the others rest. */
typedef struct bench_part {
    int color;
    size_t threads, replicas;
    const bench_options_t *runs; /* [n_runs]; read_bytes, beside and progress are not looked at */
    size_t n_runs;
    /* On rank 0 of the part after each run. */
    void (*take)(void *context, size_t run, const bench_report_t *report, fail_t *fail);
    void *context;
} bench_part_t;

/* Collective over all ranks. Failures are agreed on by all. Rank 0 of the run has to be in the
 * part. */
int bench_part_run(bench_job_t *job, const bench_part_t *part, fail_t *fail);

#endif
