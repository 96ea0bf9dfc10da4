#include "comm/topology.h"

#include <hwloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "comm/cgroup.h"
#include "engine/base/log.h"
#include "engine/base/size.h"

/* Cores with at least one hardware thread in the set. Hardware threads, on machines without
 * information on cores (some virtual ones). */
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

/* The machine, and the part that this process is bound to. Both are to be freed, also on
 * failure. */
static int load_machine(hwloc_topology_t *machine, hwloc_bitmap_t *bound, fail_t *fail)
{
    *bound = NULL;
    if (hwloc_topology_init(machine) != 0) {
        *machine = NULL;
        return fail_set(fail, FAIL_INTERNAL, "hwloc: cannot start");
    }
    *bound = hwloc_bitmap_alloc();
    if (*bound == NULL || hwloc_topology_load(*machine) != 0)
        return fail_set(fail, FAIL_INTERNAL, "hwloc: cannot read this machine's topology");
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(*machine);
    /* Where the system does not report a binding, there is none. */
    if (hwloc_get_cpubind(*machine, *bound, HWLOC_CPUBIND_PROCESS) != 0)
        hwloc_bitmap_copy(*bound, allowed);
    hwloc_bitmap_and(*bound, *bound, allowed);
    if (hwloc_bitmap_iszero(*bound))
        hwloc_bitmap_copy(*bound, allowed);
    return 0;
}

static void free_machine(hwloc_topology_t machine, hwloc_bitmap_t bound)
{
    hwloc_bitmap_free(bound);
    if (machine != NULL)
        hwloc_topology_destroy(machine);
}

int topology_read(topology_t *topology, fail_t *fail)
{
    hwloc_topology_t machine;
    hwloc_bitmap_t bound;
    *topology = (topology_t){0};
    if (load_machine(&machine, &bound, fail) == 0)
        describe(machine, bound, topology);
    free_machine(machine, bound);
    return fail->status;
}

/* ---- Hardware threads ------------------------------------------------------------------------ */

static uint16_t os_index(hwloc_obj_t object)
{
    return object == NULL || object->os_index == HWLOC_UNKNOWN_INDEX ? 0
                                                                     : (uint16_t)object->os_index;
}

static hwloc_obj_t numa_of(hwloc_topology_t machine, hwloc_obj_t pu)
{
    hwloc_obj_t node = NULL;
    while ((node = hwloc_get_next_obj_by_type(machine, HWLOC_OBJ_NUMANODE, node)) != NULL)
        if (hwloc_bitmap_isset(node->cpuset, pu->os_index))
            return node;
    return NULL;
}

int topology_pus(topology_pu_t **pus, size_t *n_pus, fail_t *fail)
{
    hwloc_topology_t machine;
    hwloc_bitmap_t bound;
    *pus = NULL;
    *n_pus = 0;
    if (load_machine(&machine, &bound, fail) == 0) {
        hwloc_obj_t pu = NULL;
        size_t n = (size_t)hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_PU);
        *pus = calloc(n, sizeof **pus);
        if (*pus == NULL)
            fail_set(fail, FAIL_MEMORY, "topology of %zu hardware threads: out of memory", n);
        while (*pus != NULL && *n_pus < n &&
               (pu = hwloc_get_next_obj_by_type(machine, HWLOC_OBJ_PU, pu)) != NULL) {
            hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(machine, HWLOC_OBJ_CORE, pu);
            (*pus)[(*n_pus)++] = (topology_pu_t){.os = os_index(pu),
                .core = (uint16_t)(core != NULL ? core : pu)->logical_index,
                .numa = os_index(numa_of(machine, pu)),
                .package =
                    os_index(hwloc_get_ancestor_obj_by_type(machine, HWLOC_OBJ_PACKAGE, pu))};
        }
    }
    free_machine(machine, bound);
    return fail->status;
}

/* ---- Binding of threads ---------------------------------------------------------------------- */

struct topology_binding {
    hwloc_topology_t machine;
    hwloc_bitmap_t bound;
    size_t n_threads;
    hwloc_bitmap_t *places; /* [n_threads] */
};

