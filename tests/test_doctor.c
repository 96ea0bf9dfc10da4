/* engine/doctor/doctor.h: what is found in made-up facts, and the command that is recommended;
 * comm/ping.h and comm/interfaces.h: which pairs are measured, and what carried a message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/interfaces.h"
#include "comm/ping.h"
#include "engine/doctor/doctor.h"
#include "engine/kernels/kernels.h"

#define GIB ((uint64_t)1 << 30)
#define MIB ((uint64_t)1 << 20)

/* ---- Made-up clusters ------------------------------------------------------------------------ */

typedef struct cluster {
    doctor_facts_t facts;
    doctor_findings_t found;
} cluster_t;

static void bind_rank(doctor_rank_t *rank, size_t begin, size_t end, size_t node_cores)
{
    memset(rank->mask, 0, sizeof rank->mask);
    for (size_t pu = begin; pu < end; pu++)
        rank->mask[pu / 64] |= UINT64_C(1) << (pu % 64);
    rank->topology.bound_cores = rank->topology.bound_pus = end - begin;
    rank->topology.bound = end - begin < node_cores;
}

static void make_rank(doctor_rank_t *rank, size_t node)
{
    memset(rank, 0, sizeof *rank);
    rank->node = (int32_t)node;
    rank->isa = rank->isa_chosen = ISA_AVX512_BF16;
    snprintf(rank->host.name, sizeof rank->host.name, "n%zu", node + 1);
    snprintf(rank->host.libraries, sizeof rank->host.libraries, "libmpi 40.30.4");
    snprintf(rank->choir, sizeof rank->choir, "0.1.0");
    snprintf(rank->mpi, sizeof rank->mpi, "Open MPI v4.1.4");
    rank->host.boot = node + 1;
    rank->host.program = 7;
    rank->host.memory_total_bytes = 64 * GIB;
    rank->host.memory_available_bytes = 60 * GIB;
    rank->host.shm_bytes = rank->host.shm_free_bytes = 32 * GIB;
    rank->host.memlock_bytes = DOCTOR_UNLIMITED;
    rank->host.pages = DOCTOR_PAGES_ADVISED;
    rank->host.copies = 1;
    rank->host.n_interfaces = 2;
    rank->host.interfaces[0] = (interface_t){.name = "lo", .kind = INTERFACE_LOOPBACK, .up = 1};
    rank->host.interfaces[1] =
        (interface_t){.name = "eth0", .kind = INTERFACE_ETHERNET, .up = 1, .bits_per_s = 25e9};
    rank->read_bytes_per_s = 40e9;
    rank->flop_per_s = 1e12;
}

static void make_node(cluster_t *c, size_t n, size_t ranks_per_node, size_t numa, size_t cores)
{
    doctor_node_t *node = &c->facts.nodes[n];
    *node = (doctor_node_t){.first_rank = n * ranks_per_node, .n_ranks = ranks_per_node};
    node->n_pus = cores;
    node->pus = calloc(cores, sizeof *node->pus);
    assert_non_null(node->pus);
    for (size_t p = 0; p < cores; p++)
        node->pus[p] = (topology_pu_t){
            (uint16_t)p, (uint16_t)p, (uint16_t)(p * numa / cores), (uint16_t)(p * numa / cores)};
}

/* Nodes alike: every rank with its even part of the cores, a thread for each, nothing wrong. */
static cluster_t *make(size_t n_nodes, size_t ranks_per_node, size_t numa, size_t cores)
{
    cluster_t *c = calloc(1, sizeof *c);
    size_t n_ranks = n_nodes * ranks_per_node, each = cores / ranks_per_node;
    assert_non_null(c);
    c->facts = (doctor_facts_t){.n_ranks = n_ranks,
        .n_nodes = n_nodes,
        .ranks = calloc(n_ranks, sizeof(doctor_rank_t)),
        .nodes = calloc(n_nodes, sizeof(doctor_node_t)),
        .pings = calloc(PING_MOST_PAIRS, sizeof(ping_t))};
    int *nodes = calloc(n_ranks, sizeof *nodes);
    for (size_t n = 0; n < n_nodes; n++)
        make_node(c, n, ranks_per_node, numa, cores);
    for (size_t r = 0; r < n_ranks; r++) {
        doctor_rank_t *rank = &c->facts.ranks[r];
        size_t place = r % ranks_per_node * each;
        nodes[r] = (int)(r / ranks_per_node);
        make_rank(rank, (size_t)nodes[r]);
        rank->threads = each;
        rank->topology.node_cores = rank->topology.node_pus = cores;
        bind_rank(rank, place, place + each, cores);
    }
    c->facts.n_pings = ping_choose((int)n_ranks, nodes, c->facts.pings);
    for (size_t i = 0; i < c->facts.n_pings; i++) {
        ping_t *ping = &c->facts.pings[i];
        bool within = nodes[ping->a] == nodes[ping->b];
        ping->latency_s = within ? 0.5e-6 : 5e-6;
        ping->bytes_per_s = within ? 8e9 : 2.5e9;
        if (!within)
            strcpy(ping->way, "eth0");
    }
    free(nodes);
    return c;
}

