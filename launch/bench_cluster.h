/* choir bench --cluster: the rates that `choir plan --predict` reckons with. */
#ifndef CHOIR_LAUNCH_BENCH_CLUSTER_H
#define CHOIR_LAUNCH_BENCH_CLUSTER_H

#include "launch/bench_job.h"

/* Collective. */
int bench_cluster(bench_job_t *job, fail_t *fail);

#endif
