#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/doctor/doctor.h"

#define HOSTS_NAMED 16 /* of more nodes a file is shorter */

typedef struct shape {
    size_t ranks_per_node, threads;
} shape_t;

static void append(char *text, size_t text_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void append(char *text, size_t text_bytes, const char *format, ...)
{
    va_list args;
    size_t used = strlen(text);
    va_start(args, format);
    vsnprintf(text + used, text_bytes - used, format, args);
    va_end(args);
}

/* One rank a NUMA node where that can be had on every node; threads as the smallest allows. */
static shape_t choose_shape(const doctor_facts_t *facts)
{
    shape_t shape = {SIZE_MAX, SIZE_MAX};
    for (size_t n = 0; n < facts->n_nodes; n++) {
        size_t cores = doctor_usable_cores(facts, n);
        size_t numa = size_max(doctor_numa_nodes(&facts->nodes[n]), 1);
        shape.ranks_per_node = size_min(shape.ranks_per_node, size_min(numa, cores));
    }
    for (size_t n = 0; n < facts->n_nodes; n++)
        shape.threads =
            size_min(shape.threads, doctor_usable_cores(facts, n) / shape.ranks_per_node);
    shape.threads = size_max(shape.threads, 1);
    return shape;
}

/* Nodes that a test makes up have no names of their own. */
static bool nodes_have_names(const doctor_facts_t *facts)
{
    for (size_t a = 0; a < facts->n_nodes; a++)
        for (size_t b = 0; b < a; b++)
            if (strcmp(facts->ranks[facts->nodes[a].first_rank].host.name,
                    facts->ranks[facts->nodes[b].first_rank].host.name) == 0)
                return false;
    return true;
}

static void append_hosts(const doctor_facts_t *facts, shape_t shape, char *text, size_t text_bytes)
{
    if (facts->n_nodes == 1)
        return;
    if (facts->n_nodes > HOSTS_NAMED || !nodes_have_names(facts)) {
        append(text, text_bytes, " --hostfile FILE");
        return;
    }
    for (size_t n = 0; n < facts->n_nodes; n++)
        append(text, text_bytes, "%s%s:%zu", n == 0 ? " --host " : ",",
            facts->ranks[facts->nodes[n].first_rank].host.name, shape.ranks_per_node);
}

static void append_choir_flags(const doctor_findings_t *findings, char *text, size_t text_bytes)
{
    for (size_t i = 0; i < findings->n; i++)
        if (findings->items[i].choir[0] != '\0')
            append(text, text_bytes, " %s", findings->items[i].choir);
}

void doctor_command(
    const doctor_facts_t *facts, const doctor_findings_t *findings, char *text, size_t text_bytes)
{
    shape_t shape = choose_shape(facts);
    const doctor_host_t *host = &facts->ranks[0].host;
    size_t ranks = shape.ranks_per_node * facts->n_nodes;
    bool whole = true; /* every core of every node is a thread's: then binding names them */
    for (size_t n = 0; n < facts->n_nodes; n++)
        whole = whole && doctor_usable_cores(facts, n) == doctor_cores(&facts->nodes[n]);
    text[0] = '\0';
    if (host->in_slurm) {
        append(text, text_bytes,
            "srun --mpi=pmix -N %zu -n %zu --ntasks-per-node=%zu --cpus-per-task=%zu "
            "--hint=nomultithread --cpu-bind=cores choir ...",
            facts->n_nodes, ranks, shape.ranks_per_node, shape.threads);
        append_choir_flags(findings, text, text_bytes);
        return;
    }
    append(text, text_bytes, "mpirun -n %zu", ranks);
    if (host->is_root)
        append(text, text_bytes, " --allow-run-as-root");
    append_hosts(facts, shape, text, text_bytes);
    if (whole && ranks > 1)
        append(text, text_bytes, " --map-by ppr:%zu:node:PE=%zu --bind-to core",
            shape.ranks_per_node, shape.threads);
    else
        append(text, text_bytes, " --map-by ppr:%zu:node --bind-to none", shape.ranks_per_node);
    for (size_t i = 0; i < findings->n; i++)
        if (findings->items[i].mpirun[0] != '\0')
            append(text, text_bytes, " %s", findings->items[i].mpirun);
    append(text, text_bytes, " choir ...");
    if (!whole)
        append(text, text_bytes, " --threads %zu", shape.threads);
    append_choir_flags(findings, text, text_bytes);
}
