/* Findings and their fixes. Each check looks at all nodes or ranks and records one finding, about
 * the worst of them. Costs are estimates of the share of speed lost: counted (cores) or measured
 * (rates) where that is possible, a constant where it is not. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/doctor/doctor_internal.h"
#include "engine/kernels/kernels.h"

#define COST_SMALL_PAGES 0.1
#define LEAST_SHM (32 * MIB) /* Open MPI's own files; Choir's windows lie elsewhere */
#define CLOCK_SKEW_S 1.0

/* ---- Recording ------------------------------------------------------------------------------- */

doctor_finding_t *doctor_add(finder_t *f, const char *name, doctor_severity_t severity, double cost,
    const char *format, ...) __attribute__((format(printf, 5, 6)));

doctor_finding_t *doctor_add(
    finder_t *f, const char *name, doctor_severity_t severity, double cost, const char *format, ...)
{
    /* There is room for all checks. */
    doctor_finding_t *finding = &f->out->items[f->out->n++];
    va_list args;
    *finding = (doctor_finding_t){.name = name, .severity = severity, .cost = cost};
    va_start(args, format);
    vsnprintf(finding->what, sizeof finding->what, format, args);
    va_end(args);
    return finding;
}

void doctor_fix(doctor_finding_t *finding, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(finding->fix, sizeof finding->fix, format, args);
    va_end(args);
}

/* ---- Looking --------------------------------------------------------------------------------- */

const doctor_rank_t *doctor_first_of(const finder_t *f, size_t node)
{
    return &f->facts->ranks[f->facts->nodes[node].first_rank];
}

const char *doctor_host_of(const finder_t *f, size_t node)
{
    return doctor_first_of(f, node)->host.name;
}

bool doctor_is_on(const finder_t *f, size_t rank, size_t node)
{
    return (size_t)f->facts->ranks[rank].node == node;
}

/* " and 2 more nodes" */
const char *doctor_others(size_t n, char text[OTHERS_BYTES])
{
    text[0] = '\0';
    if (n > 1)
        snprintf(text, OTHERS_BYTES, " and %zu more node%s", n - 1, plural(n - 1));
    return text;
}

/* The node where `cost` is highest, and how many are to be reported. */
double doctor_worst_node(const finder_t *f, double (*cost)(const finder_t *f, size_t node),
    size_t *node, size_t *n_affected)
{
    double worst = 0;
    *node = *n_affected = 0;
    for (size_t n = 0; n < f->facts->n_nodes; n++) {
        double here = cost(f, n);
        *n_affected += here >= MIN_REPORTED_LOSS;
        if (here > worst) {
            worst = here;
            *node = n;
        }
    }
    return worst;
}

double doctor_lost(size_t used, size_t possible)
{
    return used >= possible ? 0 : 1 - (double)used / (double)possible;
}

/* ---- Instruction sets and versions ----------------------------------------------------------- */

/* Hosts of nodes whose first rank has at least this instruction set, "a,b". */
static void hosts_with(const finder_t *f, isa_t isa, char *text, size_t text_bytes)
{
    text[0] = '\0';
    for (size_t n = 0; n < f->facts->n_nodes; n++) {
        size_t used = strlen(text);
        if (isa_level(doctor_first_of(f, n)->isa) >= isa_level(isa))
            snprintf(
                text + used, text_bytes - used, "%s%s", used > 0 ? "," : "", doctor_host_of(f, n));
    }
}

static void check_isa(finder_t *f)
{
    size_t widest = 0, narrowest = 0;
    char hosts[256];
    for (size_t r = 1; r < f->facts->n_ranks; r++) {
        size_t level = isa_level(f->facts->ranks[r].isa);
        if (level > isa_level(f->facts->ranks[widest].isa))
            widest = r;
        if (level < isa_level(f->facts->ranks[narrowest].isa))
            narrowest = r;
    }
    const doctor_rank_t *w = &f->facts->ranks[widest], *s = &f->facts->ranks[narrowest];
    if (isa_level(w->isa) == isa_level(s->isa))
        return;
    double cost = 0.5, fast = w->flop_per_s / (double)w->threads;
    if (fast > 0)
        cost = fmax(0, 1 - s->flop_per_s / (double)s->threads / fast);
    hosts_with(f, w->isa, hosts, sizeof hosts);
    doctor_finding_t *finding = doctor_add(f, "isa", DOCTOR_WARNING, cost,
        "%s has %s and %s only %s, which all ranks then use (prefill; decode hardly depends on it)",
        w->host.name, isa_name(w->isa), s->host.name, isa_name(s->isa));
    doctor_fix(finding, "leave the older machines out: mpirun --host %s", hosts);
}

