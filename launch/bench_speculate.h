/* choir bench --speculate. */
#ifndef CHOIR_LAUNCH_BENCH_SPECULATE_H
#define CHOIR_LAUNCH_BENCH_SPECULATE_H

#include "launch/bench_job.h"

/* Collective. */
int bench_speculate(bench_job_t *job, fail_t *fail);

#endif
