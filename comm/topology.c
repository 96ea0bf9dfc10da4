#include "comm/topology.h"

#include <hwloc.h>
#include <stdarg.h>
#include <stdio.h>

#include "comm/cgroup.h"
#include "engine/base/size.h"

/* Cores with at least one hardware thread in the set. Machines that tell nothing about cores (some
 * virtual ones) count hardware threads instead. */
static size_t count_cores(hwloc_topology_t machine, hwloc_const_cpuset_t set)
{
    size_t cores = 0;
    hwloc_obj_t core = NULL;
    while ((core = hwloc_get_next_obj_by_type(machine, HWLOC_OBJ_CORE, core)) != NULL)
        cores += hwloc_bitmap_intersects(core->cpuset, set) != 0;
    return cores != 0 ? cores : (size_t)hwloc_bitmap_weight(set);
}

/* Size of the cache of this type that serves the first hardware thread of the set. */
static size_t cache_bytes(hwloc_topology_t machine, hwloc_obj_type_t type, hwloc_const_cpuset_t set)
{
    hwloc_obj_t cache = NULL;
    unsigned first = (unsigned)hwloc_bitmap_first(set);
    while ((cache = hwloc_get_next_obj_by_type(machine, type, cache)) != NULL)
        if (hwloc_bitmap_isset(cache->cpuset, first))
            return (size_t)cache->attr->cache.size;
    return 0;
}

static void describe(hwloc_topology_t machine, hwloc_const_cpuset_t bound, topology_t *topology)
{
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(machine);
    *topology = (topology_t){
        .node_cores = count_cores(machine, allowed),
        .node_pus = (size_t)hwloc_bitmap_weight(allowed),
        .bound_cores = count_cores(machine, bound),
        .bound_pus = (size_t)hwloc_bitmap_weight(bound),
        .bound = !hwloc_bitmap_isequal(bound, allowed),
        .granted_cpus = cgroup_cpus("/proc/self/cgroup", "/sys/fs/cgroup"),
        .l2_bytes = cache_bytes(machine, HWLOC_OBJ_L2CACHE, bound),
        .l3_bytes = cache_bytes(machine, HWLOC_OBJ_L3CACHE, bound),
        .memory_bytes = (size_t)hwloc_get_root_obj(machine)->total_memory,
    };
}

int topology_read(topology_t *topology, fail_t *fail)
{
    hwloc_topology_t machine;
    *topology = (topology_t){0};
    if (hwloc_topology_init(&machine) != 0)
        return fail_set(fail, FAIL_INTERNAL, "hwloc: cannot start");
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    if (bound == NULL || hwloc_topology_load(machine) != 0) {
        fail_set(fail, FAIL_INTERNAL, "hwloc: cannot read this machine's topology");
    } else {
        hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(machine);
        /* Where a system cannot tell, nothing is bound. */
        if (hwloc_get_cpubind(machine, bound, HWLOC_CPUBIND_PROCESS) != 0)
            hwloc_bitmap_copy(bound, allowed);
        hwloc_bitmap_and(bound, bound, allowed);
        if (hwloc_bitmap_iszero(bound))
            hwloc_bitmap_copy(bound, allowed);
        describe(machine, bound, topology);
    }
    hwloc_bitmap_free(bound);
    hwloc_topology_destroy(machine);
    return fail->status;
}

size_t topology_threads(const topology_t *topology, size_t requested, size_t ranks_sharing)
{
    if (requested != 0)
        return requested;
    size_t threads = topology->bound_cores / size_max(ranks_sharing, 1);
    if (topology->granted_cpus != 0)
        threads = size_min(threads, topology->granted_cpus / size_max(ranks_sharing, 1));
    return size_max(threads, 1);
}

static const char *plural(size_t n)
{
    return n == 1 ? "" : "s";
}

void topology_advice(
    const topology_t *topology, size_t threads, size_t ranks_on_node, char *text, size_t text_bytes)
{
    size_t ranks = size_max(ranks_on_node, 1);
    size_t fair = size_max(topology->node_cores / ranks, 1); /* cores of the node for each rank */
    size_t granted = topology->granted_cpus;
    text[0] = '\0';
    if (topology->bound && topology->bound_cores < fair && threads <= fair)
        snprintf(text, text_bytes,
            "this rank is bound to %zu core%s while the node has %zu for %zu rank%s; start with "
            "mpirun "
            "--bind-to none, or --map-by slot:PE=%zu --bind-to core",
            topology->bound_cores, plural(topology->bound_cores), topology->node_cores, ranks,
            plural(ranks), fair);
    else if (threads > topology->bound_pus)
        snprintf(text, text_bytes,
            "%zu threads of this rank share %zu hardware thread%s; choose --threads %zu or fewer%s",
            threads, topology->bound_pus, plural(topology->bound_pus), topology->bound_cores,
            topology->bound ? ", or start with mpirun --bind-to none" : "");
    else if (threads * ranks > topology->node_pus && threads == 1)
        snprintf(text, text_bytes,
            "%zu ranks share the %zu hardware thread%s of this node and wait for each other; "
            "choose fewer ranks",
            ranks, topology->node_pus, plural(topology->node_pus));
    else if (threads * ranks > topology->node_pus)
        snprintf(text, text_bytes,
            "%zu ranks of %zu thread%s share the %zu hardware thread%s of this node; choose fewer "
            "ranks "
            "or --threads %zu",
            ranks, threads, plural(threads), topology->node_pus, plural(topology->node_pus), fair);
    else if (granted != 0 && threads * ranks > granted)
        snprintf(text, text_bytes,
            "%zu rank%s of %zu thread%s share a quota of %zu CPU%s (control group); expect stalls",
            ranks, plural(ranks), threads, plural(threads), granted, plural(granted));
}
