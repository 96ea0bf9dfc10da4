#include "comm/watch/trace_ring.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"

#define AHEAD_EVENTS 32 /* asked for while one is recorded, also beyond the last */

bool trace_ring_open(trace_ring_t *ring, size_t capacity, int phase)
{
    trace_event_t *events = malloc((capacity + AHEAD_EVENTS) * sizeof *events);
    if (events == NULL)
        return false;
    memset(events, 0, capacity * sizeof *events); /* no page is new when an event comes */
    *ring = (trace_ring_t){.events = events, .capacity = capacity, .phase = phase};
    return true;
}

void trace_record(trace_ring_t *ring, trace_kind_t kind, int what, size_t value)
{
    if (ring == NULL)
        return;
    if (kind == TRACE_PHASE) {
        /* Loading marks itself again and again. */
        if (ring->phase == what && ring->layer == value)
            return;
        ring->phase = what;
        ring->layer = value;
    }
    trace_event_t *event = &ring->events[ring->next];
    /* Else a store into a line that comes from memory delays those behind it, such as the flag
     * that others wait for in a barrier. */
    __builtin_prefetch(event + AHEAD_EVENTS, 1);
    *event = (trace_event_t){.ns = clock_ticks(),
        .value = (uint32_t)value,
        .kind = (uint8_t)kind,
        .what = (uint8_t)what};
    ring->n++;
    if (++ring->next == ring->capacity)
        ring->next = 0;
}