static void discard(cluster_t *c)
{
    doctor_clear(&c->facts);
    free(c);
}

static const doctor_finding_t *find(cluster_t *c, const char *name)
{
    doctor_find(&c->facts, &c->found);
    for (size_t i = 0; i < c->found.n; i++)
        if (strcmp(c->found.items[i].name, name) == 0)
            return &c->found.items[i];
    return NULL;
}

/* The only finding is this one, with this fix. Discards the cluster. */
static void expect(cluster_t *c, const char *name, doctor_severity_t severity, const char *fix)
{
    const doctor_finding_t *finding = find(c, name);
    for (size_t i = 0; i < c->found.n; i++)
        if (strcmp(c->found.items[i].name, name) != 0)
            fail_msg("%s: found too: %s", name, c->found.items[i].what);
    assert_non_null(finding);
    assert_int_equal(finding->severity, severity);
    if (strstr(finding->fix, fix) == NULL)
        fail_msg("%s: fix: expected \"%s\" in \"%s\"", name, fix, finding->fix);
    discard(c);
}

/* ---- Findings -------------------------------------------------------------------------------- */

static void a_good_cluster_has_no_findings(void **state)
{
    (void)state;
    cluster_t *one = make(1, 1, 1, 16), *four = make(4, 2, 2, 32), *many = make(16, 2, 2, 64);
    doctor_find(&one->facts, &one->found);
    assert_int_equal(one->found.n, 0);
    doctor_find(&four->facts, &four->found);
    assert_int_equal(four->found.n, 0);
    doctor_find(&many->facts, &many->found);
    assert_int_equal(many->found.n, 0);
    discard(one);
    discard(four);
    discard(many);
}

static void ranks_bound_to_single_cores_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 2, 1, 16);
    for (size_t r = 0; r < 2; r++) {
        bind_rank(&c->facts.ranks[r], r, r + 1, 16);
        c->facts.ranks[r].threads = 1;
    }
    assert_float_equal(find(c, "binding")->cost, 0.875, 1e-6);
    expect(c, "binding", DOCTOR_WARNING, "mpirun --map-by ppr:2:node:PE=8 --bind-to core");
}

static void in_slurm_srun_fixes_bindings(void **state)
{
    (void)state;
    cluster_t *c = make(1, 2, 1, 16);
    c->facts.ranks[0].host.in_slurm = 1;
    for (size_t r = 0; r < 2; r++) {
        bind_rank(&c->facts.ranks[r], r, r + 1, 16);
        c->facts.ranks[r].threads = 1;
    }
    expect(c, "binding", DOCTOR_WARNING, "srun --ntasks-per-node=2 --cpus-per-task=8");
}

static void cores_that_ranks_share_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 2, 1, 8);
    for (size_t r = 0; r < 2; r++) {
        bind_rank(&c->facts.ranks[r], 0, 8, 8);
        c->facts.ranks[r].threads = 8;
    }
    assert_float_equal(find(c, "shared-cores")->cost, 0.5, 1e-6);
    expect(c, "shared-cores", DOCTOR_WARNING, "--threads 4");
    c = make(1, 8, 1, 8);
    for (size_t r = 0; r < 8; r++)
        bind_rank(&c->facts.ranks[r], 0, 8, 8);
    doctor_find(&c->facts, &c->found); /* a core each: sharing them is no loss */
    assert_int_equal(c->found.n, 0);
    discard(c);
}

