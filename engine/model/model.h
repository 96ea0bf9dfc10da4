/* This rank's share of a model's weights, packed for the kernels.
 *
 * Owns the packed matrices, unless they are shared. Immutable after loading, so any thread may read
 * it. */
#ifndef CHOIR_MODEL_MODEL_H
#define CHOIR_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/progress.h"
#include "engine/base/status.h"
#include "engine/base/team.h"
#include "engine/kernels/format.h"
#include "engine/kernels/kernels.h"
#include "engine/model/arch/arch.h"
#include "engine/model/config.h"
#include "engine/model/model_source.h"
#include "sharding/plan.h"

/* A weight as its role wants it: a matrix with this rank's rows and columns (arch/arch.h, plan.h),
 * a matrix for each expert, whose panels follow each other, or a vector, [rows] element. Empty and
 * NULL where the model has none. */
typedef struct model_weight {
    matrix_t matrix;   /* its bias, if it has one, is that weight's vector */
    matrix_t *experts; /* [n_experts] */
    void *vector;
    float *late_bias; /* owned, of matrix.late_bias */
    uint32_t *orders; /* owned, of matrix.order and code_order, of each expert */
} model_weight_t;

typedef struct model_weights {
    model_weight_t of[WEIGHT_COUNT];
} model_weights_t;

typedef struct model {
    config_t config;
    plan_t plan;
    size_t rank; /* of the plan */
    dtype_t mode;
    kernels_t kernels;
    kernels_t router_kernels; /* of experts' probabilities: f32, or f64 in that mode */
    const format_t *format;
    model_weights_t outside; /* of layers: embedding, final norm, lm_head unless tied */
    model_weights_t *layers; /* [num_hidden_layers] */
    size_t rope_positions;
    void *rope_cos, *rope_sin; /* [rope_positions, head_dim / 2] accumulator, see rope.h */
    void *own;                 /* [own_bytes] of the matrices, NULL where they are shared */
    size_t own_bytes;
    bool shared;        /* the matrices lie in memory that is not the model's */
    spill_t spill;      /* of packed matrices; owned unless shared */
    size_t n_quantised; /* matrices that are quantised in the checkpoint */
    size_t n_packed;    /* of these the ones that are kept so */
    size_t n_converted; /* tensors whose dtype was not the mode's */
    /* With model_options_t.digests: this rank's part of the sum that weights_digest.h says, of vectors and of
     * matrices. With shared matrices, of those that it has packed. */
    uint64_t vectors_digest, matrices_digest;
} model_t;

typedef struct model_options {
    plan_combine_t combine;
    size_t n_ranks, rank;
    const size_t *rank_shares; /* of the plan: [n_ranks]; NULL: even shares */
    dtype_t mode;
    dot_t dot;   /* of linear layers; decides the layout */
    bool packed; /* bf16 without loss in fewer bytes (format.h), in mode bf16 */
    isa_t isa;
    size_t max_positions; /* rows of the RoPE tables */
    /* Zeroed memory of model_shared_bytes() for the matrices, which ranks with the same share have
     * in common: each of n_sharers packs a part of every matrix, and when all are done they may
     * read. NULL: the model's own. */
    void *shared;
    size_t sharer, n_sharers;
    bool
        digests; /* asks for a digest of the weights; not of packed ones (n_packed), nor with columns split */
    /* Reports how far loading is, in bytes of packed weights; called from thread 0. May be NULL. */
    progress_fn progress;
    void *progress_context;
} model_options_t;

/* Sizes for the plan, matrices laid out for this dot product, packed or not. */
plan_model_t model_sizes(const config_t *config, dtype_t mode, dot_t dot, bool packed);

/* Local. Checks that every tensor is there, then reads this rank's parts only, all threads of the
 * team packing. On failure nothing is kept. */
int model_load(model_t *model, const config_t *config, const model_source_t *source,
    const model_options_t *options, team_t *team, fail_t *fail);
void model_close(model_t *model);

/* The kernels of a model of that config and mode, which are set. */
void model_kernels(model_t *model, isa_t isa);

/* Bytes that model_load allocates for a rank, RoPE tables included. */
size_t model_bytes(const plan_t *plan, size_t rank, dtype_t mode, size_t max_positions);

/* Bytes that the matrices of a rank take in model_options_t.shared, and of these the spill of packed ones: a small
 * part, as shared memory is taken whether it is used or not. The model's own is taken as it is used. */
size_t model_shared_bytes(const plan_t *plan, size_t rank);
size_t model_shared_spill_bytes(const plan_t *plan, size_t rank);

/* A weight of a layer, or, whatever the layer, one outside of layers. */
static inline const model_weight_t *model_weight(
    const model_t *model, const arch_weight_t *weight, size_t layer)
{
    const model_weights_t *place =
        weight->shape.per_layer ? &model->layers[layer] : &model->outside;
    return &place->of[weight->role];
}

/* A matrix of a weight; expert: 0 where it has one only. */
static inline const matrix_t *model_matrix(const model_weight_t *weight, size_t expert)
{
    return weight->experts != NULL ? &weight->experts[expert] : &weight->matrix;
}

static inline const plan_share_t *model_share(const model_t *model)
{
    return &model->plan.shares[model->rank];
}

static inline const matrix_t *model_lm_head(const model_t *model)
{
    const model_weight_t *of = model->outside.of;
    return &of[model->config.tie_word_embeddings ? WEIGHT_EMBEDDING : WEIGHT_LM_HEAD].matrix;
}

#endif
