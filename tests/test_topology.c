/* comm/topology.h and comm/cgroup.h: what they read from made-up machines and control groups, and
 * what they make of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "comm/cgroup.h"
#include "comm/topology.h"

static void a_made_up_machine_is_read_as_described(void **state)
{
    (void)state;
    fail_t fail = {0};
    topology_t topology;
    setenv("HWLOC_SYNTHETIC",
        "node:2(memory=8589934592) l3:1(size=33554432) l2:16(size=1048576) core:1 pu:2", 1);
    int status = topology_read(&topology, &fail);
    unsetenv("HWLOC_SYNTHETIC");
    assert_int_equal(status, 0);
    assert_int_equal(topology.node_cores, 32);
    assert_int_equal(topology.node_pus, 64);
    assert_int_equal(topology.bound_cores, 32);
    assert_int_equal(topology.bound_pus, 64);
    assert_false(topology.bound);
    assert_int_equal(topology.l2_bytes, 1048576);
    assert_int_equal(topology.l3_bytes, 33554432);
    assert_int_equal(topology.memory_bytes, (size_t)16 << 30);
}

static void hardware_threads_are_listed_with_their_places(void **state)
{
    (void)state;
    fail_t fail = {0};
    topology_pu_t *pus;
    size_t n;
    setenv("HWLOC_SYNTHETIC", "package:2 numa:2(memory=1073741824) core:3 pu:2", 1);
    int status = topology_pus(&pus, &n, &fail);
    unsetenv("HWLOC_SYNTHETIC");
    assert_int_equal(status, 0);
    assert_int_equal(n, 24);
    for (size_t p = 0; p < n; p++) {
        assert_int_equal(pus[p].os, p);
        assert_int_equal(pus[p].core, p / 2);
        assert_int_equal(pus[p].numa, p / 6);
        assert_int_equal(pus[p].package, p / 12);
    }
    free(pus);
}

static void a_machine_without_caches_reads_as_unknown(void **state)
{
    (void)state;
    fail_t fail = {0};
    topology_t topology;
    setenv("HWLOC_SYNTHETIC", "pu:3", 1);
    int status = topology_read(&topology, &fail);
    unsetenv("HWLOC_SYNTHETIC");
    assert_int_equal(status, 0);
    assert_int_equal(topology.node_cores, 3);
    assert_int_equal(topology.l2_bytes, 0);
    assert_int_equal(topology.l3_bytes, 0);
}

static void a_binding_to_one_hardware_thread_is_one_core(void **state)
{
    (void)state;
    fail_t fail = {0};
    topology_t topology;
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    int status = topology_read(&topology, &fail);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    assert_int_equal(status, 0);
    assert_int_equal(topology.bound_cores, 1);
    assert_int_equal(topology.bound_pus, 1);
    assert_int_equal(topology.bound, topology.node_pus > 1);
    assert_true(topology.node_pus >= (size_t)CPU_COUNT(&before));
    assert_true(topology.node_cores >= 1 && topology.node_cores <= topology.node_pus);
    assert_true(topology.memory_bytes > (size_t)16 << 20);
}

static void threads_are_the_ranks_part_of_its_cores(void **state)
{
    (void)state;
    topology_t unbound = {.node_cores = 64, .node_pus = 128, .bound_cores = 64, .bound_pus = 128};
    assert_int_equal(topology_threads(&unbound, 0, 1), 64);
    assert_int_equal(topology_threads(&unbound, 0, 3), 21);
    assert_int_equal(topology_threads(&unbound, 0, 65), 1);
    assert_int_equal(topology_threads(&unbound, 0, 0), 64);
    assert_int_equal(topology_threads(&unbound, 200, 3), 200);
    topology_t socket = {.node_cores = 64, .bound_cores = 32, .bound = true};
    assert_int_equal(topology_threads(&socket, 0, 2), 16);
    topology_t core = {.node_cores = 64, .bound_cores = 1, .bound = true};
    assert_int_equal(topology_threads(&core, 0, 1), 1);
    topology_t quota = {.node_cores = 64, .bound_cores = 64, .granted_cpus = 6};
    assert_int_equal(topology_threads(&quota, 0, 1), 6);
    assert_int_equal(topology_threads(&quota, 0, 4), 1);
    assert_int_equal(topology_threads(&quota, 0, 8), 1);
}

static void expect_advice(topology_t topology, size_t threads, size_t ranks, const char *expected)
{
    char text[512] = "left over";
    topology_advice(&topology, threads, ranks, text, sizeof text);
    assert_string_equal(text, expected);
}

static void advice_names_wasted_cores(void **state)
{
    (void)state;
    topology_t core = {
        .node_cores = 64, .node_pus = 128, .bound_cores = 1, .bound_pus = 2, .bound = true};
    expect_advice(core, 1, 2,
        "this rank is bound to 1 core while the node has 64 for 2 ranks; start with mpirun "
        "--bind-to "
        "none, or --map-by slot:PE=32 --bind-to core");
    expect_advice(core, 32, 1,
        "this rank is bound to 1 core while the node has 64 for 1 rank; start with mpirun "
        "--bind-to "
        "none, or --map-by slot:PE=64 --bind-to core");
    expect_advice(core, 1, 64, "");
}

static void advice_names_shared_cores(void **state)
{
    (void)state;
    topology_t core = {
        .node_cores = 2, .node_pus = 2, .bound_cores = 1, .bound_pus = 1, .bound = true};
    expect_advice(core, 2, 2,
        "2 threads of this rank share 1 hardware thread; choose --threads 1 or fewer, or start "
        "with "
        "mpirun --bind-to none");
    topology_t unbound = {.node_cores = 2, .node_pus = 2, .bound_cores = 2, .bound_pus = 2};
    expect_advice(unbound, 3, 1,
        "3 threads of this rank share 2 hardware threads; choose --threads 2 or fewer");
    expect_advice(unbound, 2, 2,
        "2 ranks of 2 threads share the 2 hardware threads of this node; choose fewer ranks or "
        "--threads 1");
    expect_advice(unbound, 1, 8,
        "8 ranks share the 2 hardware threads of this node and wait for each other; choose fewer "
        "ranks");
    unbound.granted_cpus = 1;
    expect_advice(
        unbound, 1, 2, "2 ranks of 1 thread share a quota of 1 CPU (control group); expect stalls");
}

static void advice_is_silent_when_cores_are_used_once(void **state)
{
    (void)state;
    topology_t unbound = {.node_cores = 64, .node_pus = 128, .bound_cores = 64, .bound_pus = 128};
    expect_advice(unbound, 64, 1, "");
    expect_advice(unbound, 32, 2, "");
    expect_advice(unbound, 1, 1, "");
    topology_t socket = {
        .node_cores = 64, .node_pus = 64, .bound_cores = 32, .bound_pus = 32, .bound = true};
    expect_advice(socket, 16, 4, "");
    expect_advice(socket, 32, 2, "");
}

static void advice_fits_into_a_short_buffer(void **state)
{
    (void)state;
    topology_t core = {.node_cores = 64, .bound_cores = 1, .bound_pus = 1, .bound = true};
    char text[20];
    topology_advice(&core, 1, 2, text, sizeof text);
    assert_string_equal(text, "this rank is bound ");
}

/* A directory of made-up control groups. */
typedef struct groups {
    char root[256], membership[300];
} groups_t;

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void set_membership(const groups_t *groups, const char *text)
{
    write_file(groups->membership, text);
}

