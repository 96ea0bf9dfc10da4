/* What the user can ask for: one struct that all commands share, and the tables of its flags. */
#ifndef CHOIR_LAUNCH_OPTIONS_H
#define CHOIR_LAUNCH_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launch/args.h"

typedef struct options {
    /* Model and run. Choices are indices into the tables' names, in the order of the engine's
     * enums. */
    const char *model, *stage, *shares;
    int dtype, order, attention, dot, combine, comm, bind;
    size_t watchdog_seconds;
    size_t threads, kv_tokens, prefill_chunk, max_batch;
    bool quiet, verbose, help;
    const char *trace;
    /* Prompt */
    const char *prompt, *prompt_file, *prompts, *ids, *system;
    bool chat, raw, no_history;
    const char *chat_template, *template_vars, *template_file;
    /* Answer */
    size_t max_tokens, top_k;
    double temperature, top_p, min_p, repetition_penalty;
    uint64_t seed;
    args_strings_t stop;
    bool sample, ignore_eos;
    /* Output */
    bool json;
    size_t logprobs;
    const char *logits_out;
    /* Tokenize */
    bool lines, decode;
    /* Verify */
    const char *reference, *candidate, *layers;
    int attentions; /* eager, sdpa, both */
    int verify_dot;
    bool isolated, chained, partial, skip_digest;
    double tolerance;
    /* Bench */
    size_t n_layers, prompt_tokens, gen_tokens, batch, context, repeat, warmup, read_mib;
    bool gemm, kernels;
    const char *json_file, *csv_file, *sweep, *cluster;
    /* Mesh and evaluation */
    const char *mesh, *task, *out, *data, *canonical, *compare[2];
    size_t limit, shots;
    bool strict, no_prefix_reuse, allow_nonfinite, own_weights;
    /* Plan and bench */
    const char *config;
    size_t ranks, node_ranks;
    bool predict;
    const char *what_if, *against;
    /* Shard */
    const char *shard_out, *check, *list, *unpack;
    size_t level, file_mib, layers_per_file;
} options_t;

/* What holds when a flag is not given. */
options_t options_defaults(void);

extern const arg_group_t options_batch, options_bench, options_mesh, options_eval;
extern const arg_group_t options_shard, options_doctor;
extern const arg_group_t options_model, options_model_dir, options_run, options_prompt,
    options_chat_prompt, options_template, options_render, options_answer, options_output,
    options_tokenize, options_plan, options_verify, options_common;

#endif
