/* The rates of the cost model (predict.h), measured on this machine and network. */
#ifndef CHOIR_MEASURE_BENCH_CLUSTER_H
#define CHOIR_MEASURE_BENCH_CLUSTER_H

#include <stddef.h>

#include "engine/base/status.h"
#include "engine/measure/bench_part.h"
#include "engine/model/config.h"

typedef struct bench_cluster {
    bench_part_t part; /* comm, replica (but for threads), read_bytes, opened and its context */
    const config_t *config; /* of all layers */
    size_t n_layers;        /* that are measured */
    const char *model, *cpu;
    const char *sweep; /* of which ranks and threads (sweep.h); NULL: "auto" */
    size_t repeat, warmup;
    const char *path; /* of the cluster file: what it has and is not measured again stays */
} bench_cluster_t;

/* Collective. Every number of ranks of the first node, with every number of threads that it has
 * cores for; and the network. FAIL_LIMIT for a model with too few positions. */
int bench_cluster_run(const bench_cluster_t *options, fail_t *fail);

#endif