static void unused_cores_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(2, 2, 1, 16);
    for (size_t r = 0; r < 4; r++)
        c->facts.ranks[r].threads = 4;
    assert_non_null(strstr(find(c, "unused-cores")->what, "n1 and 1 more node: "));
    expect(c, "unused-cores", DOCTOR_WARNING, "--threads 8");
    c = make(1, 3, 1, 8);
    for (size_t r = 0; r < 3; r++)
        bind_rank(&c->facts.ranks[r], 0, 8, 8);
    expect(c, "unused-cores", DOCTOR_WARNING, "4 ranks of 2 threads: mpirun");
}

static void threads_beyond_a_ranks_cores_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 2, 1, 8);
    c->facts.ranks[1].threads = 6;
    expect(c, "hyperthreads", DOCTOR_WARNING, "--threads 4");
}

static void a_quota_below_the_threads_is_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 2, 1, 8);
    for (size_t r = 0; r < 2; r++)
        c->facts.ranks[r].topology.granted_cpus = 2;
    assert_float_equal(find(c, "quota")->cost, 0.75, 1e-6);
    expect(c, "quota", DOCTOR_WARNING, "--threads 1");
    c = make(1, 1, 1, 8);
    c->facts.ranks[0].topology.granted_cpus = 2;
    c->facts.ranks[0].threads = 2;
    expect(c, "quota", DOCTOR_NOTE, "--cpus=8");
}

static void a_rank_over_several_numa_nodes_is_found(void **state)
{
    (void)state;
    expect(make(1, 1, 2, 16), "numa", DOCTOR_WARNING, "--map-by ppr:1:numa --bind-to numa");
}

static void messages_over_tcp_within_a_node_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 2, 1, 8);
    strcpy(c->facts.pings[0].way, "lo");
    expect(c, "tcp-in-node", DOCTOR_WARNING, "--mca btl self,vader,tcp");
    c = make(1, 2, 1, 8);
    strcpy(c->facts.pings[0].way, "lo");
    for (size_t r = 0; r < 2; r++)
        strcpy(c->facts.ranks[r].mpi, "Open MPI v5.0.3");
    expect(c, "tcp-in-node", DOCTOR_WARNING, "--mca btl self,sm,tcp");
}

static void two_nodes_of_one_machine_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(2, 1, 1, 8);
    c->facts.ranks[1].host.boot = c->facts.ranks[0].host.boot;
    expect(c, "one-machine", DOCTOR_WARNING, "--host n1:2");
    c = make(2, 1, 1, 8);
    c->facts.ranks[1].host.boot = c->facts.ranks[0].host.boot;
    c->facts.ranks[0].host.pretends = c->facts.ranks[1].host.pretends = 1;
    assert_null(find(c, "one-machine"));
    discard(c);
}

static void little_shared_memory_is_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 2, 1, 8);
    c->facts.ranks[0].host.shm_bytes = 64 * MIB;
    c->facts.ranks[0].host.shm_free_bytes = 8 * MIB;
    expect(c, "shm", DOCTOR_WARNING, "--shm-size=256m");
}

static void a_small_limit_of_locked_memory_matters_with_rdma(void **state)
{
    (void)state;
    cluster_t *c = make(2, 1, 1, 8);
    for (size_t r = 0; r < 2; r++)
        c->facts.ranks[r].host.memlock_bytes = 8 * MIB;
    assert_null(find(c, "memlock"));
    for (size_t r = 0; r < 2; r++) {
        c->facts.ranks[r].host.n_interfaces = 3;
        c->facts.ranks[r].host.interfaces[2] =
            (interface_t){.name = "mlx5_0", .kind = INTERFACE_RDMA, .up = 1};
    }
    expect(c, "memlock", DOCTOR_WARNING, "ulimit -l unlimited");
}

static void differing_versions_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(2, 1, 1, 8);
    strcpy(c->facts.ranks[1].choir, "0.2.0");
    expect(c, "versions", DOCTOR_BAD, "install one Choir");
    c = make(2, 1, 1, 8);
    c->facts.ranks[1].host.program = 8;
    expect(c, "builds", DOCTOR_WARNING, "copy one build");
    c = make(2, 1, 1, 8);
    strcpy(c->facts.ranks[1].mpi, "Open MPI v4.1.5");
    expect(c, "mpi-versions", DOCTOR_BAD, "--prefix");
    c = make(2, 1, 1, 8);
    strcpy(c->facts.ranks[1].host.libraries, "libmpi 40.30.5");
    expect(c, "libraries", DOCTOR_WARNING, "launch/Containerfile");
}

