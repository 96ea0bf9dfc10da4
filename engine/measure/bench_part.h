/* Measurements on all ranks, or on some of them as a run of these alone would find them. */
#ifndef CHOIR_MEASURE_BENCH_PART_H
#define CHOIR_MEASURE_BENCH_PART_H

#include <stdbool.h>
#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/measure/bench.h"
#include "engine/run/replica.h"

/* A run and what was measured; borrowed for the call. */
typedef struct bench_taken {
    size_t run; /* its number */
    const bench_options_t *options;
    const bench_report_t *report;
    const engine_info_t *info;
    size_t ranks, nodes, replicas; /* of the part */
} bench_taken_t;

typedef struct bench_part {
    comm_t *comm;  /* of all ranks */
    bool measures; /* this rank is in the part; the others rest. Rank 0 is in it */
    /* Of the part. Its engines get room for every run: kv_tokens and max_batch are ignored. */
    replica_options_t replica;
    const bench_options_t *runs; /* [n_runs]; read_bytes and all_replicas are ignored */
    size_t n_runs;
    size_t read_bytes; /* that each rank reads to measure the bandwidth; fewer if memory is short */
    /* On each rank of the part: its engine is open, or, with NULL, about to be closed. */
    void (*opened)(void *context, engine_t *engine);
    /* On rank 0 after each run. */
    void (*take)(void *context, const bench_taken_t *taken, fail_t *fail);
    void *context;
} bench_part_t;

/* Collective over all ranks. Failures are agreed on by all. */
int bench_part_run(const bench_part_t *part, fail_t *fail);

#endif
