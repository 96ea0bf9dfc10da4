/* choir bench --sweep: the same model on more and more cores. */
#ifndef CHOIR_LAUNCH_BENCH_SWEEP_H
#define CHOIR_LAUNCH_BENCH_SWEEP_H

#include "launch/bench_job.h"

/* Collective. */
int bench_sweep(bench_job_t *job, fail_t *fail);

#endif