static void differing_instruction_sets_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(2, 1, 1, 8);
    c->facts.ranks[0].isa = c->facts.ranks[0].isa_chosen = ISA_AMX;
    c->facts.ranks[0].flop_per_s = 4e12;
    assert_float_equal(find(c, "isa")->cost, 0.75, 1e-6);
    expect(c, "isa", DOCTOR_WARNING, "mpirun --host n1");
    c = make(1, 1, 1, 8);
    c->facts.ranks[0].isa_chosen = ISA_AVX2;
    expect(c, "isa-lowered", DOCTOR_WARNING, "unset CHOIR_ISA");
}

static void too_little_memory_for_the_plan_is_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 2, 1, 8);
    c->facts.has_model = true;
    c->facts.kv_tokens = 1024;
    for (size_t r = 0; r < 2; r++)
        c->facts.ranks[r].weight_bytes = 70 * GIB;
    expect(c, "memory", DOCTOR_BAD, "at least 3 such machines");
    c = make(1, 2, 1, 8);
    c->facts.has_model = true;
    c->facts.kv_tokens = 1024;
    for (size_t r = 0; r < 2; r++) {
        c->facts.ranks[r].weight_bytes = 20 * GIB;
        c->facts.ranks[r].kv_bytes_per_token = 20 * MIB; /* 20 GiB left for 40 MiB a token */
    }
    expect(c, "memory", DOCTOR_BAD, "--kv-tokens 512");
}

static void huge_pages_that_are_off_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 1, 1, 8);
    c->facts.ranks[0].host.pages = DOCTOR_PAGES_NEVER;
    expect(c, "huge-pages", DOCTOR_WARNING, "echo madvise");
}

static void clocks_that_differ_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(2, 1, 1, 8);
    c->facts.ranks[1].ahead_s = 0.2;
    assert_null(find(c, "clock"));
    c->facts.ranks[1].ahead_s = -7;
    assert_non_null(strstr(find(c, "clock")->what, "the clock of n2 is 7.0 s behind that of n1"));
    expect(c, "clock", DOCTOR_WARNING, "set-ntp true");
}

static void a_low_clock_rate_is_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 1, 1, 8);
    strcpy(c->facts.ranks[0].host.governor, "powersave/intel_pstate");
    assert_null(find(c, "governor"));
    strcpy(c->facts.ranks[0].host.governor, "powersave/acpi-cpufreq");
    expect(c, "governor", DOCTOR_WARNING, "cpupower frequency-set -g performance");
}

static void forbidden_copies_are_found(void **state)
{
    (void)state;
    cluster_t *c = make(1, 2, 1, 8);
    c->facts.ranks[0].host.copies = 0;
    expect(c, "copies", DOCTOR_NOTE, "--cap-add=SYS_PTRACE");
}

static void a_slow_link_is_named(void **state)
{
    (void)state;
    cluster_t *c = make(4, 1, 1, 8);
    for (size_t i = 0; i < c->facts.n_pings; i++)
        if (c->facts.pings[i].a == 1 && c->facts.pings[i].b == 3)
            c->facts.pings[i].bytes_per_s = 0.1e9;
    assert_non_null(strstr(find(c, "slow-link")->what, "n2 and n4 (ranks 1 and 3)"));
    expect(c, "slow-link", DOCTOR_WARNING, "leave it out of mpirun --host");
}

static void a_slow_network_is_found_by_what_a_step_spends_there(void **state)
{
    (void)state;
    cluster_t *c = make(2, 1, 1, 8);
    c->facts.pings[0].bytes_per_s = 0.1e9;
    expect(c, "slow-network", DOCTOR_WARNING, "fewer nodes");
    c = make(2, 1, 1, 8);
    c->facts.pings[0].bytes_per_s = 0.1e9;
    c->facts.has_model = true;
    c->facts.n_gathers = 112;
    for (size_t r = 0; r < 2; r++) {
        c->facts.ranks[r].weight_bytes = 8 * GIB; /* read in 215 ms; 1 MB exchanged in 10 */
        c->facts.ranks[r].exchange_bytes_per_token = 1e6;
    }
    assert_null(find(c, "slow-network"));
    c->facts.pings[0].latency_s = 5e-3;
    assert_non_null(find(c, "slow-network"));
    discard(c);
}

