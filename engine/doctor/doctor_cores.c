/* Findings about cores: where ranks run, what is unused, and what is shared. */
#include <stdio.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/size.h"
#include "engine/doctor/doctor_internal.h"

#define PLACE_BYTES 128
#define COST_REMOTE_MEMORY 0.3
#define COST_HYPERTHREADS 0.1
#define COST_GOVERNOR 0.2

static bool finder_uses_slurm(const finder_t *f)
{
    return f->facts->ranks[0].host.in_slurm;
}

/* Flags that give each of so many ranks of a node so many cores. */
static const char *placed(const finder_t *f, size_t ranks, size_t cores, char text[PLACE_BYTES])
{
    snprintf(text, PLACE_BYTES,
        finder_uses_slurm(f) ? "srun --ntasks-per-node=%zu --cpus-per-task=%zu --cpu-bind=cores"
                             : "mpirun --map-by ppr:%zu:node:PE=%zu --bind-to core",
        ranks, cores);
    return text;
}

/* Cores of a node that bindings leave out although its ranks' parts are larger. */
static double binding_cost(const finder_t *f, size_t node)
{
    return doctor_lost(
        size_min(doctor_cores_of(f->facts, node, 1), doctor_usable_cores(f->facts, node)),
        doctor_usable_cores(f->facts, node));
}

static void check_binding(finder_t *f)
{
    size_t node, n;
    char more[OTHERS_BYTES], place[PLACE_BYTES];
    double cost = doctor_worst_node(f, binding_cost, &node, &n);
    if (cost < MIN_REPORTED_LOSS)
        return;
    const doctor_rank_t *rank = doctor_first_of(f, node);
    size_t ranks = f->facts->nodes[node].n_ranks, cores = doctor_usable_cores(f->facts, node);
    size_t each = size_max(cores / ranks, 1);
    doctor_finding_t *finding = doctor_add(f, "binding", DOCTOR_WARNING, cost,
        "%s%s: %zu rank%s bound to %zu of %zu cores; a rank runs %llu thread%s where %zu would fit",
        rank->host.name, doctor_others(n, more), ranks, plural(ranks),
        doctor_cores_of(f->facts, node, 1), cores, (unsigned long long)rank->threads,
        plural(rank->threads), each);
    doctor_fix(finding, "%s%s", placed(f, ranks, each, place),
        finder_uses_slurm(f) ? "" : ", or mpirun --bind-to none");
}

/* More threads than cores where several ranks have the same ones. */
static double shared_cost(const finder_t *f, size_t node)
{
    bool shared = doctor_cores_of(f->facts, node, 2) > 0;
    return shared ? doctor_lost(doctor_cores_of(f->facts, node, 1), doctor_threads(f->facts, node))
                  : 0;
}

static void check_shared_cores(finder_t *f)
{
    size_t node, n;
    char more[OTHERS_BYTES], place[PLACE_BYTES];
    double cost = doctor_worst_node(f, shared_cost, &node, &n);
    if (cost < MIN_REPORTED_LOSS)
        return;
    size_t ranks = f->facts->nodes[node].n_ranks, cores = doctor_cores(&f->facts->nodes[node]);
    size_t threads = doctor_threads(f->facts, node);
    doctor_finding_t *finding = doctor_add(f, "shared-cores", DOCTOR_WARNING, cost,
        "%s%s: %zu rank%s run %zu thread%s on %zu core%s, and share their time",
        doctor_host_of(f, node), doctor_others(n, more), ranks, plural(ranks), threads,
        plural(threads), doctor_cores_of(f->facts, node, 1),
        plural(doctor_cores_of(f->facts, node, 1)));
    if (ranks > cores)
        doctor_fix(finding, "at most %zu rank%s on this node: %s", cores, plural(cores),
            placed(f, cores, 1, place));
    else
        doctor_fix(finding, "--threads %zu, and %s", cores / ranks,
            placed(f, ranks, cores / ranks, place));
}

/* The number of ranks next to this one that shares so many cores out evenly. */
static size_t even_ranks(size_t cores, size_t ranks)
{
    for (size_t step = 0; step < cores; step++) {
        if (ranks + step <= cores && cores % (ranks + step) == 0)
            return ranks + step;
        if (ranks > step && cores % (ranks - step) == 0)
            return ranks - step;
    }
    return cores;
}

/* Cores that the ranks of a node may use; what a binding left out is another finding. */
static size_t open_cores(const finder_t *f, size_t node)
{
    return size_min(doctor_usable_cores(f->facts, node), doctor_cores_of(f->facts, node, 1));
}

static double unused_cost(const finder_t *f, size_t node)
{
    return doctor_lost(doctor_threads(f->facts, node), open_cores(f, node));
}

static void check_unused_cores(finder_t *f)
{
    size_t node, n;
    char more[OTHERS_BYTES], place[PLACE_BYTES];
    double cost = doctor_worst_node(f, unused_cost, &node, &n);
    if (cost < MIN_REPORTED_LOSS)
        return;
    size_t ranks = f->facts->nodes[node].n_ranks, cores = open_cores(f, node);
    size_t threads = doctor_threads(f->facts, node), better = even_ranks(cores, ranks);
    doctor_finding_t *finding = doctor_add(f, "unused-cores", DOCTOR_WARNING, cost,
        "%s%s: %zu thread%s on %zu cores leave %zu unused", doctor_host_of(f, node),
        doctor_others(n, more), threads, plural(threads), cores, cores - threads);
    if (cores / ranks * ranks > threads)
        doctor_fix(finding, "--threads %zu", cores / ranks);
    else
        doctor_fix(finding, "%zu rank%s of %zu thread%s: %s", better, plural(better),
            cores / better, plural(cores / better), placed(f, better, cores / better, place));
}

