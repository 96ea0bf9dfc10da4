/* The cost model against numbers computed by hand, and rates that come back from runs made of them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/measure/calibrate.h"
#include "engine/measure/cluster_file.h"
#include "engine/measure/predict.h"
#include "tests/plan_fixture.h"

/* hidden 128 = 2 heads of 64; everything a multiple of a panel, so that bytes are plain products.
 */
static const plan_shape_t small = {.hidden = 128,
    .intermediate = 256,
    .n_layers = 2,
    .n_heads = 2,
    .n_kv_heads = 2,
    .head_dim = 64,
    .vocab_size = 512,
    .tied = true,
    .weight_bytes = 2,
    .cache_bytes = 2};

static plan_model_t small_sizes; /* of small; main sets it */

static const predict_network_t no_network;

static void near_to(double expected, double found)
{
    if (fabs(found - expected) > 1e-9 * fabs(expected))
        fail_msg("expected %.15g, found %.15g", expected, found);
}

static predict_curve_t constant(double y)
{
    predict_curve_t curve = {0};
    predict_curve_add(&curve, 1, y);
    return curve;
}

static void curves(void **state)
{
    predict_curve_t curve = {0};
    (void)state;
    near_to(0, predict_curve_at(&curve, 3));
    predict_curve_add(&curve, 16, 8);
    predict_curve_add(&curve, 1, 2);
    predict_curve_add(&curve, 4, 0); /* ignored */
    assert_int_equal(curve.n, 2);
    near_to(2, predict_curve_at(&curve, 0.5));
    near_to(2, predict_curve_at(&curve, 1));
    near_to(4, predict_curve_at(&curve, 4)); /* half way in logarithms */
    near_to(8, predict_curve_at(&curve, 99));
    predict_curve_add(&curve, 16, 9);
    near_to(9, predict_curve_at(&curve, 16));
    for (int i = 2; i < 40; i++)
        predict_curve_add(&curve, 100 + i, 1);
    assert_int_equal(curve.n, PREDICT_POINTS);
}

/* One rank, one thread: every term by itself. */
static void one_rank(void **state)
{
    plan_t plan;
    fail_t fail = {0};
    predict_result_t result;
    /* 10 keys when decoding begins and 3 steps: 12 on average. Two prompts of 6 in steps of 8. */
    const predict_work_t work = {
        .batch = 2, .prompt_tokens = 6, .context = 10, .gen_tokens = 3, .chunk = 8};
    predict_rates_t rates = {.threads = 1,
        .ranks = 1,
        .decode_matrix = constant(1e-9),
        .prompt_matrix = constant(3e-9),
        .decode_attention = constant(1e-8),
        .prompt_attention = constant(2e-8),
        .elementwise_layer_s = 1e-6,
        .elementwise_element_s = 1e-9,
        .waiting_layer_s = 5e-6,
        .waiting_share = 0.5,
        .sampling_step_s = 7e-6,
        .sampling_row_s = 1e-8};
    (void)state;
    assert_int_equal(plan_open(&plan, &small_sizes, PLAN_GATHER, 1, &fail), 0);
    predict_run(&plan, &rates, &no_network, 1, &work, &result);
    /* q, k, v 3 x 128 x 128; o 128 x 128; gate, up 2 x 256 x 128; down 128 x 256: 163,840 weights.
     */
    double layers = 2 * 163840 * 2, lm_head = 512 * 128 * 2;
    near_to((layers + lm_head) * 1e-9, result.decode.matrix);
    /* 2 layers, 2 heads, 2 rows, 12 keys, 4 x 64 operations. */
    near_to(2 * 2 * 2 * 12 * 256 * 1e-8, result.decode.attention);
    /* A row has 2 x 128 elements of norms, and 2 + 2 x 2 heads of 64. */
    near_to(2 * (1e-6 + 2 * 640 * 1e-9), result.decode.elementwise);
    near_to(7e-6 + 2 * 512 * 1e-8, result.decode.sampling);
    near_to(2 * 5e-6 +
                0.5 * (result.decode.matrix + result.decode.attention + result.decode.elementwise),
        result.decode.waiting);
    near_to(0, result.decode.exchange);
    near_to(2 / predict_seconds(&result.decode), result.decode_tokens_per_s);
    /* Steps of 8 and 4 rows, each with a draw, which alone goes on after the last layer's q, k and
     * v (98,304 bytes). Keys: 21 of each prompt, 24 and 18 of a step. */
    double layer = layers / 2, qkv = 98304;
    near_to(2 * ((layer + qkv) * 3e-9 + (layer - qkv + lm_head) * 1e-9), result.prefill.matrix);
    near_to(2 * ((1 + 1. / 8) * 24 + (1 + 1. / 4) * 18) * 256 * 2e-8, result.prefill.attention);
    near_to((3 + 1. / 8) / 2 * (1e-6 + 8 * 640 * 1e-9) + (3 + 1. / 4) / 2 * (1e-6 + 4 * 640 * 1e-9),
        result.prefill.elementwise);
    near_to(12 / predict_seconds(&result.prefill), result.prefill_tokens_per_s);
    plan_close(&plan);
}

