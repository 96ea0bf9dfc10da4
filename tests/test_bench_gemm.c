#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/measure/bench_gemm.h"
#include "engine/model/arch/arch.h"

/* A model whose matrices all have one small shape. */
static const config_t config = {.arch = &arch_qwen2,
    .hidden_size = 64,
    .intermediate_size = 64,
    .num_attention_heads = 1,
    .num_key_value_heads = 1,
    .head_dim = 64,
    .vocab_size = 64};

typedef struct masks {
    size_t threads, bound; /* of this process; those that are bound to less than it was */
    cpu_set_t all, together;
} masks_t;

static void count_masks(masks_t *masks)
{
    DIR *tasks = opendir("/proc/self/task");
    masks->threads = masks->bound = 0;
    CPU_ZERO(&masks->together);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        cpu_set_t mask;
        pid_t id = atoi(task->d_name);
        if (id == 0 || sched_getaffinity(id, sizeof mask, &mask) != 0)
            continue;
        masks->threads++;
        if (!CPU_EQUAL(&mask, &masks->all)) {
            cpu_set_t both;
            masks->bound++;
            CPU_AND(&both, &mask, &masks->together);
            assert_int_equal(CPU_COUNT(&both), 0);
            CPU_OR(&masks->together, &masks->together, &mask);
        }
    }
    closedir(tasks);
}

/* OpenBLAS and the team are there. The caller is not bound while OpenBLAS may start threads. */
static void at_first_shape(void *context, size_t done, size_t total, const char *shape)
{
    (void)shape;
    assert_int_equal(done, 1);
    assert_int_equal(total, 1);
    count_masks(context);
}

static void threads_of_the_team_are_bound_to_a_core_each_and_no_others_are(void **state)
{
    (void)state;
    fail_t fail = {0};
    topology_t topology;
    bench_gemm_t gemm;
    masks_t during, after;
    assert_int_equal(topology_read(&topology, &fail), 0);
    sched_getaffinity(0, sizeof during.all, &during.all);
    after.all = during.all;
    size_t threads = topology.bound_cores < 3 ? topology.bound_cores : 3;
    const bench_gemm_options_t options = {.config = &config,
        .mode = DTYPE_F32,
        .isa = ISA_SCALAR,
        .dot = DOT_CHAIN,
        .threads = threads,
        .bind = TOPOLOGY_BIND_CORE,
        .repeat = 1,
        .progress = at_first_shape,
        .progress_context = &during};
    assert_int_equal(bench_gemm_run(&options, &gemm, &fail), 0);
    assert_int_equal(gemm.n_rows, threads > 1 ? 12 : 6);
    bench_gemm_clear(&gemm);
    count_masks(&after);
    if (topology.bound_pus > 1 && threads > 1)
        assert_int_equal(during.bound, threads - 1);
    assert_int_equal(after.bound, 0);
}

static void more_threads_than_cores_cannot_each_have_one(void **state)
{
    (void)state;
    fail_t fail = {0};
    topology_t topology;
    bench_gemm_t gemm;
    assert_int_equal(topology_read(&topology, &fail), 0);
    const bench_gemm_options_t options = {.config = &config,
        .mode = DTYPE_F32,
        .isa = ISA_SCALAR,
        .dot = DOT_CHAIN,
        .threads = topology.bound_cores + 1,
        .bind = TOPOLOGY_BIND_CORE,
        .repeat = 1};
    assert_int_equal(bench_gemm_run(&options, &gemm, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "--bind core"));
    bench_gemm_clear(&gemm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_of_the_team_are_bound_to_a_core_each_and_no_others_are),
        cmocka_unit_test(more_threads_than_cores_cannot_each_have_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
