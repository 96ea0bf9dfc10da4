/* Speed of a model on this machine, beside the hardware's limits measured in the same run.
 *
 * Method. Shared machines drift, so an absolute number says nothing a minute later. Each repetition
 * measures in turn, on the same threads of all ranks at the same time: the rates of multiply-adds
 * in registers, the prefill of all prompts, those rates again; the rate at which memory can be
 * read, decode steps, that rate again. Shares are of the same repetition's limits. Steps are the
 * engine's own (step.h), messages to the ranks, summaries and draws included. The logits of one
 * prompt's last position are digested in every repetition, so that a faster wrong answer shows.
 * Replicas begin every phase together; each measures its own speed, and the speeds are added.
 *
 * Owns nothing after bench_run but the report's arrays. One thread at a time. */
#ifndef CHOIR_MEASURE_BENCH_H
#define CHOIR_MEASURE_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/run/engine.h"

/* One number of each repetition. Where a CPU lacks the instructions, a peak is 0 and so is the
 * share of it. */
typedef enum bench_metric {
    BENCH_READ_BANDWIDTH,    /* bytes/s that all threads of all ranks read together */
    BENCH_FMA_PEAK,          /* FLOP/s of fused multiply-adds, f32, or f64 in mode f64 */
    BENCH_PEAK,              /* FLOP/s of the instruction that the mode's matrix kernels use */
    BENCH_INT8_PEAK,         /* int8 operations/s, a multiply-add counted as 2 */
    BENCH_PREFILL_TOKENS,    /* prompt tokens/s, first draws included */
    BENCH_PREFILL_FLOP,      /* FLOP/s of the weight matrices; attention's products not counted */
    BENCH_PREFILL_SHARE,     /* BENCH_PREFILL_FLOP / BENCH_PEAK */
    BENCH_PREFILL_BYTES,     /* bytes/s of weights: what binds short prompts and mixtures */
    BENCH_PREFILL_BANDWIDTH, /* BENCH_PREFILL_BYTES / BENCH_READ_BANDWIDTH */
    BENCH_FIRST_TOKEN,       /* s until the first prompt's first token was drawn */
    BENCH_DECODE_TOKENS,     /* tokens/s of all sequences together */
    BENCH_TOKEN,             /* s of one step, in which each sequence gets a token */
    BENCH_DECODE_BYTES,      /* bytes/s of weights, keys and values */
    BENCH_DECODE_BANDWIDTH,  /* BENCH_DECODE_BYTES / BENCH_READ_BANDWIDTH */
    BENCH_DECODE_FLOP,       /* FLOP/s of the weight matrices */
    BENCH_DECODE_SHARE,      /* BENCH_DECODE_FLOP / BENCH_PEAK */
    BENCH_METRICS
} bench_metric_t;

/* Field of machine-readable output: "prefill_tokens_per_s". */
const char *bench_metric_name(bench_metric_t metric);

/* The split of a rank's time, in seconds of its thread 0. */
typedef struct bench_split {
    double matrix, attention, elementwise;
    double exchange; /* the least that any rank spends on gathers and messages */
    double waiting;  /* for its own threads, for other ranks (beyond exchange), for a step */
    double sampling; /* summaries of logits; on the coordinator, draws */
} bench_split_t;

typedef enum bench_phase { BENCH_PREFILL, BENCH_DECODE, BENCH_PHASES } bench_phase_t;

typedef struct bench_options {
    size_t prompt_tokens, gen_tokens, batch;
    size_t context;    /* keys that a sequence has when it begins to decode; the cache is filled
                        * with copies of the prompt's where that is longer than the prompt */
    size_t repeat;     /* at least 1 */
    size_t warmup;     /* warm-up repetitions before, not reported */
    size_t read_bytes; /* that each rank reads once to measure the bandwidth; > last-level cache */
    /* All ranks of the replicas that are measured at the same time, rank r in replica r / T, T
     * ranks each; rank 0 gets the sums of all. NULL: this engine alone. */
    comm_t *all_replicas;
    /* On the coordinator after each repetition, warm-ups too; may be NULL. values: [BENCH_METRICS]
     */
    void (*progress)(void *context, size_t done, size_t total, const double *values);
    void *progress_context;
} bench_options_t;

typedef struct bench_report {
    size_t n_ranks, repeat; /* n_ranks: of this engine */
    double *values;         /* [BENCH_METRICS][repeat] of all replicas together */
    bench_split_t *splits;  /* [BENCH_PHASES][n_ranks]: of one prefill, of one step */
    /* The rest is of this engine alone. */
    double weight_bytes;              /* packed matrices that all ranks read in a decode step */
    double prefill_bytes;             /* likewise, of a prefill: once a step */
    double kv_bytes;                  /* keys and values, likewise, at the mean context */
    double prefill_flop, decode_flop; /* of the weight matrices; a decode step's */
    double attention_flop;            /* of the prefill */
    uint64_t logits_digest;           /* XXH3 of 64 bits over f32 (f64) logits, vocabulary order,
                                       * of the last prompt's last position */
} bench_report_t;

/* Cache tokens that engine_options_t.kv_tokens must allow. */
size_t bench_kv_tokens(const bench_options_t *options);

/* Collective, on an engine that has been opened and not used; afterwards it can only be closed.
 * report: filled on the coordinator, to be cleared by bench_clear whatever is returned.
 * FAIL_LIMIT when the engine's cache is too short, FAIL_MEMORY, FAIL_INTERRUPTED; FAIL_INTERNAL
 * when logits differ between repetitions or replicas. With replicas all ranks agree on a failure.
 */
int bench_run(
    engine_t *engine, const bench_options_t *options, bench_report_t *report, fail_t *fail);
void bench_clear(bench_report_t *report);

typedef struct bench_spread {
    double median, min, max;
} bench_spread_t;
bench_spread_t bench_spread(const bench_report_t *report, bench_metric_t metric);

#endif