/* Threads take whole panels: 2 of hidden rows go to 2 of 4 threads, so half of them rest. */
static void idle_threads(void **state)
{
    plan_t plan;
    fail_t fail = {0};
    predict_result_t result;
    const predict_work_t work = {1, 1, 1, 1, 512};
    predict_rates_t rates = {.threads = 4, .ranks = 1, .decode_matrix = constant(1)};
    (void)state;
    assert_int_equal(plan_open(&plan, &small_sizes, PLAN_GATHER, 1, &fail), 0);
    predict_run(&plan, &rates, &no_network, 1, &work, &result);
    /* qkv 6 panels on 4 threads: 2 each at most, as if 8. o 2: as if 4. gate, up 4 and 4. down
     * 2: 4. */
    double layer = (8 * 64 * 128 + 4 * 64 * 128 + 2 * 4 * 64 * 128 + 4 * 64 * 256) * 2.0;
    near_to(2 * layer + 512 * 128 * 2, result.decode.matrix);
    plan_close(&plan);
}

/* Two ranks on a node, and two nodes of one: what is exchanged. */
static size_t an_eighth(const struct format *layout, size_t rows, size_t columns)
{
    (void)layout;
    return rows * columns / 4;
}

/* Few rows read packed matrices; many multiply as many weights as a dense model has. */
static void packed_matrices(void **state)
{
    plan_t plan;
    fail_t fail = {0};
    predict_result_t dense, packed;
    const predict_work_t work = {
        .batch = 1, .prompt_tokens = 64, .context = 64, .gen_tokens = 2, .chunk = 64};
    const predict_rates_t rates = {
        .threads = 1, .ranks = 1, .decode_matrix = constant(1e-9), .prompt_matrix = constant(1e-9)};
    plan_model_t sizes = small_sizes;
    double lm_head = 512 * 128 * 2e-9;
    (void)state;
    assert_int_equal(plan_open(&plan, &sizes, PLAN_GATHER, 1, &fail), 0);
    predict_run(&plan, &rates, &no_network, 1, &work, &dense);
    plan_close(&plan);
    for (size_t i = 0; i < sizes.n_weights; i++)
        if (sizes.weights[i].per_layer && sizes.weights[i].columns != PLAN_DIM_NONE)
            sizes.weights[i].matrix_bytes = an_eighth;
    assert_int_equal(plan_open(&plan, &sizes, PLAN_GATHER, 1, &fail), 0);
    predict_run(&plan, &rates, &no_network, 1, &work, &packed);
    plan_close(&plan);
    near_to((dense.decode.matrix - lm_head) / 8 + lm_head, packed.decode.matrix);
    /* The last layer's o, gate, up and down are computed for one row alone. */
    double last = (128 * 128 + 3 * 128 * 256) * 2e-9;
    near_to(dense.prefill.matrix - last * 7 / 8, packed.prefill.matrix);
}

