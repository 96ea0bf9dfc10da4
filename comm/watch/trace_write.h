/* How what was recorded for a timeline (trace.h) becomes slices of its file. Needs no MPI. */
#ifndef CHOIR_COMM_TRACE_WRITE_H
#define CHOIR_COMM_TRACE_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "comm/watch/trace_ring.h"

/* A rank's clock beside rank 0's, at two moments; in between it drifts evenly. */
typedef struct trace_clock {
    uint64_t at_ns[2];   /* by the rank's clock */
    int64_t ahead_ns[2]; /* of rank 0's clock */
    uint64_t error_ns;   /* at most */
} trace_clock_t;

/* A slice that has begun. */
typedef struct trace_slice {
    bool open;
    uint64_t begin_ns; /* by rank 0's clock, since the trace was opened */
    uint64_t number;   /* of the step, layer, phase or wait */
} trace_slice_t;

/* Turns events of one rank, in their order, into lines of JSON. */
typedef struct trace_writer {
    FILE *file;
    uint64_t origin_ns; /* by rank 0's clock */
    bool any;           /* a line was written */
    int rank;
    trace_clock_t clock;
    trace_slice_t step, layer, phase, wait;
    size_t n_waits; /* one inside of the other: the outer one counts */
    uint64_t n_steps, rows;
    uint64_t idle_ns; /* when the step's last phase ended */
} trace_writer_t;

void trace_write_begin(trace_writer_t *writer, FILE *file, uint64_t origin_ns);
/* The next rank. host: where it runs. */
void trace_write_rank(
    trace_writer_t *writer, int rank, const char *host, const trace_clock_t *clock);
void trace_write_event(trace_writer_t *writer, const trace_event_t *event);
/* The rank's last moment, by its clock: ends what is open. */
void trace_write_rank_end(trace_writer_t *writer, uint64_t ns);
/* errors_ns: [n_ranks] of the clocks */
void trace_write_end(trace_writer_t *writer, int n_ranks, const uint64_t *errors_ns);

#endif
