/* Flags that several commands have: their structs, and the groups that fill these (args.h). Each
 * command has a struct of its own, in its cmd_*.c, that begins with common_flags_t. */
#ifndef CHOIR_LAUNCH_FLAGS_H
#define CHOIR_LAUNCH_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "comm/topology.h"
#include "engine/base/dtype.h"
#include "engine/model/order.h"
#include "engine/model/quantization.h"
#include "engine/run/engine_options.h"
#include "launch/args.h"
#include "sharding/plan.h"

/* What main itself looks at. */
typedef struct common_flags {
    bool quiet, verbose, help;
    const char *trace;
    size_t watchdog_seconds;
    const char *model; /* as given, then the directory of the model (model_dir.h); or NULL */
    comm_path_t path;
} common_flags_t;

/* How a model runs. */
typedef struct run_flags {
    dtype_t mode;
    order_t order;
    attention_t attention;
    dot_t dot;
    quantised_order_t quantised_order;
    weights_kind_t weights;
    bool allow_nonfinite;
    const char *stage, *shares;
    plan_combine_t combine;
    size_t threads;
    topology_bind_t bind;
    size_t kv_tokens, prefill_chunk, max_batch;
    double max_step_ratio; /* serve alone has a flag for it */
    bool no_prefix_reuse;
    const char *speculate; /* "ngram", "off" or the directory of a model; NULL: off */
    size_t draft_tokens;
    const char *mesh;
    bool own_weights;
} run_flags_t;

/* How an answer is drawn, and where it ends. */
typedef struct answer_flags {
    size_t max_tokens, top_k;
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    bool sample, ignore_eos;
    uint64_t seed;
    args_strings_t stop;
} answer_flags_t;

#define COMMON_DEFAULTS                                                                            \
    {                                                                                              \
        .watchdog_seconds = 30, .path = COMM_AUTO                                                  \
    }
#define RUN_DEFAULTS                                                                               \
    {                                                                                              \
        .attention = ATTENTION_AUTO, .dot = DOT_AUTO                                               \
    }
#define ANSWER_DEFAULTS                                                                            \
    {                                                                                              \
        .max_tokens = 512, .top_p = 1, .repetition_penalty = 1                                     \
    }

/* Of common_flags_t. */
extern const arg_group_t flags_model, flags_path, flags_common;
/* Of run_flags_t. */
extern const arg_group_t flags_numerics, flags_ranks, flags_threads, flags_batch, flags_mesh;
extern const arg_group_t flags_answer;   /* of answer_flags_t */
extern const arg_group_t flags_template; /* of chat_choice_t */

/* Parts of commands. run: offset of their run_flags_t. */
#define PARTS_NUMERICS_AND_RANKS(run)                                                              \
    {&flags_numerics, run}, {&flags_ranks, run}, {&flags_path, 0},                                 \
    {                                                                                              \
        &flags_threads, run                                                                        \
    }
#define PARTS_END                                                                                  \
    {&flags_common, 0},                                                                            \
    {                                                                                              \
        NULL, 0                                                                                    \
    }

/* What commands end with that answer many texts. template: offset of their chat_choice_t. */
#define PARTS_OF_MANY_TEXTS(template, run)                                                         \
    {&flags_template, template}, {&flags_mesh, run}, PARTS_NUMERICS_AND_RANKS(run),                \
        {&flags_batch, run}, PARTS_END

/* Rules (args.h). run: offset of the run_flags_t. */
bool flags_no_amx(const void *run);
bool flags_own_dot(const void *run);
#define NO_AMX_WHY "with --dtype f32 or f64"
#define RULE_ONE_REPLICA                                                                           \
    {                                                                                              \
        .why = "without --mesh", .without = " --mesh ", .flags = " --own-weights "                 \
    }
bool flags_no_drafts(const void *run);
/* Whether a model drafts. */
bool flags_model_drafts(const run_flags_t *run);
#define NO_DRAFTS_WHY "without --speculate"
#define RULE_NO_DRAFTS(run)                                                                        \
    {                                                                                              \
        .why = NO_DRAFTS_WHY, .flags = " --draft-tokens ", .holds = flags_no_drafts, .base = run   \
    }
#define RULE_NO_AMX(run)                                                                           \
    {                                                                                              \
        .why = NO_AMX_WHY, .flags = " --dot ", .holds = flags_no_amx, .base = run                  \
    }
#define OWN_DOT_WHY "with --order torch-avx2, which has a dot product of its own"
#define RULE_OWN_DOT(run)                                                                          \
    {                                                                                              \
        .why = OWN_DOT_WHY, .flags = " --dot ", .holds = flags_own_dot, .base = run                \
    }
#define RULES_OF_MANY_TEXTS(run)                                                                   \
    RULE_ONE_REPLICA, RULE_NO_DRAFTS(run), RULE_NO_AMX(run), RULE_OWN_DOT(run), RULES_END
#define RULES_END                                                                                  \
    {                                                                                              \
        .why = NULL                                                                                \
    }

/* Flags that commands with tables of their own have too. */
#define FLAG_THREADS(offset)                                                                       \
    FLAG_SIZE("--threads", offset, "N", 1, 4096,                                                   \
        "Threads of each rank. Default: the cores the rank is bound to, or its part of the node.")
#define FLAG_PROMPT_TOKENS(offset)                                                                 \
    FLAG_SIZE("--prompt-tokens", offset, "N", 1, 16777216, "Default 512.")

#endif
