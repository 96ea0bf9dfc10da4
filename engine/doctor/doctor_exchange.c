/* Findings about exchanges, and about ranks that the others wait for. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/doctor/doctor_internal.h"
#include "sharding/rank_shares.h"

#define COST_TCP_IN_NODE 0.3
#define COST_NO_PINNING 0.3
#define COST_TWO_COPIES 0.02
#define COST_ONE_MACHINE 0.2
#define LEAST_MEMLOCK (1024 * MIB) /* that RDMA may pin */
#define SLOW_NETWORK 1.0e9         /* bytes/s: below 10 Gbit Ethernet */
#define SLOW_LINK 0.5              /* of the median of its kind */
#define FASTER_INTERFACE 1.5

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool within_node(const finder_t *f, const ping_t *ping)
{
    return f->facts->ranks[ping->a].node == f->facts->ranks[ping->b].node;
}

static void check_tcp_in_node(finder_t *f)
{
    for (size_t i = 0; i < f->facts->n_pings; i++) {
        const ping_t *ping = &f->facts->pings[i];
        if (!within_node(f, ping) || ping->way[0] == '\0')
            continue;
        const doctor_rank_t *rank = &f->facts->ranks[ping->a];
        doctor_finding_t *finding = doctor_add(f, "tcp-in-node", DOCTOR_WARNING, COST_TCP_IN_NODE,
            "%s: messages between ranks %d and %d of one node go through the network stack "
            "(%s, %.1f us, %.2f GB/s) in place of shared memory",
            rank->host.name, ping->a, ping->b, ping->way, ping->latency_s * 1e6,
            ping->bytes_per_s * 1e-9);
        snprintf(finding->mpirun, sizeof finding->mpirun, "--mca btl self,%s,tcp",
            strstr(rank->mpi, "Open MPI v5") != NULL ? "sm" : "vader");
        doctor_fix(finding, "mpirun %s", finding->mpirun);
        return;
    }
}

static void check_one_machine(finder_t *f)
{
    for (size_t a = 0; a < f->facts->n_nodes; a++)
        for (size_t b = 0; b < a; b++) {
            const doctor_host_t *x = &doctor_first_of(f, b)->host,
                                *y = &doctor_first_of(f, a)->host;
            if (x->boot == 0 || x->boot != y->boot || x->pretends)
                continue;
            doctor_fix(
                doctor_add(f, "one-machine", DOCTOR_WARNING, COST_ONE_MACHINE,
                    "%s and %s are one machine, whose ranks exchange over the network as if they "
                    "were two",
                    x->name, y->name),
                "all ranks of a machine in one container or pod, under one name: mpirun --host "
                "%s:%zu",
                x->name, f->facts->nodes[a].n_ranks + f->facts->nodes[b].n_ranks);
            return;
        }
}

static void check_copies(finder_t *f)
{
    for (size_t n = 0; n < f->facts->n_nodes; n++) {
        if (doctor_first_of(f, n)->host.copies || f->facts->nodes[n].n_ranks < 2)
            continue;
        doctor_fix(
            doctor_add(f, "copies", DOCTOR_NOTE, COST_TWO_COPIES,
                "%s: processes may not read each other's memory, so large messages are copied "
                "twice",
                doctor_host_of(f, n)),
            "docker run --cap-add=SYS_PTRACE");
        return;
    }
}

static void check_memlock(finder_t *f)
{
    for (size_t r = 0; f->facts->n_nodes > 1 && r < f->facts->n_ranks; r++) {
        const doctor_host_t *host = &f->facts->ranks[r].host;
        const interface_t *rdma = NULL;
        for (int i = 0; i < host->n_interfaces && rdma == NULL; i++)
            if (host->interfaces[i].kind == INTERFACE_RDMA && host->interfaces[i].up)
                rdma = &host->interfaces[i];
        if (rdma == NULL || (double)host->memlock_bytes >= LEAST_MEMLOCK)
            continue;
        doctor_fix(doctor_add(f, "memlock", DOCTOR_WARNING, COST_NO_PINNING,
                       "%s: ulimit -l is %.0f KiB, and %s cannot use memory that is not locked",
                       host->name, (double)host->memlock_bytes / 1024, rdma->name),
            "ulimit -l unlimited (limits.conf: * - memlock unlimited; docker run --ulimit "
            "memlock=-1; Slurm: PropagateResourceLimitsExcept=MEMLOCK)");
        return;
    }
}

