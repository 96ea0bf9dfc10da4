/* The exchange between sharing groups that waits: of few rows, whose time is that of messages and
 * not of bytes. There are some ways to do it; which is fastest depends on the network, the number
 * of nodes and the payload, so it is measured when a group of ranks opens its first buffer.
 * Internal to comm. */
#ifndef CHOIR_COMM_EXCHANGE_H
#define CHOIR_COMM_EXCHANGE_H

#include "comm/internal.h"
#include "engine/base/status.h"

/* Collective over the group. Measures, on the leaders, and has all agree on what was fastest; says
 * so on rank 0 under --verbose. Does nothing on one node. FAIL_MEMORY, agreed on. */
int exchange_choose(comm_t *comm, fail_t *fail);

/* Collective over the leaders. Group g has filled comm->counts[g] bytes of data from
 * comm->displs[g] on; afterwards every leader has all. Groups' bytes follow each other without
 * gaps. */
void exchange_run(comm_t *comm, void *data);

#endif