/* Memory has packed bytes; a row takes the time of dense ones over the measured speed, many rows that of dense ones. */
static void packed_weights(void **state)
{
    plan_t plan;
    fail_t fail = {0};
    predict_result_t dense, packed;
    const predict_work_t work = {
        .batch = 1, .prompt_tokens = 64, .context = 64, .gen_tokens = 2, .chunk = 64};
    predict_rates_t rates = {
        .threads = 1, .ranks = 1, .decode_matrix = constant(1e-9), .prompt_matrix = constant(1e-9)};
    plan_model_t sizes = small_sizes;
    (void)state;
    assert_int_equal(plan_open(&plan, &sizes, PLAN_GATHER, 1, &fail), 0);
    size_t bytes = plan_weight_bytes(&plan, 0);
    predict_run(&plan, &rates, &no_network, 1, &work, &dense);
    plan_close(&plan);
    const format_t *format = format_packed(format_dense(DTYPE_BF16));
    sizes.packed = true;
    sizes.layout = format;
    sizes.matrix_bytes = format->matrix_bytes;
    assert_int_equal(plan_open(&plan, &sizes, PLAN_GATHER, 1, &fail), 0);
    assert_true(plan_weight_bytes(&plan, 0) < bytes);
    predict_run(&plan, &rates, &no_network, 1, &work, &packed);
    near_to(dense.decode.matrix, packed.decode.matrix);
    rates.packed_speed = 1.25;
    predict_run(&plan, &rates, &no_network, 1, &work, &packed);
    plan_close(&plan);
    near_to(dense.decode.matrix / 1.25, packed.decode.matrix);
    /* Of a prompt the last layer's o, gate, up and down, and lm_head, are of one row. */
    double row = (128 * 128 + 3 * 128 * 256 + 512 * 128) * 2e-9;
    near_to(dense.prefill.matrix - row * (1 - 1 / 1.25), packed.prefill.matrix);
}

static void exchange(void **state)
{
    plan_t plan;
    fail_t fail = {0};
    predict_result_t near, far;
    const predict_work_t work = {1, 64, 64, 1, 512};
    const predict_network_t network = {20e-6, 1e9, 0, 0};
    predict_rates_t rates = {.threads = 1, .ranks = 2, .gather_s = 1e-6, .copy_byte_s = 1e-9};
    (void)state;
    assert_int_equal(plan_open(&plan, &small_sizes, PLAN_GATHER, 2, &fail), 0);
    predict_run(&plan, &rates, &no_network, 2, &work, &near);
    /* 4 gathers a layer, the embedding's, 3 rounds of the step; 2 messages. */
    near_to(12 * 1e-6 + 2 * PREDICT_MESSAGE_S, near.decode.exchange);
    /* A prompt's 64 rows go through windows: 128 + 2 x 128 + 256 elements a layer; one of them
     * through the last layer's. */
    near_to(near.decode.exchange + 65 * 640 * 2 * 1e-9, near.prefill.exchange);
    near_to(0, near.decode.network);
    near_to(0, near.network_bytes);
    predict_run(&plan, &rates, &network, 1, &work, &far);
    /* Half of every activation, and the embedding's row. */
    near_to(2 * 320 * 2 + 256, far.network_bytes);
    near_to(far.network_bytes, far.exchange_bytes);
    near_to(12 * 20e-6 + far.network_bytes / 1e9, far.decode.network);
    near_to(near.decode.exchange + 9 * 1e-6 + far.decode.network, far.decode.exchange);
    near_to(12 * 20e-6 + (64 * 256 + 65 * 640) / 1e9, far.prefill.network);
    plan_close(&plan);
}

/* A link that lets 100 bytes of each gather pass at once, of gathers of 128, 128, 256 and 128 bytes
 * a row, if it has time to save up before each; else those of the first layer only. */
