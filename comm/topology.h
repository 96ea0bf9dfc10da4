/* Cores, caches and binding of this process, read through hwloc (the only file that includes
 * hwloc.h). Local functions; call them from one thread. */
#ifndef CHOIR_COMM_TOPOLOGY_H
#define CHOIR_COMM_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/team.h"

typedef struct topology {
    size_t
        node_cores;  /* physical cores of the node this process may use at all (cgroup, machine) */
    size_t node_pus; /* hardware threads, likewise */
    size_t bound_cores; /* cores in this process's binding; node_cores when it is not bound */
    size_t bound_pus;
    bool bound; /* the binding is narrower than the node */
    size_t
        granted_cpus; /* CPUs' worth of time that the control group's quota leaves; 0: no quota */
    size_t l2_bytes;  /* per core; 0 when unknown */
    size_t l3_bytes;  /* of one cache; 0 when unknown */
    size_t memory_bytes; /* of the node */
} topology_t;

int topology_read(topology_t *topology, fail_t *fail);

/* One hardware thread that this process may use at all, and where it is. Plain data. */
typedef struct topology_pu {
    uint16_t os;            /* number that the system has for it, as in /proc/cpuinfo */
    uint16_t core;          /* from 0 in the machine's order; the thread's own place where cores are
                             * unknown */
    uint16_t numa, package; /* the system's numbers; 0 where unknown */
} topology_pu_t;

/* Those of the node, by package, NUMA node and core. The caller frees *pus, [*n_pus]. */
int topology_pus(topology_pu_t **pus, size_t *n_pus, fail_t *fail);

/* Cores of the node, or what the control group's quota leaves of them. */
size_t topology_usable_cores(const topology_t *topology);

/* Threads that a rank should run: `requested`, unless that is 0; then its part of the cores it is
 * bound to, and of the control group's quota, at least 1. ranks_sharing: ranks whose bindings
 * overlap with this one's, itself included (comm_binding_ranks). */
size_t topology_threads(const topology_t *topology, size_t requested, size_t ranks_sharing);

/* --bind: where the threads of a rank may run, within the rank's own binding. */
typedef enum topology_bind {
    TOPOLOGY_BIND_NONE, /* anywhere in it */
    TOPOLOGY_BIND_CORE, /* each on a core of its own */
    TOPOLOGY_BIND_NUMA  /* each within a NUMA node, spread evenly over the binding's nodes */
} topology_bind_t;

typedef struct topology_binding topology_binding_t;

/* Chooses hardware threads for n_threads threads of this rank, which is number `index` of
 * `ranks_sharing` whose bindings overlap (comm_binding_index, comm_binding_ranks). FAIL_USAGE when
 * a core would be bound twice, with figures. */
int topology_binding_open(topology_binding_t **binding, topology_bind_t bind, size_t n_threads,
    size_t index, size_t ranks_sharing, fail_t *fail);
/* Binds the calling thread to the hardware threads chosen for thread `thread`; does nothing where
 * the system refuses. */
void topology_binding_apply(const topology_binding_t *binding, size_t thread);
/* Likewise each thread of the team. */
void topology_binding_apply_team(const topology_binding_t *binding, team_t *team);
void topology_binding_close(topology_binding_t *binding);

/* One sentence about what is wasted or shared by this binding and number of threads, or an empty
 * string: "this rank is bound to 1 core while the node has 64 for 2 ranks; start with mpirun
 * --bind-to none, or ...". ranks_on_node: all of them (comm_node_size). */
void topology_advice(const topology_t *topology, size_t threads, size_t ranks_on_node, char *text,
    size_t text_bytes);

#endif
