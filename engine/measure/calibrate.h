/* From measured runs to the rates of the cost model (predict.h).
 *
 * The model is linear in its rates, so each is what was measured over what the model says with that
 * rate at 1 and all others at 0. */
#ifndef CHOIR_MEASURE_CALIBRATE_H
#define CHOIR_MEASURE_CALIBRATE_H

#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/measure/bench.h"
#include "engine/measure/predict.h"

#define CALIBRATE_RUNS 9

/* Pure. The runs that rates are fitted to, [CALIBRATE_RUNS]: 1 to 64 sequences, steps of 32 to 512
 * rows, contexts of 128 to 2,048 keys. repeat, warmup and read_bytes are left to the caller. */
void calibrate_runs(bench_options_t *runs);

/* The times of one run. */
typedef struct calibrate_sample {
    predict_work_t work;
    predict_split_t prefill, decode;
} calibrate_sample_t;

/* Pure. Means over ranks, scaled from the mean of the repetitions to their median. */
calibrate_sample_t calibrate_sample(
    const bench_options_t *run, const bench_report_t *report, size_t chunk);

/* Pure. samples: [repeat][CALIBRATE_RUNS]; medians: [CALIBRATE_RUNS], each with the prefill and the
 * decode of the repetition whose time is the median. */
void calibrate_medians(
    const calibrate_sample_t *samples, size_t repeat, calibrate_sample_t *medians);

/* Pure. plan: of the ranks of one node. rates: ranks, threads, model and sizes are the caller's,
 * the rest is filled. samples: at least one with batch 1, and one of more rows. */
void calibrate_fit(const plan_t *plan, const calibrate_sample_t *samples, size_t n_samples,
    predict_rates_t *rates);

/* Pure. A link from seconds of gathers: of a few bytes, of a large one, and of one after a pause; row: bytes of
 * a row that a node receives; latency: of a round. What is measured while other work has the processors
 * may be no longer for the large one: all of its time is the link's then, so that the rate is above 0. */
predict_network_t calibrate_link(
    double latency, double small, double large, double paused, double row);

/* Collective. Gathers of three sizes over all ranks: the time of a round between nodes, the rate at
 * which a node receives rows of a prompt, and how much more passes after a pause. And gathers that
 * stream while a rank reads memory: how much longer that takes than reading alone. All 0 on one
 * node. */
int calibrate_network(comm_t *comm, predict_network_t *network, fail_t *fail);

#endif