static void bursts(void **state)
{
    plan_t plan;
    fail_t fail = {0};
    predict_result_t idle, busy;
    const predict_work_t work = {1, 64, 64, 1, 512};
    const predict_network_t network = {20e-6, 1e9, 100, 0};
    predict_rates_t rates = {.threads = 1, .ranks = 1};
    (void)state;
    assert_int_equal(plan_open(&plan, &small_sizes, PLAN_GATHER, 2, &fail), 0);
    predict_run(&plan, &rates, &network, 1, &work, &idle);
    near_to(12 * 20e-6 + idle.network_bytes / 1e9, idle.decode.network);
    rates.decode_matrix = constant(1);
    predict_run(&plan, &rates, &network, 1, &work, &busy);
    near_to(12 * 20e-6 + (busy.network_bytes - 2 * 4 * 100) / 1e9, busy.decode.network);
    near_to(idle.prefill.network, busy.prefill.network);
    plan_close(&plan);
}

/* Seconds between two nodes of a prompt's one step, without latency. */
static double prompt_seconds(
    const plan_shape_t *model, size_t rows, double matrix_byte_s, double processor_byte_s)
{
    plan_t plan;
    fail_t fail = {0};
    predict_result_t result;
    const plan_model_t sizes = plan_sizes(model);
    const predict_work_t work = {1, rows, rows, 1, 512};
    const predict_network_t network = {0, 1e9, 0, processor_byte_s};
    predict_rates_t rates = {.threads = 1, .ranks = 1, .prompt_matrix = constant(matrix_byte_s)};
    assert_int_equal(plan_open(&plan, &sizes, PLAN_GATHER, 2, &fail), 0);
    predict_run(&plan, &rates, &network, 1, &work, &result);
    plan_close(&plan);
    return result.prefill.network;
}

/* Gathers of 128, 128, 256 and 128 bytes a row; from 512 rows on each is 64 KiB of a rank's part.
 * The first is written by attention, which takes no time here, the others by o, gate and up, and
 * down. */
static void streams(void **state)
{
    const double o = 64 * 128 * 2, up = 2 * 128 * 128 * 2, down = 64 * 256 * 2;
    /* One row of the prompt goes through the last of two layers. */
    const double all = (512 * 256 + 513 * 640) / 1e9, layers = 1 + 1. / 512;
    (void)state;
    near_to(all, prompt_seconds(&small, 512, 0, 0));
    /* A slow network: the first of ten bursts comes after a tenth of the phase. */
    near_to(all - layers * 0.9 * (o + up + down) * 1e-9, prompt_seconds(&small, 512, 1e-9, 0));
    /* A fast one: the last burst is waited for. */
    near_to(all - layers * 0.9 * 512 * 512 / 1e9, prompt_seconds(&small, 512, 1e-6, 0));
    /* Nothing hides the processor's part, and the last burst passes meanwhile in part. */
    near_to(all - layers * 0.45 * 512 * 512 / 1e9, prompt_seconds(&small, 512, 1e-6, 0.5e-9));
    near_to(all, prompt_seconds(&small, 512, 0, 0.5e-9));
}

/* Of too few rows or bytes nothing is hidden, and nothing is the processor's. */
static void no_streams(void **state)
{
    plan_shape_t wide = small;
    (void)state;
    near_to((255 * 256 + 256 * 640) / 1e9, prompt_seconds(&small, 255, 1e-6, 1e-8));
    assert_true(prompt_seconds(&small, 256, 1e-6, 0) < (255 * 256 + 256 * 640) / 1e9);
    wide.intermediate = 8192;
    near_to((31 * 256 + 32 * (3 * 128 + 8192)) / 1e9, prompt_seconds(&wide, 31, 1e-6, 1e-8));
    near_to((32 * 256 + 33 * (3 * 128 + 819.2)) / 1e9, prompt_seconds(&wide, 32, 1e-6, 0));
}

static predict_rates_t rates_of(size_t ranks, size_t threads, size_t hidden, size_t head_dim)
{
    return (predict_rates_t){.ranks = ranks,
        .threads = threads,
        .hidden = hidden,
        .head_dim = head_dim,
        .decode_matrix = constant(1e-9),
        .prompt_matrix = constant(1e-11)};
}

