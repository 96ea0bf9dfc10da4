/* One of D replicas of a model over the ranks of a group, each split over T of them: rank r belongs to replica r / T.
 *
 * A replica owns its group, of the ranks that share weights with it, and its engine. */
#ifndef CHOIR_RUN_REPLICA_H
#define CHOIR_RUN_REPLICA_H

#include <stdbool.h>
#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/run/engine.h"

typedef struct replica_options {
    engine_options_t engine; /* of every replica; all_replicas and weight_sharers are ignored */
    size_t n_replicas;       /* divides the number of ranks */
    bool own_weights;        /* else replicas on a node have one copy of each share of weights */
    comm_path_t path;
} replica_options_t;

typedef struct replica {
    comm_t *comm; /* its ranks: the group itself where it is the only one */
    comm_t *
        weight_sharers; /* those with this rank's number in the other replicas; NULL: no one shares */
    engine_t *engine;
    bool owns_comm;
} replica_t;

/* Collective over comm. Failures are agreed on by all of it; replica_close is still to be called. */
int replica_open(replica_t *replica, comm_t *comm, const replica_options_t *options, fail_t *fail);
void replica_close(replica_t *replica);

#endif
