/* Which part of the model each rank of a tensor-parallel group owns.
 *
 * A plan is a pure function of the model's sizes, the number of ranks and their shares: every rank
 * computes the same one, and nothing about it is exchanged. It holds for any number of ranks, also
 * more ranks than query heads. Owns its arrays; immutable after plan_open, so safe to read from any
 * thread.
 *
 * Query heads go out in contiguous runs; a rank keeps the KV heads that its query heads read
 * (copied where two ranks need the same one). Rows of o_proj and down_proj (hidden), columns of
 * the MLP (intermediate) and of every expert go out in granules of PLAN_GRANULE, vocabulary rows in
 * granules of PLAN_VOCAB_GRANULE; the last granule may be short, and what is left over goes to the ranks that
 * hold the fewest bytes so far. Ranks without a head are spread evenly among the others. Ranks are
 * in ascending order of what they own: share r begins where share r-1 ends (but for KV heads). A
 * share may be empty.
 *
 * With shares (unequal machines, rank_shares.h) a rank gets whole granules in proportion to its
 * share, to within one. Every phase of a layer ends when its slowest rank does, so what
 * decides is the largest part for its share in each phase: granules that are left over go to whom they
 * bring the least of, and query heads are cut so that no rank has more rows of q, k and v by its
 * share than need be, and then with the fewest copies of KV heads. */
#ifndef CHOIR_SHARDING_PLAN_H
#define CHOIR_SHARDING_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "engine/base/status.h"

#define PLAN_GRANULE 16
#define PLAN_VOCAB_GRANULE 64

/* The named dimensions of weights and activations. */
typedef enum plan_dim {
    PLAN_DIM_NONE, /* 1: a vector has no columns */
    PLAN_DIM_HIDDEN,
    PLAN_DIM_HEADS,    /* query heads x head_dim */
    PLAN_DIM_KV_HEADS, /* KV heads x head_dim */
    PLAN_DIM_HEAD,     /* head_dim */
    PLAN_DIM_MLP,
    PLAN_DIM_EXPERTS,    /* of a mixture */
    PLAN_DIM_CHOSEN,     /* experts that a token is sent to */
    PLAN_DIM_EXPERT_MLP, /* columns of one expert */
    PLAN_DIM_VOCAB
} plan_dim_t;

typedef enum plan_split {
    PLAN_WHOLE,          /* every rank has all of it */
    PLAN_ROWS,           /* a rank has its share of the rows */
    PLAN_ROWS_OR_COLUMNS /* likewise; with PLAN_REDUCE its share of the columns */
} plan_split_t;

/* Which layers have a weight, or compute something: layers with one MLP, or with a mixture of
 * experts. */
typedef enum plan_layers { PLAN_ALL_LAYERS, PLAN_DENSE_LAYERS, PLAN_SPARSE_LAYERS } plan_layers_t;

/* The shape of a weight, [rows, columns], and how ranks share it. */
typedef struct plan_weight {
    plan_dim_t rows, columns; /* columns PLAN_DIM_NONE: a vector, [rows] */
    plan_split_t split;
    bool per_layer; /* there is one in every layer of `layers` */
    plan_layers_t layers;
    bool per_expert;             /* there is one for every expert of these */
    const struct format *layout; /* how it is stored, where not as the model's */
    const char *format;          /* its name, for people; NULL: the model's */
    /* Bytes of a packed matrix of so many rows and columns in a layout; NULL: the model's */
    size_t (*matrix_bytes)(const struct format *layout, size_t rows, size_t columns);
} plan_weight_t;

#define PLAN_MAX_WEIGHTS 28

/* The inputs of a plan. Sizes in elements. */
typedef struct plan_model {
    size_t hidden, intermediate, n_layers;
    /* Of mixtures; 0 without. Each of n_experts has expert_intermediate columns. */
    size_t n_sparse_layers, n_experts, n_chosen, expert_intermediate;
    size_t n_heads, n_kv_heads, head_dim;
    size_t vocab_size;
    size_t cache_bytes; /* of one K or V element */
    const char *format; /* of weights, for people */
    bool packed;        /* weights that are not quantised are packed without loss */
    /* Bytes of a packed matrix of so many rows and columns in a layout; of a vector of so many elements. */
    const struct format *layout; /* known to these functions alone */
    size_t (*matrix_bytes)(const struct format *layout, size_t rows, size_t columns);
    size_t (*vector_bytes)(const struct format *layout, size_t elements);
    size_t n_weights;
    plan_weight_t weights[PLAN_MAX_WEIGHTS];
} plan_model_t;