static void choosing(void **state)
{
    predict_rates_t all[] = {rates_of(1, 1, 896, 64), rates_of(1, 2, 896, 64),
        rates_of(1, 2, 1536, 128), rates_of(2, 1, 1536, 128)};
    const predict_cluster_t cluster = {.n_rates = 4, .rates = all};
    (void)state;
    assert_ptr_equal(predict_choose(&cluster, 1, 0, 900, 64), &all[1]);
    assert_ptr_equal(predict_choose(&cluster, 1, 1, 900, 64), &all[0]);
    assert_ptr_equal(predict_choose(&cluster, 1, 0, 8192, 128), &all[2]);
    assert_ptr_equal(predict_choose(&cluster, 8, 0, 896, 64), &all[3]);
    assert_null(predict_choose(&(predict_cluster_t){0}, 1, 0, 1, 1));
}

/* With a slow network replicas win; with too little memory they do not fit. */
static void meshes(void **state)
{
    predict_rates_t rates[] = {rates_of(1, 1, 128, 64)};
    predict_cluster_t cluster = {.n_rates = 1, .rates = rates};
    predict_query_t query = {.cluster = &cluster,
        .model = &small_sizes,
        .ranks_per_node = 1,
        .work = {4, 8, 8, 1, 512},
        .network = {1e-2, 1e9}};
    predict_mesh_t best, one;
    fail_t fail = {0};
    (void)state;
    assert_int_equal(predict_best_mesh(&query, 4, false, &best, &fail), 0);
    assert_int_equal(best.replicas, 4);
    assert_int_equal(best.nodes, 4);
    assert_true(best.fits);
    assert_int_equal(predict_mesh(&query, 1, 1, &one, &fail), 0);
    /* Each replica has a quarter of the sequences, and no time depends on how many. */
    near_to(one.decode_tokens_per_s, best.decode_tokens_per_s);
    query.network.latency_s = 0;
    query.network.bytes_per_s = 1e15;
    cluster.node_memory_bytes = one.weight_bytes * 0.9;
    assert_int_equal(predict_best_mesh(&query, 4, false, &best, &fail), 0);
    assert_true(best.fits && best.replicas < 4);
    assert_int_equal(predict_best_mesh(&query, 1, false, &best, &fail), 0);
    assert_false(best.fits);
    assert_int_equal(predict_mesh(&query, 4, 3, &one, &fail), FAIL_USAGE);
    assert_non_null(strstr(fail.message, "3 replicas of 4 ranks"));
}

