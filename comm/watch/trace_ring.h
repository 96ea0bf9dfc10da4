/* What a rank records for a timeline (trace.h): a ring of events. Needs no MPI. */
#ifndef CHOIR_COMM_TRACE_RING_H
#define CHOIR_COMM_TRACE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum trace_kind {
    TRACE_STEP,
    TRACE_ROWS,
    TRACE_PHASE,
    TRACE_ENTER,
    TRACE_LEAVE
} trace_kind_t;

typedef struct trace_event {
    uint64_t ns;    /* clock_ns of the rank; while it records, clock_ticks */
    uint32_t value; /* rows of TRACE_ROWS, layer of TRACE_PHASE */
    uint8_t kind;
    uint8_t what; /* phase of TRACE_PHASE, wait of TRACE_ENTER */
} trace_event_t;

typedef struct trace_ring {
    trace_event_t *events; /* [capacity], freed by the caller of open */
    size_t capacity;
    size_t next; /* of them */
    uint64_t n;  /* recorded so far */
    int phase;   /* the last one recorded, and its layer */
    size_t layer;
} trace_ring_t;

/* phase: the one that holds now. False when out of memory. */
bool trace_ring_open(trace_ring_t *ring, size_t capacity, int phase);
/* Local. NULL is allowed. */
void trace_record(trace_ring_t *ring, trace_kind_t kind, int what, size_t value);

#endif