static void a_faster_interface_that_is_not_used_is_found(void **state)
{
    (void)state;
    const interface_t ib0 = {
        .name = "ib0", .kind = INTERFACE_ETHERNET, .up = 1, .bits_per_s = 100e9};
    cluster_t *c = make(2, 1, 1, 8);
    c->facts.ranks[0].host.interfaces[c->facts.ranks[0].host.n_interfaces++] = ib0;
    assert_null(find(c, "interface")); /* only on one of them */
    c->facts.ranks[1].host.interfaces[c->facts.ranks[1].host.n_interfaces++] = ib0;
    c->facts.ranks[1].host.interfaces[2].up = 0;
    assert_null(find(c, "interface")); /* not connected there */
    c->facts.ranks[1].host.interfaces[2].up = 1;
    char command[512];
    assert_non_null(find(c, "interface"));
    doctor_command(&c->facts, &c->found, command, sizeof command);
    assert_non_null(strstr(command, "--mca btl_tcp_if_include ib0"));
    expect(c, "interface", DOCTOR_WARNING, "mpirun --mca btl_tcp_if_include ib0");
}

static void a_slow_rank_gets_a_smaller_share(void **state)
{
    (void)state;
    cluster_t *c = make(2, 1, 1, 8);
    c->facts.ranks[1].read_bytes_per_s = 20e9;
    assert_float_equal(find(c, "slow-rank")->cost, 1.0 / 3, 1e-6);
    expect(c, "slow-rank", DOCTOR_WARNING, "--shares 2,1");
    c = make(2, 2, 2, 8);
    c->facts.ranks[3].read_bytes_per_s = 16e9;
    expect(c, "slow-rank", DOCTOR_WARNING, "--shares 5,5,5,2");
}

static void findings_come_by_cost_and_what_is_bad_first(void **state)
{
    (void)state;
    cluster_t *c = make(2, 2, 1, 16);
    c->facts.ranks[0].host.pages = DOCTOR_PAGES_NEVER;
    strcpy(c->facts.ranks[3].mpi, "Open MPI v4.0.0");
    for (size_t r = 0; r < 4; r++)
        c->facts.ranks[r].threads = 2;
    c->facts.ranks[2].host.copies = 0;
    doctor_find(&c->facts, &c->found);
    assert_int_equal(c->found.n, 4);
    assert_string_equal(c->found.items[0].name, "mpi-versions");
    assert_string_equal(c->found.items[1].name, "unused-cores");
    assert_string_equal(c->found.items[2].name, "huge-pages");
    assert_string_equal(c->found.items[3].name, "copies");
    discard(c);
}

/* ---- The command ----------------------------------------------------------------------------- */

static void expect_command(cluster_t *c, const char *expected)
{
    char command[512];
    doctor_find(&c->facts, &c->found);
    doctor_command(&c->facts, &c->found, command, sizeof command);
    assert_string_equal(command, expected);
    discard(c);
}

static void the_command_has_a_rank_on_each_numa_node(void **state)
{
    (void)state;
    expect_command(make(2, 1, 2, 32),
        "mpirun -n 4 --host n1:2,n2:2 --map-by ppr:2:node:PE=16 --bind-to core choir ...");
    expect_command(make(1, 4, 1, 8), "mpirun -n 1 --map-by ppr:1:node --bind-to none choir ...");
    expect_command(make(20, 1, 1, 4),
        "mpirun -n 20 --hostfile FILE --map-by ppr:1:node:PE=4 --bind-to core choir ...");
}

static void the_command_keeps_within_quotas(void **state)
{
    (void)state;
    cluster_t *c = make(2, 1, 1, 8);
    for (size_t r = 0; r < 2; r++) {
        c->facts.ranks[r].topology.granted_cpus = 4;
        c->facts.ranks[r].host.is_root = 1;
    }
    expect_command(c, "mpirun -n 2 --allow-run-as-root --host n1:1,n2:1 --map-by ppr:1:node "
                      "--bind-to none choir ... --threads 4");
}

static void in_slurm_the_command_is_sruns(void **state)
{
    (void)state;
    cluster_t *c = make(2, 2, 2, 32);
    c->facts.ranks[0].host.in_slurm = 1;
    expect_command(c, "srun --mpi=pmix -N 2 -n 4 --ntasks-per-node=2 --cpus-per-task=16 "
                      "--hint=nomultithread --cpu-bind=cores choir ...");
}

/* ---- Pairs and interfaces -------------------------------------------------------------------- */