/* Samples made of known rates give these rates back. */
static void calibration(void **state)
{
    bench_options_t runs[CALIBRATE_RUNS];
    calibrate_sample_t samples[CALIBRATE_RUNS];
    plan_t plan;
    fail_t fail = {0};
    const predict_rates_t truth = {.ranks = 2,
        .threads = 2,
        .decode_matrix = constant(3e-11),
        .prompt_matrix = constant(7e-11),
        .decode_attention = constant(5e-11),
        .prompt_attention = constant(6e-12),
        .elementwise_layer_s = 2e-6,
        .elementwise_element_s = 4e-10,
        .waiting_layer_s = 3e-6,
        .waiting_share = 0.05,
        .sampling_step_s = 9e-6,
        .sampling_row_s = 2e-9,
        .gather_s = 2e-6,
        .copy_byte_s = 8e-11};
    predict_rates_t found = {.ranks = 2, .threads = 2};
    (void)state;
    assert_int_equal(plan_open(&plan, &small_sizes, PLAN_GATHER, 2, &fail), 0);
    calibrate_runs(runs);
    for (size_t i = 0; i < CALIBRATE_RUNS; i++) {
        predict_result_t result;
        samples[i].work = (predict_work_t){
            runs[i].batch, runs[i].prompt_tokens, runs[i].context, runs[i].gen_tokens, 512};
        predict_run(&plan, &truth, &no_network, 2, &samples[i].work, &result);
        samples[i].prefill = result.prefill;
        samples[i].decode = result.decode;
    }
    calibrate_fit(&plan, samples, CALIBRATE_RUNS, &found);
    near_to(3e-11, predict_curve_at(&found.decode_matrix, 5));
    near_to(7e-11, predict_curve_at(&found.prompt_matrix, 300));
    near_to(5e-11, predict_curve_at(&found.decode_attention, 900));
    near_to(6e-12, predict_curve_at(&found.prompt_attention, 900));
    const double expected[] = {2e-6, 4e-10, 3e-6, 0.05, 9e-6, 2e-9, 2e-6, 8e-11};
    const double values[] = {found.elementwise_layer_s, found.elementwise_element_s,
        found.waiting_layer_s, found.waiting_share, found.sampling_step_s, found.sampling_row_s,
        found.gather_s, found.copy_byte_s};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (fabs(values[i] / expected[i] - 1) > 1e-6)
            fail_msg("rate %zu: expected %g, found %g", i, expected[i], values[i]);
    /* Decoding so slow that the logits alone would take longer than the prompts did. */
    for (size_t i = 0; i < CALIBRATE_RUNS; i++)
        samples[i].decode.matrix *= 1e6;
    found = (predict_rates_t){.ranks = 2, .threads = 2};
    calibrate_fit(&plan, samples, CALIBRATE_RUNS, &found);
    assert_true(predict_curve_at(&found.prompt_matrix, 300) > 7e-11);
    plan_close(&plan);
}

/* A rate of a link that is busy or not, from seconds that may be anything. */
static void links(void **state)
{
    (void)state;
    predict_network_t link = calibrate_link(1e-4, 2e-4, 1.2e-3, 2.7e-4, 4096);
    near_to(1e-4, link.latency_s);
    near_to(512 * 4096 / 1e-3, link.bytes_per_s);
    near_to(128 * 4096 - 7e-5 * link.bytes_per_s, link.burst_bytes);
    link = calibrate_link(1e-4, 2e-4, 1.2e-3, 4.5e-4, 4096);
    near_to(0, link.burst_bytes);
    link = calibrate_link(1e-2, 2e-2, 5e-3, 1e-3, 4096);
    near_to(512 * 4096 / 5e-3, link.bytes_per_s);
    near_to(0, link.burst_bytes);
}

/* Of three repetitions the one in the middle, for prefill and decode each by itself. */
static void medians(void **state)
{
    calibrate_sample_t samples[3 * CALIBRATE_RUNS] = {0}, found[CALIBRATE_RUNS];
    const double prefills[] = {3, 9, 4}, decodes[] = {1, 1, 0.5};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        calibrate_sample_t *sample = &samples[i * CALIBRATE_RUNS + 2];
        sample->prefill.matrix = 2;
        sample->prefill.waiting = prefills[i] - 2;
        sample->decode.exchange = decodes[i];
        sample->work.batch = 7;
    }
    calibrate_medians(samples, 3, found);
    near_to(2, found[2].prefill.waiting);
    near_to(1, found[2].decode.exchange);
    assert_int_equal(found[2].work.batch, 7);
}

static int make_path(void **state)
{
    char *path = strdup("/tmp/choir-cluster-XXXXXX");
    int file = path == NULL ? -1 : mkstemp(path);
    if (file < 0)
        return -1;
    close(file);
    *state = path;
    return 0;
}

static int remove_path(void **state)
{
    unlink(*state);
    free(*state);
    return 0;
}

/* Reads a file of this text. */
static int read_text(const char *path, const char *text, predict_cluster_t *cluster, fail_t *fail)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return cluster_file_read(cluster, path, fail);
}

