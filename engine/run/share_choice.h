/* The shares of ranks: from --shares, or measured. */
#ifndef CHOIR_RUN_SHARE_CHOICE_H
#define CHOIR_RUN_SHARE_CHOICE_H

#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/base/team.h"

typedef struct share_group {
    comm_t *replica; /* the ranks that one copy of the model is split over */
    comm_t *all;     /* of all replicas that open together; the same as replica when it is alone */
    /* The ranks with this rank's number in the replicas that have one copy of its weights, and so
     * need the same plan, which the slowest of them decides; NULL: none. */
    comm_t *weight_sharers;
} share_group_t;

/* Collective over all; failures are agreed on. text: NULL or "even"; "auto": in proportion to the
 * memory bandwidth of each rank's team, all ranks reading at the same time for about a third of a
 * second; or numbers, one for each rank of a replica and equal for all replicas
 * (sharding/rank_shares.h). shares: [size of replica] written, the same on all its ranks; all 1 for
 * even shares. */
int share_choice(
    const share_group_t *group, team_t *team, const char *text, size_t *shares, fail_t *fail);

#endif