static const interface_t *interface_named(const doctor_host_t *host, const char *name)
{
    for (int i = 0; i < host->n_interfaces; i++)
        if (strcmp(host->interfaces[i].name, name) == 0)
            return &host->interfaces[i];
    return NULL;
}

/* Another interface than the one in use, faster, and up on both hosts under the same name. */
static const interface_t *faster_interface(
    const doctor_host_t *a, const doctor_host_t *b, const interface_t *used)
{
    const interface_t *best = NULL;
    for (int i = 0; i < a->n_interfaces; i++) {
        const interface_t *mine = &a->interfaces[i], *theirs = interface_named(b, mine->name);
        if (!mine->up || mine->kind == INTERFACE_LOOPBACK || mine->kind == INTERFACE_VIRTUAL ||
            theirs == NULL || !theirs->up)
            continue;
        if (mine->bits_per_s > FASTER_INTERFACE * used->bits_per_s &&
            (best == NULL || mine->bits_per_s > best->bits_per_s))
            best = mine;
    }
    return best;
}

static void check_interface(finder_t *f)
{
    for (size_t i = 0; i < f->facts->n_pings; i++) {
        const ping_t *ping = &f->facts->pings[i];
        const doctor_host_t *a = &f->facts->ranks[ping->a].host,
                            *b = &f->facts->ranks[ping->b].host;
        const interface_t *used = interface_named(a, ping->way);
        if (within_node(f, ping) || used == NULL || used->bits_per_s <= 0)
            continue;
        const interface_t *better = faster_interface(a, b, used);
        if (better == NULL)
            continue;
        doctor_finding_t *finding = doctor_add(f, "interface", DOCTOR_WARNING,
            0.5 * (1 - used->bits_per_s / better->bits_per_s),
            "%s and %s exchange over %s (%.0f Gbit/s), while %s (%.0f Gbit/s) is up on both",
            a->name, b->name, used->name, used->bits_per_s * 1e-9, better->name,
            better->bits_per_s * 1e-9);
        bool rdma = better->kind == INTERFACE_RDMA;
        snprintf(finding->mpirun, sizeof finding->mpirun,
            rdma ? "--mca pml ucx -x UCX_NET_DEVICES=%s:1" : "--mca btl_tcp_if_include %s",
            better->name);
        doctor_fix(finding, "mpirun %s", finding->mpirun);
        return;
    }
}

/* Median bandwidth of the pairs of one kind; 0 without any. */
static double median_bandwidth(const finder_t *f, bool within)
{
    double rates[PING_MOST_PAIRS];
    size_t n = 0;
    for (size_t i = 0; i < f->facts->n_pings && n < PING_MOST_PAIRS; i++)
        if (within_node(f, &f->facts->pings[i]) == within)
            rates[n++] = f->facts->pings[i].bytes_per_s;
    qsort(rates, n, sizeof *rates, by_value);
    return n > 0 ? rates[n / 2] : 0;
}

/* A pair of nodes that is slower than the others: a cable, a port, a busy machine. */
static void check_slow_link(finder_t *f)
{
    double median = median_bandwidth(f, false);
    const ping_t *slowest = NULL;
    for (size_t i = 0; f->facts->n_nodes > 2 && i < f->facts->n_pings; i++) {
        const ping_t *ping = &f->facts->pings[i];
        if (!within_node(f, ping) && ping->bytes_per_s < SLOW_LINK * median &&
            (slowest == NULL || ping->bytes_per_s < slowest->bytes_per_s))
            slowest = ping;
    }
    if (slowest == NULL)
        return;
    const doctor_host_t *a = &f->facts->ranks[slowest->a].host,
                        *b = &f->facts->ranks[slowest->b].host;
    doctor_fix(
        doctor_add(f, "slow-link", DOCTOR_WARNING, 0.5 * (1 - slowest->bytes_per_s / median),
            "%s and %s (ranks %d and %d) exchange at %.2f GB/s, half of all pairs of nodes at %.2f "
            "or more",
            a->name, b->name, slowest->a, slowest->b, slowest->bytes_per_s * 1e-9, median * 1e-9),
        "check cable and port of %s, or leave it out of mpirun --host; ethtool %s prints the link's speed",
        b->name, slowest->way[0] != '\0' ? slowest->way : "DEVICE");
}