static void what_a_cluster_file_is_made_of_comes_back(void **state)
{
    const char *path = *state;
    predict_rates_t rates = rates_of(1, 2, 896, 64);
    predict_cluster_t cluster = {.cpu = "some CPU", .node_cores = 2, .node_memory_bytes = 1e9},
                      back;
    fail_t fail = {0};
    snprintf(rates.model, sizeof rates.model, "shape");
    rates.waiting_share = 0.25;
    rates.packed_speed = 1.125;
    cluster.network = (predict_network_t){5e-6, 1.25e9, 3e5, 2e-10};
    assert_int_equal(cluster_add_rates(&cluster, &rates, &fail), 0);
    rates.gather_s = 1e-6;
    assert_int_equal(cluster_add_rates(&cluster, &rates, &fail), 0); /* in its own place */
    assert_int_equal(cluster.n_rates, 1);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_int_equal(cluster_file_write(&cluster, out, &fail), 0);
    fclose(out);
    assert_int_equal(cluster_file_read(&back, path, &fail), 0);
    assert_string_equal(back.cpu, "some CPU");
    assert_int_equal(back.n_rates, 1);
    assert_string_equal(back.rates[0].model, "shape");
    near_to(1.25e9, back.network.bytes_per_s);
    near_to(3e5, back.network.burst_bytes);
    near_to(2e-10, back.network.processor_byte_s);
    near_to(1e-6, back.rates[0].gather_s);
    near_to(0.25, back.rates[0].waiting_share);
    near_to(1.125, back.rates[0].packed_speed);
    near_to(1e-11, predict_curve_at(&back.rates[0].prompt_matrix, 7));
    predict_cluster_clear(&back);
    predict_cluster_clear(&cluster);
}

#define HEAD "{\"schema\": 1, \"node_cores\": 2, \"node_memory_bytes\": 1, \"rates\": ["

/* A file from before a member of the network was known. */
static void a_cluster_file_may_lack_the_network_s_processor_time(void **state)
{
    predict_cluster_t back;
    fail_t fail = {0};
    assert_int_equal(
        read_text(*state, HEAD "], \"network\": {\"latency_s\": 1e-6, \"bytes_per_s\": 1e9}}",
            &back, &fail),
        0);
    near_to(1e9, back.network.bytes_per_s);
    near_to(0, back.network.processor_byte_s);
    predict_cluster_clear(&back);
}

static void a_broken_cluster_file_is_refused_by_name(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {HEAD "{\"ranks\": 1, \"threads\": 1, \"hidden\": 4, \"head_dim\": 2}]}",
            "elementwise_layer_s"},
        /* Members that nobody would read. */
        {"{\"schema\": 1, \"latency\": 2}", "unknown field \"latency\"; allowed are "},
        {HEAD "], \"network\": {\"latency\": 2}}", "unknown field \"latency\"; allowed are "},
        {HEAD "{\"latency\": 2}]}", "unknown field \"latency\"; allowed are "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        predict_cluster_t back;
        fail_t fail = {0};
        assert_int_equal(read_text(*state, cases[i].text, &back, &fail), FAIL_FORMAT);
        assert_non_null(strstr(fail.message, cases[i].message));
        predict_cluster_clear(&back);
    }
}

int main(void)
{
    small_sizes = plan_sizes(&small);
    const struct CMUnitTest tests[] = {cmocka_unit_test(curves), cmocka_unit_test(one_rank),
        cmocka_unit_test(idle_threads), cmocka_unit_test(packed_matrices),
        cmocka_unit_test(packed_weights), cmocka_unit_test(exchange), cmocka_unit_test(bursts),
        cmocka_unit_test(streams), cmocka_unit_test(no_streams), cmocka_unit_test(choosing),
        cmocka_unit_test(meshes), cmocka_unit_test(calibration), cmocka_unit_test(links),
        cmocka_unit_test(medians),
        cmocka_unit_test_setup_teardown(
            what_a_cluster_file_is_made_of_comes_back, make_path, remove_path),
        cmocka_unit_test_setup_teardown(
            a_cluster_file_may_lack_the_network_s_processor_time, make_path, remove_path),
        cmocka_unit_test_setup_teardown(
            a_broken_cluster_file_is_refused_by_name, make_path, remove_path)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
