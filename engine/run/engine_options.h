/* What an engine is opened with. Plain data. */
#ifndef CHOIR_RUN_ENGINE_OPTIONS_H
#define CHOIR_RUN_ENGINE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "comm/topology.h"
#include "engine/base/dtype.h"
#include "engine/base/progress.h"
#include "engine/kernels/kernels.h"
#include "engine/model/order.h"
#include "engine/model/quantization.h"
#include "engine/run/speculation.h"
#include "sharding/plan.h"

/* --weights: how bf16 weights are kept; no bit of a result depends on it. */
typedef enum weights_kind {
    WEIGHTS_DENSE,
    WEIGHTS_AUTO, /* packed where dense weights do not fit into memory, or a measurement expects it to be faster */
    WEIGHTS_PACKED /* without loss in 12 bits (format.h); other modes and quantised matrices stay as they are */
} weights_kind_t;

typedef struct engine_options {
    const char *model_dir; /* as downloaded from the hub, or a shard store */
    const char *stage;     /* a folder on the node's disk for what is read of a store; NULL: none */
    /* Not NULL: a config.json whose shape is filled with random weights, in place of model_dir. */
    const char *random_config;
    quantised_kind_t random_kind; /* of its matrices */
    size_t n_layers;              /* only the first so many layers; 0: all */
    dtype_t mode;                 /* DTYPE_BF16, DTYPE_F32, DTYPE_F64 */
    order_t order;
    attention_t attention;
    dot_t dot; /* of bf16 linear layers */
    quantised_order_t quantised_order;
    weights_kind_t weights;
    plan_combine_t combine;
    const char *shares;   /* who gets how much: as share_choice's text (share_choice.h) */
    size_t threads;       /* 0: choose from the binding */
    topology_bind_t bind; /* of the threads, within the rank's binding */
    size_t kv_tokens;     /* 0: choose from max_position_embeddings and memory */
    size_t prefill_chunk; /* prompt tokens of one step, all sequences together; 0: 512 */
    size_t max_batch;     /* sequences running at once; 0: 64 */
    /* A step that decodes and has prompt rows takes about so many times as long as one without; 0: no
     * limit but prefill_chunk. */
    double max_step_ratio;
    /* Replicas that open at the same time: all of their ranks, and of these the ones with this
     * rank's number in their replica, which have one copy of its weights on each node. Both NULL:
     * weights of its own. */
    comm_t *all_replicas, *weight_sharers;
    bool allow_nonfinite;   /* logits that are NaN or infinite do not end the run */
    bool digests_weights;   /* engine_info_t.weights_digest is wanted */
    bool no_prefix_reuse;   /* compute prompts whole, also where they begin alike */
    size_t max_logits_rows; /* prompt positions whose logits one step may give; 0: 16 */
    speculation_options_t speculation;
    /* With speculation.model, the smaller model that drafts, of the same vocabulary: its directory, or a
     * config.json as random_config; and draft_layers as n_layers. */
    const char *draft_dir, *draft_config;
    size_t draft_layers;
    progress_fn progress; /* bytes; called on the coordinator while loading; may be NULL */
    void *progress_context;
} engine_options_t;

#endif
