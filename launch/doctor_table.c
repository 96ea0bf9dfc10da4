#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/kernels/kernels.h"
#include "engine/run/weights_choice.h"
#include "launch/doctor_report.h"

#define GIB 1073741824.0
#define NODES_DRAWN 8
#define RANKS_LISTED 64

/* ---- Nodes ----------------------------------------------------------------------------------- */

/* Whether two cores, given by their first hardware threads, are open to the same ranks. */
static bool same_ranks(
    const doctor_facts_t *facts, size_t node, const topology_pu_t *a, const topology_pu_t *b)
{
    for (size_t r = 0; r < facts->n_ranks; r++)
        if ((size_t)facts->ranks[r].node == node &&
            doctor_may_use(&facts->ranks[r], a) != doctor_may_use(&facts->ranks[r], b))
            return false;
    return true;
}

static void print_range(const char *one, const char *many, size_t first, size_t last, FILE *out)
{
    if (first == last)
        fprintf(out, "%s %zu", one, first);
    else
        fprintf(out, "%s %zu-%zu", many, first, last);
}

/* Of consecutive ranks the first and the last. */
static void print_users(
    const doctor_facts_t *facts, size_t node, const topology_pu_t *pu, FILE *out)
{
    size_t users = 0;
    for (size_t r = 0; r < facts->n_ranks; r++) {
        const doctor_rank_t *rank = &facts->ranks[r];
        if ((size_t)rank->node != node || !doctor_may_use(rank, pu))
            continue;
        size_t last = r;
        while (last + 1 < facts->n_ranks && (size_t)facts->ranks[last + 1].node == node &&
               doctor_may_use(&facts->ranks[last + 1], pu))
            last++;
        fputs(users == 0 ? "  " : ", ", out);
        print_range("rank", "ranks", r, last, out);
        users += last - r + 1;
        r = last;
    }
    if (users == 0)
        fputs("  unused", out);
    if (users > 1)
        fputs(" (shared)", out);
}

/* A line for cores [i, end) of the same place and the same ranks. */
static size_t print_cores(const doctor_facts_t *facts, size_t node, size_t i, FILE *out)
{
    const doctor_node_t *n = &facts->nodes[node];
    const topology_pu_t *first = &n->pus[i];
    size_t end = i + 1;
    while (end < n->n_pus && n->pus[end].package == first->package &&
           n->pus[end].numa == first->numa && same_ranks(facts, node, first, &n->pus[end]))
        end++;
    fputs("      ", out);
    print_range("Core", "Cores", first->core, n->pus[end - 1].core, out);
    bool consecutive = true;
    for (size_t p = i + 1; p < end; p++)
        consecutive = consecutive && n->pus[p].os == n->pus[p - 1].os + 1;
    if (consecutive && end - i > 1)
        fprintf(out, "  PU %u-%u", n->pus[i].os, n->pus[end - 1].os);
    else
        for (size_t p = i; p < end; p++)
            fprintf(out, "%s%u", p == i ? "  PU " : " ", n->pus[p].os);
    print_users(facts, node, first, out);
    fputc('\n', out);
    return end;
}

static void print_machine(const doctor_facts_t *facts, size_t node, FILE *out)
{
    const doctor_node_t *n = &facts->nodes[node];
    for (size_t i = 0; i < n->n_pus;) {
        bool package = i == 0 || n->pus[i].package != n->pus[i - 1].package;
        if (package)
            fprintf(out, "  Package %u\n", n->pus[i].package);
        if (package || n->pus[i].numa != n->pus[i - 1].numa)
            fprintf(out, "    NUMA node %u\n", n->pus[i].numa);
        i = print_cores(facts, node, i, out);
    }
}

static void print_interfaces(const doctor_host_t *host, FILE *out)
{
    fputs("  network:", out);
    for (int i = 0; i < host->n_interfaces; i++) {
        const interface_t *one = &host->interfaces[i];
        fprintf(out, "%s %s %s", i == 0 ? "" : ",", one->name, interface_kind_name(one->kind));
        if (one->bits_per_s > 0)
            fprintf(out, " %g Gbit/s", one->bits_per_s * 1e-9);
        if (one->address[0] != '\0')
            fprintf(out, " %s", one->address);
        if (!one->up)
            fputs(" (down)", out);
    }
    fputc('\n', out);
}

