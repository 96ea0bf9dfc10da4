/* What a process knows of its run from the launcher, before MPI starts. */
#ifndef CHOIR_COMM_LAUNCHED_H
#define CHOIR_COMM_LAUNCHED_H

#include <stdbool.h>
#include <stddef.h>

/* The rank and the number of ranks that mpirun or srun has put into the environment: 0 and 1 where
 * there is none. */
int launched_rank(void);
int launched_size(void);

/* A rank of this host that is stopped, started by the same launcher as this process. */
typedef struct launched_peer {
    int pid, rank; /* rank: -1 when unknown */
} launched_peer_t;

/* Looks through /proc. *peer: the one with the lowest process id. */
bool launched_find_stopped(launched_peer_t *peer);

/* Whether this process prints the message for the ranks of this host that the launcher has started:
 * true for the first that calls this. Holds until the process ends. */
bool launched_may_speak(void);

#endif
