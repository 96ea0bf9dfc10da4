/* Memory with one copy on each node for all ranks of a group: weights that several replicas of a
 * model read. Unlike the windows of comm_buffer_t it has huge pages and synchronises nothing. */
#ifndef CHOIR_COMM_SHARED_H
#define CHOIR_COMM_SHARED_H

#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"

typedef struct comm_shared comm_shared_t;

/* Collective over comm. Zeroed, aligned to 64 bytes and more, at an address of each process's own;
 * each rank takes a part of the pages on its NUMA node. comm_node_size(comm) ranks see the same
 * copy. FAIL_MEMORY, on all ranks, where the system does not let processes share memory; the caller
 * can then use memory of its own. */
int comm_shared_open(comm_shared_t **shared, comm_t *comm, size_t bytes, fail_t *fail);

/* Local. Others keep the memory as long as they have it open. NULL is allowed. */
void comm_shared_close(comm_shared_t *shared);

void *comm_shared_data(const comm_shared_t *shared);

#endif