/* Creates the group, whose parents exist, and one file in it. */
static void set_group(const groups_t *groups, const char *group, const char *file, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s%s", groups->root, group);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s%s/%s", groups->root, group, file);
    write_file(path, text);
}

static size_t cpus(const groups_t *groups)
{
    return cgroup_cpus(groups->membership, groups->root);
}

static int make_groups(void **state)
{
    groups_t *groups = calloc(1, sizeof *groups);
    const char *tmp = getenv("TMPDIR");
    snprintf(groups->root, sizeof groups->root, "%s/groups-XXXXXX", tmp != NULL ? tmp : P_tmpdir);
    if (mkdtemp(groups->root) == NULL)
        return -1;
    snprintf(groups->membership, sizeof groups->membership, "%s/membership", groups->root);
    *state = groups;
    return 0;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static int remove_groups(void **state)
{
    groups_t *groups = *state;
    int status = nftw(groups->root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(groups);
    return status;
}

static void version_2_quota_is_the_tightest_of_all_parents(void **state)
{
    const groups_t *groups = *state;
    set_membership(groups, "0::/slurm/job/step\n");
    set_group(groups, "", "cpu.max", "max 100000\n");
    set_group(groups, "/slurm", "cpu.max", "250000 100000\n");
    set_group(groups, "/slurm/job", "cpu.max", "800000 100000\n");
    set_group(groups, "/slurm/job/step", "cpu.max", "max 100000\n");
    assert_int_equal(cpus(groups), 3);
    set_group(groups, "/slurm/job/step", "cpu.max", "50000 100000\n");
    assert_int_equal(cpus(groups), 1);
}

static void a_container_sees_its_quota_at_the_root(void **state)
{
    const groups_t *groups = *state;
    set_membership(groups, "0::/system.slice/not-visible-here\n");
    set_group(groups, "", "cpu.max", "400000 100000\n");
    assert_int_equal(cpus(groups), 4);
}

static void version_1_quota_is_found_among_other_controllers(void **state)
{
    const groups_t *groups = *state;
    set_membership(
        groups, "5:cpuset:/\n4:memory:/box\n3:cpuacct,cpu:/box\n1:name=systemd:/\n0::/\n");
    set_group(groups, "/cpu", "cpu.cfs_quota_us", "-1\n");
    set_group(groups, "/cpu", "cpu.cfs_period_us", "100000\n");
    assert_int_equal(cpus(groups), 0);
    set_group(groups, "/cpu/box", "cpu.cfs_quota_us", "150000\n");
    set_group(groups, "/cpu/box", "cpu.cfs_period_us", "50000\n");
    assert_int_equal(cpus(groups), 3);
}

static void no_quota_and_nonsense_read_as_none(void **state)
{
    const groups_t *groups = *state;
    assert_int_equal(cpus(groups), 0);
    set_membership(groups, "0::/\n");
    assert_int_equal(cpus(groups), 0);
    set_group(groups, "", "cpu.max", "max 100000\n");
    assert_int_equal(cpus(groups), 0);
    set_group(groups, "", "cpu.max", "lots\n");
    assert_int_equal(cpus(groups), 0);
    set_group(groups, "", "cpu.max", "100000 0\n");
    assert_int_equal(cpus(groups), 0);
    set_group(groups, "", "cpu.max", "");
    assert_int_equal(cpus(groups), 0);
    set_group(groups, "", "cpu.max", "100000 100000\n");
    set_membership(groups, "no colons\n:\n");
    assert_int_equal(cpus(groups), 0);
}

/* 4 cores of 2 hardware threads. */
static int open_binding(topology_bind_t bind, size_t threads, size_t ranks, fail_t *fail)
{
    topology_binding_t *binding;
    setenv("HWLOC_SYNTHETIC", "node:2 core:2 pu:2", 1);
    topology_binding_open(&binding, bind, threads, ranks - 1, ranks, fail);
    unsetenv("HWLOC_SYNTHETIC");
    topology_binding_close(binding);
    return fail->status;
}

static void no_core_is_bound_twice(void **state)
{
    (void)state;
    fail_t fail = {0};
    assert_int_equal(open_binding(TOPOLOGY_BIND_CORE, 2, 2, &fail), 0);
    assert_int_equal(open_binding(TOPOLOGY_BIND_CORE, 1, 4, &fail), 0);
    assert_int_equal(open_binding(TOPOLOGY_BIND_NUMA, 9, 3, &fail), 0);
    assert_int_equal(open_binding(TOPOLOGY_BIND_CORE, 3, 2, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "2 ranks of 3 threads would share 4 cores"));
}

static void a_bound_thread_stays_on_its_core(void **state)
{
    (void)state;
    fail_t fail = {0};
    topology_binding_t *binding;
    cpu_set_t before, bound;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(topology_binding_open(&binding, TOPOLOGY_BIND_CORE, 1, 0, 1, &fail), 0);
    topology_binding_apply(binding, 0);
    topology_binding_close(binding);
    assert_int_equal(sched_getaffinity(0, sizeof bound, &bound), 0);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        assert_true(!CPU_ISSET(cpu, &bound) || CPU_ISSET(cpu, &before));
    assert_true(CPU_COUNT(&bound) >= 1 && CPU_COUNT(&bound) <= 8); /* threads of one core */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_made_up_machine_is_read_as_described),
        cmocka_unit_test(hardware_threads_are_listed_with_their_places),
        cmocka_unit_test(a_machine_without_caches_reads_as_unknown),
        cmocka_unit_test(a_binding_to_one_hardware_thread_is_one_core),
        cmocka_unit_test(no_core_is_bound_twice),
        cmocka_unit_test(a_bound_thread_stays_on_its_core),
        cmocka_unit_test(threads_are_the_ranks_part_of_its_cores),
        cmocka_unit_test(advice_names_wasted_cores),
        cmocka_unit_test(advice_names_shared_cores),
        cmocka_unit_test(advice_is_silent_when_cores_are_used_once),
        cmocka_unit_test(advice_fits_into_a_short_buffer),
        cmocka_unit_test_setup_teardown(
            version_2_quota_is_the_tightest_of_all_parents, make_groups, remove_groups),
        cmocka_unit_test_setup_teardown(
            a_container_sees_its_quota_at_the_root, make_groups, remove_groups),
        cmocka_unit_test_setup_teardown(
            version_1_quota_is_found_among_other_controllers, make_groups, remove_groups),
        cmocka_unit_test_setup_teardown(
            no_quota_and_nonsense_read_as_none, make_groups, remove_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
