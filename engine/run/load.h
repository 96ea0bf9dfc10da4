/* A model that is ready to compute: files, kernels, threads, plan, weights and cache, without a scheduler. Engines are
 * built on it, and what computes without one (engine/verify/).
 *
 * load_files, load_compute, load_plan, load_check, load_weights, in this order; all Collective over all replicas. A
 * failure is carried on: call the next one until load_compute has been called, where replicas agree; from there on a
 * failure is everybody's. load_close in any case. One thread at a time. */
#ifndef CHOIR_RUN_LOAD_H
#define CHOIR_RUN_LOAD_H

#include "comm/shared.h"
#include "engine/base/team.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/run/capacity.h"
#include "engine/run/engine_options.h"
#include "sharding/checkpoint/checkpoint.h"

typedef struct loaded {
    comm_t *comm;             /* borrowed, of one replica */
    engine_options_t options; /* dot is not DOT_AUTO */
    config_t config;
    checkpoint_t *checkpoint; /* NULL: random weights, or load_close_files was called */
    isa_t isa;
    size_t threads;
    team_t *team;
    bool borrows_team;
    size_t *shares;         /* [ranks] how much each takes, for the plan */
    comm_shared_t *weights; /* NULL: the model's own */
    size_t n_weight_sharers;
    model_t model;
    kv_cache_t cache;
    uint64_t load_ns, bytes_read;
    bool has_digest; /* of the weights of the whole model: weights_digest.h */
    uint64_t weights_digest;
} loaded_t;

/* Collective over comm. What DOT_AUTO stands for: the CPUs decide, whatever CHOIR_ISA says. Groups
 * whose results must be alike choose together, before they open their engines. */
dot_t load_choose_dot(comm_t *comm, dot_t wish, dtype_t mode, order_t order);

/* Opens config and checkpoint, which must be the same on all ranks. What the options point to is borrowed until
 * load_close_files. */
int load_files(loaded_t *loaded, comm_t *comm, const engine_options_t *options, fail_t *fail);

/* What the checkpoint decides beside its config; instruction set and threads; each rank's share. */
int load_compute(loaded_t *loaded, fail_t *fail);

/* The same for a model beside another one that has computed: on its instruction set, its threads, which close after
 * this, and its shares. */
int load_compute_beside(loaded_t *loaded, const loaded_t *other, fail_t *fail);

/* As much of a model as functions of sizes need, for load_check to close. */
int load_plan(loaded_t *loaded, model_t *shape, fail_t *fail);

/* Local. Figures of this rank for a cache of any size; weights without RoPE tables. */
capacity_t load_capacity(
    const loaded_t *loaded, const model_t *shape, size_t max_positions, size_t max_batch);

/* Local. Bytes of weights and of tables for so many positions that count as this rank's: its part of what is shared. */
size_t load_weight_bytes(const loaded_t *loaded, const model_t *shape, size_t positions);

/* Local. Positions that a sequence may have: after RoPE's scaling, where there is one. */
size_t load_max_positions(const config_t *config);

/* Refuses what does not fit, before anything large is allocated: weights and tables for max_positions, a cache of
 * cache_tokens, and scratch_bytes. Closes shape. */
int load_check(loaded_t *loaded, model_t *shape, capacity_t capacity, size_t cache_tokens,
    size_t max_positions, size_t scratch_bytes, fail_t *fail);

/* Loads the weights, and opens a cache of cache_tokens, a multiple of KV_BLOCK. */
int load_weights(loaded_t *loaded, size_t cache_tokens, size_t max_positions, fail_t *fail);

/* Local. The checkpoint, and what the options pointed to. */
void load_close_files(loaded_t *loaded);
void load_close(loaded_t *loaded);

#endif