/* The largest latency of pairs of nodes. */
static double network_latency(const finder_t *f)
{
    double latency = 0;
    for (size_t i = 0; i < f->facts->n_pings; i++)
        if (!within_node(f, &f->facts->pings[i]))
            latency = fmax(latency, f->facts->pings[i].latency_s);
    return latency;
}

/* With a model: the share of a decode step that the exchange between nodes takes. */
static void check_network(finder_t *f)
{
    double rate = median_bandwidth(f, false), cost = 0.3;
    if (f->facts->n_nodes < 2 || rate <= 0 || (!f->facts->has_model && rate >= SLOW_NETWORK))
        return;
    if (f->facts->has_model) {
        double read = 0, bytes = 0;
        for (size_t r = 0; r < f->facts->n_ranks; r++) {
            const doctor_rank_t *rank = &f->facts->ranks[r];
            if (rank->read_bytes_per_s > 0)
                read = fmax(read, (double)rank->weight_bytes / rank->read_bytes_per_s);
            bytes = fmax(bytes, rank->exchange_bytes_per_token);
        }
        double exchange = bytes / rate + (double)f->facts->n_gathers * network_latency(f);
        cost = exchange / (exchange + read);
        if (cost < 3 * MIN_REPORTED_LOSS)
            return;
    }
    doctor_fix(
        doctor_add(f, "slow-network", DOCTOR_WARNING, cost,
            "nodes exchange at %.2f GB/s and %.0f us%s", rate * 1e-9, network_latency(f) * 1e6,
            f->facts->has_model ? "; a decode step spends this share of its time there" : ""),
        "a faster network (mpirun --mca btl_tcp_if_include DEVICE), or fewer nodes; prompts of "
        "many "
        "sequences at once (--max-batch) share the exchange's latency");
}

/* "2,1": shares in proportion to what each of a few ranks reads, as --shares auto takes them. */
static void propose_shares(const finder_t *f, char *text, size_t text_bytes)
{
    double rates[PING_MATRIX_RANKS];
    size_t shares[PING_MATRIX_RANKS], n = f->facts->n_ranks;
    for (size_t r = 0; r < n; r++)
        rates[r] = f->facts->ranks[r].read_bytes_per_s;
    rank_shares_from_rates(rates, n, shares);
    rank_shares_text(shares, n, text, text_bytes);
}

/* With even shares all ranks wait for the slowest. */
static void check_slow_rank(finder_t *f)
{
    double sum = 0, slowest = INFINITY;
    size_t rank = 0, n = f->facts->n_ranks;
    char shares[192] = "auto";
    for (size_t r = 0; r < n; r++) {
        double rate = f->facts->ranks[r].read_bytes_per_s;
        sum += rate;
        if (rate < slowest) {
            slowest = rate;
            rank = r;
        }
    }
    double cost = sum > 0 ? 1 - slowest * (double)n / sum : 0;
    if (n < 2 || slowest <= 0 || cost < 1.5 * MIN_REPORTED_LOSS)
        return;
    if (n <= PING_MATRIX_RANKS)
        propose_shares(f, shares, sizeof shares);
    doctor_fix(
        doctor_add(f, "slow-rank", DOCTOR_WARNING, cost,
            "rank %zu on %s reads %.1f GB/s, the mean of all is %.1f: with even shares the others "
            "wait for it",
            rank, f->facts->ranks[rank].host.name, slowest * 1e-9, sum / (double)n * 1e-9),
        n <= PING_MATRIX_RANKS
            ? "choir ... --shares %s, or --shares auto, which measures at the start of each run"
            : "choir ... --shares %s, which measures at the start of each run",
        shares);
}

void doctor_find_exchange(finder_t *f)
{
    check_tcp_in_node(f);
    check_one_machine(f);
    check_copies(f);
    check_memlock(f);
    check_interface(f);
    check_slow_link(f);
    check_network(f);
    check_slow_rank(f);
}