/* The n-th object of a type that has hardware threads in the binding; NULL beyond the last. */
static hwloc_obj_t nth_bound(const topology_binding_t *b, hwloc_obj_type_t type, size_t n)
{
    hwloc_obj_t object = NULL;
    while ((object = hwloc_get_next_obj_by_type(b->machine, type, object)) != NULL)
        if (hwloc_bitmap_intersects(object->cpuset, b->bound) && n-- == 0)
            return object;
    return NULL;
}

static size_t count_bound(const topology_binding_t *b, hwloc_obj_type_t type)
{
    size_t n = 0;
    while (nth_bound(b, type, n) != NULL)
        n++;
    return n;
}

static int choose_places(
    topology_binding_t *b, topology_bind_t bind, size_t index, size_t ranks_sharing, fail_t *fail)
{
    /* Machines without information on cores count hardware threads. */
    hwloc_obj_type_t type = HWLOC_OBJ_NUMANODE;
    if (bind == TOPOLOGY_BIND_CORE)
        type = count_bound(b, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    size_t n = count_bound(b, type), wanted = b->n_threads * ranks_sharing;
    if (bind == TOPOLOGY_BIND_CORE && wanted > n)
        return fail_set(fail, FAIL_USAGE,
            "--bind core: %zu rank%s of %zu thread%s would share %zu core%s, so that a core would be bound twice; choose %s or --bind none",
            ranks_sharing, plural(ranks_sharing), b->n_threads, plural(b->n_threads), n, plural(n),
            n < ranks_sharing ? "fewer ranks" : "fewer --threads");
    for (size_t t = 0; t < b->n_threads && n > 0; t++) {
        size_t place = index * b->n_threads + t;
        hwloc_obj_t object =
            nth_bound(b, type, bind == TOPOLOGY_BIND_CORE ? place : place * n / wanted);
        hwloc_bitmap_and(b->places[t], object->cpuset, b->bound);
    }
    return 0;
}

int topology_binding_open(topology_binding_t **binding, topology_bind_t bind, size_t n_threads,
    size_t index, size_t ranks_sharing, fail_t *fail)
{
    topology_binding_t *b = calloc(1, sizeof *b);
    *binding = NULL;
    if (b == NULL)
        return fail_set(fail, FAIL_MEMORY, "binding of %zu threads: out of memory", n_threads);
    b->n_threads = n_threads;
    b->places = calloc(n_threads, sizeof *b->places);
    bool complete = b->places != NULL;
    if (load_machine(&b->machine, &b->bound, fail) == 0)
        for (size_t t = 0; t < n_threads && complete; t++)
            complete = (b->places[t] = hwloc_bitmap_dup(b->bound)) != NULL;
    if (!complete)
        fail_set(fail, FAIL_MEMORY, "binding of %zu threads: out of memory", n_threads);
    if (fail->status == 0 && bind != TOPOLOGY_BIND_NONE)
        choose_places(b, bind, index, size_max(ranks_sharing, 1), fail);
    if (fail->status != 0) {
        topology_binding_close(b);
        return fail->status;
    }
    *binding = b;
    return 0;
}

void topology_binding_apply(const topology_binding_t *b, size_t thread)
{
    hwloc_set_cpubind(b->machine, b->places[thread], HWLOC_CPUBIND_THREAD);
}

static void apply_to_thread(void *context, size_t thread)
{
    topology_binding_apply(context, thread);
}

void topology_binding_apply_team(const topology_binding_t *binding, team_t *team)
{
    team_run(team, apply_to_thread, (void *)binding);
}

void topology_binding_close(topology_binding_t *b)
{
    if (b == NULL)
        return;
    for (size_t t = 0; b->places != NULL && t < b->n_threads; t++)
        hwloc_bitmap_free(b->places[t]);
    free(b->places);
    free_machine(b->machine, b->bound);
    free(b);
}

size_t topology_usable_cores(const topology_t *topology)
{
    return topology->granted_cpus == 0 ? topology->node_cores
                                       : size_min(topology->node_cores, topology->granted_cpus);
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