static void check_hyperthreads(finder_t *f)
{
    for (size_t n = 0; n < f->facts->n_nodes; n++) {
        size_t cores = doctor_cores(&f->facts->nodes[n]), ranks = f->facts->nodes[n].n_ranks;
        for (size_t r = 0; r < f->facts->n_ranks; r++) {
            const doctor_rank_t *rank = &f->facts->ranks[r];
            if (!doctor_is_on(f, r, n) || rank->threads <= rank->topology.bound_cores)
                continue;
            bool stacked = rank->threads > rank->topology.bound_pus;
            doctor_finding_t *finding = doctor_add(f, "hyperthreads", DOCTOR_WARNING,
                stacked ? doctor_lost(rank->topology.bound_pus, rank->threads) : COST_HYPERTHREADS,
                "%s: rank %zu runs %llu threads on %zu core%s", rank->host.name, r,
                (unsigned long long)rank->threads, rank->topology.bound_cores,
                plural(rank->topology.bound_cores));
            doctor_fix(finding, "--threads %zu",
                size_max(size_min(rank->topology.bound_cores, cores / ranks), 1));
            return;
        }
    }
}

static double quota_cost(const finder_t *f, size_t node)
{
    size_t granted = doctor_first_of(f, node)->topology.granted_cpus;
    return granted == 0 ? 0 : doctor_lost(granted, doctor_threads(f->facts, node));
}

static void check_quota(finder_t *f)
{
    size_t node, n;
    char more[OTHERS_BYTES];
    double cost = doctor_worst_node(f, quota_cost, &node, &n);
    for (size_t i = 0; cost < MIN_REPORTED_LOSS && i < f->facts->n_nodes; i++) {
        size_t granted = doctor_first_of(f, i)->topology.granted_cpus;
        size_t cores = doctor_cores(&f->facts->nodes[i]);
        if (granted == 0 || granted >= cores)
            continue;
        doctor_finding_t *note = doctor_add(f, "quota", DOCTOR_NOTE, 0,
            "%s: the control group grants the time of %zu of %zu cores", doctor_host_of(f, i),
            granted, cores);
        doctor_fix(note,
            "more for the container or job: docker run --cpus=%zu, resources.limits.cpu: %zu",
            cores, cores);
        return;
    }
    if (cost < MIN_REPORTED_LOSS)
        return;
    size_t granted = doctor_first_of(f, node)->topology.granted_cpus;
    size_t threads = doctor_threads(f->facts, node), ranks = f->facts->nodes[node].n_ranks;
    doctor_finding_t *finding = doctor_add(f, "quota", DOCTOR_WARNING, cost,
        "%s%s: the control group grants the time of %zu CPU%s to %zu threads, which stop when it is used up",
        doctor_host_of(f, node), doctor_others(n, more), granted, plural(granted), threads);
    if (granted >= ranks)
        doctor_fix(finding, "--threads %zu, or docker run --cpus=%zu", granted / ranks, threads);
    else
        doctor_fix(finding, "at most %zu rank%s on this node (mpirun -n), or docker run --cpus=%zu",
            granted, plural(granted), threads);
}

static size_t numa_nodes_of(const doctor_node_t *node, const doctor_rank_t *rank)
{
    size_t n = 0;
    for (size_t i = 0; i < node->n_pus; i++) {
        bool known = !doctor_may_use(rank, &node->pus[i]);
        for (size_t j = 0; j < i && !known; j++)
            known = node->pus[j].numa == node->pus[i].numa && doctor_may_use(rank, &node->pus[j]);
        n += !known;
    }
    return n;
}

static void check_numa(finder_t *f)
{
    for (size_t r = 0; r < f->facts->n_ranks; r++) {
        const doctor_rank_t *rank = &f->facts->ranks[r];
        size_t numa = numa_nodes_of(&f->facts->nodes[rank->node], rank);
        if (numa < 2)
            continue;
        doctor_finding_t *finding = doctor_add(f, "numa", DOCTOR_WARNING, COST_REMOTE_MEMORY,
            "%s: the threads of rank %zu may run on %zu NUMA nodes, away from their memory",
            rank->host.name, r, numa);
        doctor_fix(finding, "mpirun --map-by ppr:1:numa --bind-to numa, or choir's --bind numa");
        return;
    }
}

static void check_governor(finder_t *f)
{
    for (size_t n = 0; n < f->facts->n_nodes; n++) {
        const char *governor = doctor_first_of(f, n)->host.governor;
        /* The drivers of newer CPUs call by that name what follows the load. */
        if (strncmp(governor, "powersave", 9) != 0 || strstr(governor, "pstate") != NULL)
            continue;
        doctor_fix(
            doctor_add(f, "governor", DOCTOR_WARNING, COST_GOVERNOR,
                "%s: the clock of the cores is low (governor %s)", doctor_host_of(f, n), governor),
            "cpupower frequency-set -g performance");
        return;
    }
}

void doctor_find_cores(finder_t *f)
{
    check_binding(f);
    check_shared_cores(f);
    check_unused_cores(f);
    check_hyperthreads(f);
    check_quota(f);
    check_numa(f);
    check_governor(f);
}
