/* The blocking exchange between sharing groups, for few rows, where latency counts and not
 * bandwidth. There are several algorithms. Which is fastest depends on the network, the number of
 * nodes and the payload, so it is measured when a group of ranks opens its first buffer.
 * Internal to comm. */
#ifndef CHOIR_COMM_EXCHANGE_H
#define CHOIR_COMM_EXCHANGE_H

#include "comm/internal.h"
#include "engine/base/status.h"

/* Collective over the group. Measures on the leaders; all agree on the fastest. Rank 0 logs it with
 * --verbose. Does nothing on one node. FAIL_MEMORY, agreed on. */
int exchange_choose(comm_t *comm, fail_t *fail);

/* Collective over the leaders. Group g has filled comm->counts[g] bytes of data from
 * comm->displs[g] on; afterwards every leader has all. Groups' bytes follow each other without
 * gaps. */
void exchange_run(comm_t *comm, void *data);

#endif
