/* What the steps of a benchmark read and compute. Internal to bench.c. */
#ifndef CHOIR_MEASURE_BENCH_COUNTS_H
#define CHOIR_MEASURE_BENCH_COUNTS_H

#include "comm/comm.h"
#include "engine/model/model.h"

/* As in bench_options_t. */
typedef struct bench_load {
    size_t batch, prompt_tokens, gen_tokens, context;
} bench_load_t;

/* Of all ranks of a replica together. */
typedef struct bench_counts {
    double dense_bytes;  /* packed matrices that a decode step reads, without experts */
    double expert_bytes; /* one expert of a layer, on average */
    double kv_bytes;     /* keys and values of a decode step, at the mean context */
    double prefill_flop, decode_flop; /* of the weight matrices; a multiply-add counts as 2 */
    double attention_flop;            /* of the prefill */
} bench_counts_t;

/* Collective. whole_prompts: the last layer computes all rows of a prompt, not its last one alone. */
void bench_count(bench_counts_t *counts, const model_t *model, comm_t *comm,
    const bench_load_t *load, bool whole_prompts);

#endif