static void check_isa_lowered(finder_t *f)
{
    for (size_t r = 0; r < f->facts->n_ranks; r++) {
        const doctor_rank_t *rank = &f->facts->ranks[r];
        if (isa_level(rank->isa_chosen) >= isa_level(rank->isa))
            continue;
        doctor_fix(doctor_add(f, "isa-lowered", DOCTOR_WARNING, 0.5,
                       "%s: CHOIR_ISA lowers rank %zu from %s to %s", rank->host.name, r,
                       isa_name(rank->isa), isa_name(rank->isa_chosen)),
            "unset CHOIR_ISA");
        return;
    }
}

/* The first rank whose text differs from rank 0's; 0 when none does. */
static size_t differing(const finder_t *f, size_t offset)
{
    const char *first = (const char *)&f->facts->ranks[0] + offset;
    for (size_t r = 1; r < f->facts->n_ranks; r++)
        if (strcmp((const char *)&f->facts->ranks[r] + offset, first) != 0)
            return r;
    return 0;
}

static void check_versions(finder_t *f)
{
    const doctor_rank_t *ranks = f->facts->ranks;
    size_t r = differing(f, offsetof(doctor_rank_t, choir));
    if (r != 0) {
        doctor_fix(
            doctor_add(f, "versions", DOCTOR_BAD, 1, "%s runs Choir %s, and rank %zu on %s %s",
                ranks[0].host.name, ranks[0].choir, r, ranks[r].host.name, ranks[r].choir),
            "install one Choir on all machines, or name it by a path on a shared file system: "
            "mpirun ... /shared/choir");
        return;
    }
    for (r = 1; r < f->facts->n_ranks; r++) {
        if (ranks[r].host.program == ranks[0].host.program)
            continue;
        doctor_fix(doctor_add(f, "builds", DOCTOR_WARNING, 0,
                       "rank %zu on %s runs another build of Choir %s than rank 0 on %s", r,
                       ranks[r].host.name, ranks[r].choir, ranks[0].host.name),
            "copy one build to all machines, or mpirun ... /shared/choir");
        return;
    }
}

static void check_libraries(finder_t *f)
{
    const doctor_rank_t *ranks = f->facts->ranks;
    size_t r = differing(f, offsetof(doctor_rank_t, mpi));
    if (r != 0)
        doctor_fix(doctor_add(f, "mpi-versions", DOCTOR_BAD, 1,
                       "MPI differs: %s has %s, rank %zu on %s has %s", ranks[0].host.name,
                       ranks[0].mpi, r, ranks[r].host.name, ranks[r].mpi),
            "the same MPI on all machines, first in PATH and LD_LIBRARY_PATH there: mpirun "
            "--prefix "
            "DIR");
    r = differing(f, offsetof(doctor_rank_t, host.libraries));
    if (r != 0)
        doctor_fix(doctor_add(f, "libraries", DOCTOR_WARNING, 0,
                       "libraries differ: %s has %s; rank %zu on %s has %s", ranks[0].host.name,
                       ranks[0].host.libraries, r, ranks[r].host.name, ranks[r].host.libraries),
            "the same packages on all machines, or one container image (launch/Containerfile)");
}

static void check_clock(finder_t *f)
{
    size_t worst = 0;
    for (size_t r = 1; r < f->facts->n_ranks; r++)
        if (fabs(f->facts->ranks[r].ahead_s) > fabs(f->facts->ranks[worst].ahead_s))
            worst = r;
    double ahead = f->facts->ranks[worst].ahead_s;
    if (fabs(ahead) < CLOCK_SKEW_S)
        return;
    doctor_fix(doctor_add(f, "clock", DOCTOR_WARNING, 0, "the clock of %s is %.1f s %s that of %s",
                   f->facts->ranks[worst].host.name, fabs(ahead), ahead > 0 ? "ahead of" : "behind",
                   f->facts->ranks[0].host.name),
        "timedatectl set-ntp true (or chronyc makestep) on both");
}

/* ---- Memory ---------------------------------------------------------------------------------- */

typedef struct need {
    double weights, cache, free;
} need_t;