typedef struct plan_range {
    size_t begin, end;
} plan_range_t;

static inline size_t plan_count(plan_range_t range)
{
    return range.end - range.begin;
}

typedef enum plan_combine {
    PLAN_GATHER, /* every matrix split by output rows */
    PLAN_REDUCE  /* o_proj and down_proj split along K: by the rank's heads and MLP columns */
} plan_combine_t;

typedef struct plan_share {
    plan_range_t heads;          /* query heads */
    plan_range_t kv_heads;       /* KV heads these need; empty if heads is */
    plan_range_t hidden;         /* output rows of o_proj and down_proj (PLAN_GATHER) */
    plan_range_t columns;        /* MLP columns: rows of gate_proj and up_proj */
    plan_range_t expert_columns; /* the same of every expert */
    plan_range_t vocab;          /* rows of the embedding and of lm_head */
} plan_share_t;

typedef struct plan {
    plan_model_t model;
    plan_combine_t combine;
    size_t n_ranks;
    plan_share_t *shares; /* [n_ranks] */
    size_t *rank_shares;  /* [n_ranks]; NULL: all equal */
} plan_t;

/* FAIL_USAGE when n_ranks is 0, FAIL_MODEL when sizes are zero or heads are not divisible by KV
 * heads. */
int plan_open(
    plan_t *plan, const plan_model_t *model, plan_combine_t combine, size_t n_ranks, fail_t *fail);
/* rank_shares: [n_ranks] as in rank_shares.h; NULL, or all equal: plan_open. FAIL_USAGE, too, for shares
 * that are all 0 or too large; FAIL_LIMIT for more heads times ranks than can be searched. */
int plan_open_shares(plan_t *plan, const plan_model_t *model, plan_combine_t combine,
    size_t n_ranks, const size_t *rank_shares, fail_t *fail);
void plan_close(plan_t *plan);

/* The size of a dimension, 1 for PLAN_DIM_NONE; and a rank's share of it, in the same units. */
size_t plan_dim(const plan_model_t *model, plan_dim_t dim);
plan_range_t plan_dim_share(const plan_t *plan, size_t rank, plan_dim_t dim);

/* The rows and columns of a weight that a rank has. */
typedef struct plan_part {
    plan_range_t rows, columns;
} plan_part_t;
plan_part_t plan_weight_part(const plan_t *plan, size_t rank, const plan_weight_t *weight);

/* How many there are of it: layers, times experts. */
size_t plan_weight_count(const plan_model_t *model, const plan_weight_t *weight);

/* The same of those that one token needs: of experts, the chosen ones. */
size_t plan_active_count(const plan_model_t *model, const plan_weight_t *weight);

/* Bytes of that part of one as packed: 0 where it has no element. */
size_t plan_part_bytes(const plan_model_t *model, const plan_weight_t *weight, plan_part_t part);

/* The rank that owns an item of a partition, e.g. the embedding row of a token. */
size_t plan_vocab_owner(const plan_t *plan, size_t row);

/* Bytes of rank's weights as packed, all of model.weights. */
size_t plan_weight_bytes(const plan_t *plan, size_t rank);

/* The same of those that one token needs: of the experts, the chosen ones. */
size_t plan_active_bytes(const plan_t *plan, size_t rank);

/* Bytes of K and V that one token takes on a rank, all layers. */
size_t plan_kv_bytes_per_token(const plan_t *plan, size_t rank);

/* Bytes that a rank receives from the others for one decoded token (all gathers or allreduces of a
 * step but the sampler's), activations of activation_bytes each. */
size_t plan_exchange_bytes_per_token(const plan_t *plan, size_t rank, size_t activation_bytes);

/* The same of a node: the bytes that its ranks, n_ranks from `first` on, need from those of all
 * other nodes, each byte once. With PLAN_REDUCE the ring enters each node once, with the bytes of
 * its busiest rank. 0 when these are all ranks. */
size_t plan_network_bytes_per_token(
    const plan_t *plan, size_t first, size_t n_ranks, size_t activation_bytes);

/* The table of `choir plan`: a row a rank, then largest/mean of each phase; with shares also the
 * requested shares. Activations are assumed to be as wide as cache elements. */
void plan_print(const plan_t *plan, FILE *out);
/* A line on nodes of ranks_per_node ranks, at least 1, the last with the rest: how many there are,
 * and the most bytes that one of them receives for a token (plan_network_bytes_per_token). */
void plan_print_nodes(const plan_t *plan, size_t ranks_per_node, FILE *out);

#endif