static void print_limits(const doctor_rank_t *rank, FILE *out)
{
    const doctor_host_t *host = &rank->host;
    fprintf(out, "  /dev/shm %.2f of %.2f GiB free, ulimit -l ", (double)host->shm_free_bytes / GIB,
        (double)host->shm_bytes / GIB);
    if (host->memlock_bytes == DOCTOR_UNLIMITED)
        fputs("unlimited", out);
    else
        fprintf(out, "%.0f KiB", (double)host->memlock_bytes / 1024);
    fprintf(out, ", huge pages %s, quota ", doctor_pages_name(host->pages));
    if (rank->topology.granted_cpus == 0)
        fputs("none", out);
    else
        fprintf(out, "%zu CPUs", rank->topology.granted_cpus);
    fputc('\n', out);
}

static void print_node(const doctor_facts_t *facts, size_t node, FILE *out)
{
    const doctor_node_t *n = &facts->nodes[node];
    const doctor_rank_t *rank = &facts->ranks[n->first_rank];
    const doctor_host_t *host = &rank->host;
    size_t cores = doctor_cores(n), numa = doctor_numa_nodes(n);
    fprintf(out, "\nMachine %zu  %s: %s, %zu core%s, %zu NUMA node%s, %.1f GiB (%.1f free)\n", node,
        host->name, host->cpu[0] != '\0' ? host->cpu : "unknown CPU", cores, plural(cores), numa,
        plural(numa), (double)host->memory_total_bytes / GIB,
        (double)host->memory_available_bytes / GIB);
    print_machine(facts, node, out);
    fprintf(out, "  instruction sets up to %s", isa_name(rank->isa));
    if (host->mhz > 0)
        fprintf(out, ", %.0f MHz", host->mhz);
    if (host->governor[0] != '\0')
        fprintf(out, " (%s)", host->governor);
    fprintf(out, ", wall clock %+.3f s\n", rank->ahead_s);
    print_limits(rank, out);
    print_interfaces(host, out);
    fprintf(out, "  messages: %s; libraries: %s\n", rank->transports, host->libraries);
}

/* ---- Ranks ----------------------------------------------------------------------------------- */

static void print_rank(const doctor_facts_t *facts, size_t r, FILE *out)
{
    const doctor_rank_t *rank = &facts->ranks[r];
    fprintf(out, "%-6zu %-18.18s %7llu %7zu %10.1f %12.0f", r, rank->host.name,
        (unsigned long long)rank->threads, rank->topology.bound_cores,
        rank->read_bytes_per_s * 1e-9, rank->flop_per_s * 1e-9);
    if (facts->has_model)
        fprintf(out, " %12.2f %10.2f", (double)rank->weight_bytes / GIB,
            (double)rank->kv_bytes_per_token * (double)facts->kv_tokens / GIB);
    fputc('\n', out);
}

/* Of which --weights auto makes its choice. */
static void print_weights(const doctor_facts_t *facts, FILE *out)
{
    weights_rates_t rates = doctor_weights_rates(facts);
    if (rates.dense > 0 && rates.packed > 0)
        fprintf(out,
            "slowest rank, a row of activations: %.2f dense, %.2f packed billion weights/s a thread%s; packed ones decode at %.2f of the speed, --weights auto chooses %s\n",
            rates.dense * 1e-9, rates.packed * 1e-9, rates.given ? ", as given" : "",
            rates.packed / rates.dense,
            weights_packed_is_faster(1 / rates.dense, 1 / rates.packed) ? "packed" : "dense");
}

static void print_ranks(const doctor_facts_t *facts, FILE *out)
{
    fprintf(out, "\n%-6s %-18s %7s %7s %10s %12s", "rank", "host", "threads", "cores", "read GB/s",
        "bf16 GFLOP/s");
    if (facts->has_model)
        fprintf(out, " %12s %10s", "weights GiB", "cache GiB");
    fputc('\n', out);
    for (size_t r = 0; r < facts->n_ranks && r < RANKS_LISTED; r++)
        print_rank(facts, r, out);
    if (facts->n_ranks > RANKS_LISTED)
        fprintf(out, "and %zu more (--json has all)\n", facts->n_ranks - RANKS_LISTED);
    print_weights(facts, out);
}

/* ---- Between ranks --------------------------------------------------------------------------- */

static const ping_t *ping_of(const doctor_facts_t *facts, int a, int b)
{
    for (size_t i = 0; i < facts->n_pings; i++)
        if (facts->pings[i].a == a && facts->pings[i].b == b)
            return &facts->pings[i];
    return NULL;
}