static need_t need_of(const finder_t *f, size_t node)
{
    need_t need = {0};
    need.free = (double)doctor_first_of(f, node)->host.memory_available_bytes;
    for (size_t r = 0; r < f->facts->n_ranks; r++) {
        if (!doctor_is_on(f, r, node))
            continue;
        const doctor_rank_t *rank = &f->facts->ranks[r];
        need.weights += (double)rank->weight_bytes;
        need.cache += (double)rank->kv_bytes_per_token * (double)f->facts->kv_tokens;
    }
    return need;
}

static void check_memory(finder_t *f)
{
    size_t node = 0;
    double total = 0, most = 0, lowest = INFINITY;
    for (size_t n = 0; f->facts->has_model && n < f->facts->n_nodes; n++) {
        need_t need = need_of(f, n);
        total += need.weights + need.cache;
        if (need.free <= 0)
            continue;
        lowest = fmin(lowest, need.free);
        double share = (need.weights + need.cache) / need.free;
        if (share > most) {
            most = share;
            node = n;
        }
    }
    if (most <= 1)
        return;
    need_t need = need_of(f, node);
    doctor_finding_t *finding = doctor_add(f, "memory", DOCTOR_BAD, 1,
        "%s: its ranks need %.2f GiB (%.2f for weights, %.2f for a KV cache of %zu tokens), and "
        "%.2f GiB are free",
        doctor_host_of(f, node), (need.weights + need.cache) / GIB, need.weights / GIB,
        need.cache / GIB, f->facts->kv_tokens, need.free / GIB);
    double tokens = (need.free - need.weights) / need.cache * (double)f->facts->kv_tokens;
    if (tokens >= 64) {
        snprintf(
            finding->choir, sizeof finding->choir, "--kv-tokens %.0f", floor(tokens / 64) * 64);
        doctor_fix(finding, "%s", finding->choir);
    } else {
        doctor_fix(finding,
            "at least %.0f such machines, ranks spread evenly: mpirun --map-by ppr:%zu:node",
            ceil(total / lowest), f->facts->nodes[node].n_ranks);
    }
}

static void check_shm(finder_t *f)
{
    size_t node = SIZE_MAX;
    for (size_t n = 0; n < f->facts->n_nodes; n++) {
        const doctor_host_t *host = &doctor_first_of(f, n)->host;
        if (f->facts->nodes[n].n_ranks < 2 || host->shm_bytes == 0)
            continue;
        if ((double)host->shm_free_bytes < LEAST_SHM &&
            (node == SIZE_MAX ||
                host->shm_free_bytes < doctor_first_of(f, node)->host.shm_free_bytes))
            node = n;
    }
    if (node == SIZE_MAX)
        return;
    const doctor_host_t *host = &doctor_first_of(f, node)->host;
    doctor_finding_t *finding = doctor_add(f, "shm", DOCTOR_WARNING, MIN_REPORTED_LOSS,
        "%s: /dev/shm has %.0f MiB free of %.0f; Open MPI keeps files there", host->name,
        (double)host->shm_free_bytes / MIB, (double)host->shm_bytes / MIB);
    doctor_fix(finding, "docker run --shm-size=256m, or mount -o remount,size=256M /dev/shm");
}

static void check_pages(finder_t *f)
{
    for (size_t n = 0; n < f->facts->n_nodes; n++) {
        if (doctor_first_of(f, n)->host.pages != DOCTOR_PAGES_NEVER)
            continue;
        doctor_fix(doctor_add(f, "huge-pages", DOCTOR_WARNING, COST_SMALL_PAGES,
                       "%s: transparent huge pages are off", doctor_host_of(f, n)),
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
        return;
    }
}

/* ---- All of them ----------------------------------------------------------------------------- */

static int by_cost(const void *a, const void *b)
{
    const doctor_finding_t *x = a, *y = b;
    bool x_bad = x->severity == DOCTOR_BAD, y_bad = y->severity == DOCTOR_BAD;
    if (x_bad != y_bad)
        return y_bad - x_bad;
    if (x->cost != y->cost)
        return x->cost < y->cost ? 1 : -1;
    return strcmp(x->name, y->name);
}

void doctor_find(const doctor_facts_t *facts, doctor_findings_t *findings)
{
    static void (*const checks[])(finder_t *) = {check_memory, check_shm, check_versions,
        check_libraries, check_isa, check_isa_lowered, check_clock, check_pages, doctor_find_cores,
        doctor_find_exchange};
    finder_t finder = {facts, findings};
    findings->n = 0;
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        checks[i](&finder);
    qsort(findings->items, findings->n, sizeof *findings->items, by_cost);
}

const char *doctor_severity_name(doctor_severity_t severity)
{
    static const char *const names[] = {"note", "warning", "bad"};
    return names[severity];
}