static void few_ranks_are_measured_in_all_pairs(void **state)
{
    (void)state;
    int nodes[16] = {0};
    ping_t pairs[PING_MOST_PAIRS];
    assert_int_equal(ping_choose(1, nodes, pairs), 0);
    assert_int_equal(ping_choose(2, nodes, pairs), 1);
    assert_int_equal(ping_choose(16, nodes, pairs), 120);
}

static void of_many_ranks_leaders_and_neighbours_are_measured(void **state)
{
    (void)state;
    int nodes[2048];
    ping_t pairs[PING_MOST_PAIRS];
    for (int r = 0; r < 20; r++)
        nodes[r] = r / 5;
    /* Leaders 0, 5, 10, 15 in a chain and with 0; in each node 4 pairs of neighbours. */
    assert_int_equal(ping_choose(20, nodes, pairs), 3 + 2 + 16);
    for (int r = 0; r < 2048; r++)
        nodes[r] = r / 2;
    size_t n = ping_choose(2048, nodes, pairs);
    assert_int_equal(n, PING_MOST_PAIRS);
    for (size_t i = 0; i < n; i++)
        assert_true(pairs[i].a < pairs[i].b && pairs[i].b < 2048);
}

static void the_interface_that_sent_the_bytes_carried_them(void **state)
{
    (void)state;
    interface_t before[2] = {{.name = "lo", .sent_bytes = 1000}, {.name = "eth0"}};
    interface_t after[2] = {{.name = "lo", .sent_bytes = 1400}, {.name = "eth0", .sent_bytes = 90}};
    assert_null(interfaces_carrier(before, 2, after, 2, 1000));
    assert_string_equal(interfaces_carrier(before, 2, after, 2, 500)->name, "lo");
    after[1].sent_bytes = 600;
    assert_string_equal(interfaces_carrier(before, 2, after, 2, 500)->name, "eth0");
    assert_null(interfaces_carrier(before, 0, after, 2, 0));
}

static void this_host_has_interfaces_of_known_kinds(void **state)
{
    (void)state;
    interface_t list[INTERFACES_MAX];
    size_t n = interfaces_read(list, INTERFACES_MAX);
    assert_true(n <= INTERFACES_MAX);
    for (size_t i = 0; i < n; i++) {
        assert_true(list[i].name[0] != '\0');
        assert_non_null(interface_kind_name(list[i].kind));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_cluster_has_no_findings),
        cmocka_unit_test(ranks_bound_to_single_cores_are_found),
        cmocka_unit_test(in_slurm_srun_fixes_bindings),
        cmocka_unit_test(cores_that_ranks_share_are_found),
        cmocka_unit_test(unused_cores_are_found),
        cmocka_unit_test(threads_beyond_a_ranks_cores_are_found),
        cmocka_unit_test(a_quota_below_the_threads_is_found),
        cmocka_unit_test(a_rank_over_several_numa_nodes_is_found),
        cmocka_unit_test(messages_over_tcp_within_a_node_are_found),
        cmocka_unit_test(two_nodes_of_one_machine_are_found),
        cmocka_unit_test(little_shared_memory_is_found),
        cmocka_unit_test(a_small_limit_of_locked_memory_matters_with_rdma),
        cmocka_unit_test(differing_versions_are_found),
        cmocka_unit_test(differing_instruction_sets_are_found),
        cmocka_unit_test(too_little_memory_for_the_plan_is_found),
        cmocka_unit_test(huge_pages_that_are_off_are_found),
        cmocka_unit_test(clocks_that_differ_are_found),
        cmocka_unit_test(a_low_clock_rate_is_found),
        cmocka_unit_test(forbidden_copies_are_found),
        cmocka_unit_test(a_slow_link_is_named),
        cmocka_unit_test(a_slow_network_is_found_by_what_a_step_spends_there),
        cmocka_unit_test(a_faster_interface_that_is_not_used_is_found),
        cmocka_unit_test(a_slow_rank_gets_a_smaller_share),
        cmocka_unit_test(findings_come_by_cost_and_what_is_bad_first),
        cmocka_unit_test(the_command_has_a_rank_on_each_numa_node),
        cmocka_unit_test(the_command_keeps_within_quotas),
        cmocka_unit_test(in_slurm_the_command_is_sruns),
        cmocka_unit_test(few_ranks_are_measured_in_all_pairs),
        cmocka_unit_test(of_many_ranks_leaders_and_neighbours_are_measured),
        cmocka_unit_test(the_interface_that_sent_the_bytes_carried_them),
        cmocka_unit_test(this_host_has_interfaces_of_known_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
