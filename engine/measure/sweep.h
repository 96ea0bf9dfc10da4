/* The parts of `choir bench --sweep`, and figures of scaling. Pure functions. */
#ifndef CHOIR_MEASURE_SWEEP_H
#define CHOIR_MEASURE_SWEEP_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

#define SWEEP_MAX 16 /* values of one list */

typedef struct sweep_list {
    size_t n;
    size_t items[SWEEP_MAX];
} sweep_list_t;

typedef enum sweep_scaling {
    SWEEP_STRONG, /* the same sequences on more cores */
    SWEEP_WEAK,   /* as many more sequences as there are more cores */
    SWEEP_SCALINGS
} sweep_scaling_t;

/* "strong", "weak" */
const char *sweep_scaling_name(sweep_scaling_t scaling);

typedef struct sweep {
    sweep_list_t ranks, threads, replicas; /* ascending; ranks of all replicas together */
    sweep_list_t batches;                  /* sequences of the smallest part, all replicas */
    sweep_list_t contexts;
    bool scalings[SWEEP_SCALINGS];
} sweep_t;

/* "ranks=1,2 threads=1,2 mesh=1,2 batch=1,4 context=128,512 scaling=strong,weak", in any order,
 * each optional; "auto" for none. Defaults: ranks and threads 1, 2, 4, ... up to n_ranks and
 * node_cores; one replica; `batch` and `context`; strong. FAIL_USAGE names the word and what was
 * expected. */
int sweep_parse(const char *text, size_t n_ranks, size_t node_cores, size_t batch, size_t context,
    sweep_t *sweep, fail_t *fail);

/* Ranks x threads, and how many replicas share the ranks. */
typedef struct sweep_part {
    size_t ranks, threads, replicas;
} sweep_part_t;

/* The i-th part in the order of ranks, threads, replicas; replicas of unequal size and nodes with
 * more threads than cores are left out. ranks_per_node: of the run. False when there is none. */
bool sweep_part(
    const sweep_t *sweep, size_t i, size_t ranks_per_node, size_t node_cores, sweep_part_t *part);

/* Sequences of each replica; 0 when they do not come out even. base: the smallest part. */
size_t sweep_batch(
    const sweep_part_t *base, const sweep_part_t *part, sweep_scaling_t scaling, size_t batch);

typedef struct sweep_gain {
    double speedup;         /* rate / rate of the smallest part */
    double efficiency;      /* speedup / (cores / cores of the smallest part) */
    double serial_fraction; /* Karp and Flatt (1990): (1/S - 1/p) / (1 - 1/p) */
    bool has_fraction;      /* false for weak scaling, and for the smallest part itself */
} sweep_gain_t;

/* rate, base_rate: tokens/s. */
sweep_gain_t sweep_gain(const sweep_part_t *base, double base_rate, const sweep_part_t *part,
    double rate, sweep_scaling_t scaling);

#endif