/* Above the diagonal latency, below it bandwidth. */
static void print_matrix(const doctor_facts_t *facts, FILE *out)
{
    int n = (int)facts->n_ranks;
    fprintf(out,
        "\nBetween ranks, above the diagonal latency (us), below it bandwidth (GB/s)\n%-6s", "");
    for (int b = 0; b < n; b++)
        fprintf(out, " %7d", b);
    fputc('\n', out);
    for (int a = 0; a < n; a++) {
        fprintf(out, "%-6d", a);
        for (int b = 0; b < n; b++) {
            const ping_t *ping = ping_of(facts, a < b ? a : b, a < b ? b : a);
            if (ping == NULL)
                fprintf(out, " %7s", "-");
            else if (a < b)
                fprintf(out, " %7.1f", ping->latency_s * 1e6);
            else
                fprintf(out, " %7.2f", ping->bytes_per_s * 1e-9);
        }
        fputc('\n', out);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the pairs within nodes, or of those between them: how many, spread, and what carries them. */
static void print_kind(const doctor_facts_t *facts, bool within, FILE *out)
{
    double latencies[PING_MOST_PAIRS], rates[PING_MOST_PAIRS];
    char ways[256] = "";
    size_t n = 0;
    for (size_t i = 0; i < facts->n_pings && n < PING_MOST_PAIRS; i++) {
        const ping_t *ping = &facts->pings[i];
        const char *way = ping->way[0] != '\0' ? ping->way : within ? "shared memory" : "unknown";
        size_t used = strlen(ways);
        if ((facts->ranks[ping->a].node == facts->ranks[ping->b].node) != within)
            continue;
        latencies[n] = ping->latency_s * 1e6;
        rates[n++] = ping->bytes_per_s * 1e-9;
        if (strstr(ways, way) == NULL)
            snprintf(ways + used, sizeof ways - used, "%s%s", used > 0 ? ", " : "", way);
    }
    if (n == 0)
        return;
    qsort(latencies, n, sizeof *latencies, by_value);
    qsort(rates, n, sizeof *rates, by_value);
    fprintf(out,
        "%s nodes, %zu pair%s over %s: latency %.1f us (%.1f to %.1f), bandwidth %.2f GB/s (%.2f "
        "to "
        "%.2f)\n",
        within ? "within" : "between", n, plural(n), ways, latencies[n / 2], latencies[0],
        latencies[n - 1], rates[n / 2], rates[0], rates[n - 1]);
}

/* ---- Findings -------------------------------------------------------------------------------- */

static void print_findings(const doctor_findings_t *findings, FILE *out)
{
    if (findings->n == 0)
        fputs("\nNothing found that should be changed.\n", out);
    else
        fprintf(out, "\n%zu finding%s, the costliest first\n", findings->n, plural(findings->n));
    for (size_t i = 0; i < findings->n; i++) {
        const doctor_finding_t *finding = &findings->items[i];
        fprintf(out, "%2zu. %s", i + 1, doctor_severity_name(finding->severity));
        if (finding->severity != DOCTOR_BAD && finding->cost > 0)
            fprintf(out, ", about %.0f%%", 100 * finding->cost);
        fprintf(out, " [%s]\n    %s\n    fix: %s\n", finding->name, finding->what, finding->fix);
    }
}

void doctor_print(
    const doctor_facts_t *facts, const doctor_findings_t *findings, const char *command, FILE *out)
{
    const doctor_rank_t *first = &facts->ranks[0];
    fprintf(out, "choir %s, %s\n%zu rank%s on %zu node%s\n", first->choir, first->mpi,
        facts->n_ranks, plural(facts->n_ranks), facts->n_nodes, plural(facts->n_nodes));
    for (size_t n = 0; n < facts->n_nodes && n < NODES_DRAWN; n++)
        print_node(facts, n, out);
    if (facts->n_nodes > NODES_DRAWN)
        fprintf(out, "\nand %zu more nodes (--json has all)\n", facts->n_nodes - NODES_DRAWN);
    print_ranks(facts, out);
    if (facts->n_ranks > 1 && facts->n_ranks <= PING_MATRIX_RANKS)
        print_matrix(facts, out);
    if (facts->n_pings > 0)
        fputc('\n', out);
    print_kind(facts, true, out);
    print_kind(facts, false, out);
    print_findings(findings, out);
    fprintf(out, "\nRecommended:\n  %s\n", command);
}
