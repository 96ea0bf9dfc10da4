#include "engine/doctor/doctor.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/rank_team.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/kernels/kernels.h"
#include "engine/run/load.h"
#include "engine/run/rank_roof.h"
#include "engine/run/weights_choice.h"

#define MIB ((size_t)1 << 20)
#define NODE_READ_BYTES (512 * MIB) /* of all ranks of a node, so that most caches do not count */
#define LEAST_READ_BYTES (64 * MIB)
#define MOST_READ_BYTES (256 * MIB)
#define GATHERS_PER_LAYER 4
#define WEIGHTS_BYTES (64 * MIB) /* at most, that a thread measures weights with */
#define LEAST_KV_TOKENS 1024u    /* the least that a run accepts */

/* ---- One rank -------------------------------------------------------------------------------- */

static int read_rank(
    comm_t *comm, const doctor_options_t *options, doctor_rank_t *rank, fail_t *fail)
{
    isa_t chosen = ISA_SCALAR;
    memset(rank, 0, sizeof *rank); /* padding too: it is sent */
    doctor_host_read(&rank->host);
    if (topology_read(&rank->topology, fail) != 0 || isa_choose(&chosen, fail) != 0)
        return fail->status;
    rank->isa = isa_detect();
    rank->isa_chosen = chosen;
    rank->threads = rank_team_threads(comm, &rank->topology, options->threads);
    if (sched_getaffinity(0, sizeof rank->mask, (cpu_set_t *)(void *)rank->mask) != 0)
        memset(rank->mask, 0xff, sizeof rank->mask);
    snprintf(rank->choir, sizeof rank->choir, "%s", options->version);
    snprintf(rank->mpi, sizeof rank->mpi, "%s", comm_library_version());
    ping_transports(rank->transports, sizeof rank->transports);
    return 0;
}

/* Collective. As much on every rank, and not more than is free. */
static size_t read_bytes(comm_t *comm, const doctor_options_t *options)
{
    size_t ranks = (size_t)comm_host_ranks(comm);
    size_t bytes = size_max(LEAST_READ_BYTES, size_min(MOST_READ_BYTES, NODE_READ_BYTES / ranks));
    size_t free_bytes = memory_available_bytes() / 4 / ranks;
    if (options->read_bytes != 0)
        bytes = options->read_bytes;
    if (free_bytes != 0)
        bytes = size_max(size_min(bytes, free_bytes / MIB * MIB), MIB);
    return (size_t)comm_min(comm, (int64_t)bytes);
}

/* Collective; all ranks at once, or none where memory is short. */
static void measure_weights(comm_t *comm, team_t *team, doctor_rank_t *rank, fail_t *fail)
{
    kernels_t kernels;
    size_t left = memory_available_bytes() / 4 / (size_t)comm_host_ranks(comm);
    dot_t dot = load_choose_dot(comm, DOT_AUTO, DTYPE_BF16, ORDER_TORCH);
    if (comm_min(comm, left == 0 || left >= rank->threads * WEIGHTS_BYTES) == 0)
        return;
    kernels_get(&kernels, rank->isa_chosen, DTYPE_BF16);
    weights_rates_find(team, &kernels, dot, &rank->weights, fail);
    comm_agree(comm, fail);
}

/* Collective. */
static int measure_rank(
    comm_t *comm, const doctor_options_t *options, doctor_rank_t *rank, fail_t *fail)
{
    team_t *team = NULL;
    rank_roof_t roof = {0};
    rank_team_open(&team, comm, rank->threads, TOPOLOGY_BIND_NONE, fail);
    size_t bytes = read_bytes(comm, options);
    rank_roof_measure(comm, team, rank->isa_chosen, bytes, &roof, fail);
    rank->read_bytes_per_s = roof.read_bytes_per_s;
    rank->flop_per_s = roof.flop_per_s;
    if (comm_agree(comm, fail) == 0)
        measure_weights(comm, team, rank, fail);
    rank_team_close(team, comm);
    return fail->status;
}

/* ---- All ranks, on rank 0 -------------------------------------------------------------------- */

static int allocate(doctor_facts_t *facts, size_t n_ranks, size_t n_nodes, fail_t *fail)
{
    facts->n_ranks = n_ranks;
    facts->n_nodes = n_nodes;
    facts->ranks = calloc(n_ranks, sizeof *facts->ranks);
    facts->nodes = calloc(n_nodes, sizeof *facts->nodes);
    if (facts->ranks == NULL || facts->nodes == NULL)
        return fail_set(fail, FAIL_MEMORY, "doctor: out of memory for %zu ranks", n_ranks);
    return 0;
}

/* Collective. The hardware threads of each node, from its first rank. */
static int gather_pus(comm_t *comm, doctor_facts_t *facts, fail_t *fail)
{
    size_t n_ranks = (size_t)comm_size(comm), n_mine = 0;
    topology_pu_t *mine = NULL, *all = NULL;
    if (comm_node_rank(comm) == 0)
        topology_pus(&mine, &n_mine, fail);
    size_t bytes = n_mine * sizeof *mine, total = 0;
    size_t *counts = calloc(n_ranks, sizeof *counts);
    if (counts == NULL)
        fail_set(fail, FAIL_MEMORY, "doctor: out of memory for %zu ranks", n_ranks);
    if (comm_agree(comm, fail) == 0) {
        comm_allgather(comm, &bytes, sizeof bytes, counts);
        for (size_t r = 0; r < n_ranks; r++)
            total += counts[r];
        all = malloc(size_max(total, 1));
        if (all == NULL)
            fail_set(fail, FAIL_MEMORY, "doctor: out of memory for hardware threads");
        if (comm_agree(comm, fail) == 0)
            comm_gatherv_root(comm, mine, counts, all);
    }
    size_t begin = 0;
    for (size_t r = 0; fail->status == 0 && facts->ranks != NULL && r < n_ranks; r++) {
        doctor_node_t *node = &facts->nodes[facts->ranks[r].node];
        if (counts[r] == 0)
            continue;
        node->n_pus = counts[r] / sizeof *node->pus;
        node->pus = malloc(counts[r]);
        if (node->pus == NULL)
            fail_set(fail, FAIL_MEMORY, "doctor: out of memory for hardware threads");
        else
            memcpy(node->pus, (char *)all + begin, counts[r]);
        begin += counts[r];
    }
    free(counts);
    free(mine);
    free(all);
    return comm_agree(comm, fail);
}

/* Collective. */
static int gather_ranks(
    comm_t *comm, doctor_rank_t *mine, const int *nodes, doctor_facts_t *facts, fail_t *fail)
{
    bool root = comm_rank(comm) == 0;
    size_t n_ranks = (size_t)comm_size(comm);
    double *ahead = calloc(n_ranks, sizeof *ahead);
    if (ahead == NULL)
        fail_set(fail, FAIL_MEMORY, "doctor: out of memory for %zu ranks", n_ranks);
    if (root)
        allocate(facts, n_ranks, (size_t)comm_n_nodes(comm), fail);
    if (comm_agree(comm, fail) == 0) {
        mine->node = nodes[comm_rank(comm)];
        comm_gather_root(comm, mine, sizeof *mine, facts->ranks);
        ping_clocks(comm, ahead);
    }
    for (size_t r = n_ranks; root && fail->status == 0 && r-- > 0;) {
        facts->ranks[r].ahead_s = ahead[r];
        facts->nodes[nodes[r]].first_rank = r;
        facts->nodes[nodes[r]].n_ranks++;
    }
    free(ahead);
    return gather_pus(comm, facts, fail);
}

/* Collective. */
static int measure_pairs(comm_t *comm, const int *nodes, doctor_facts_t *facts, fail_t *fail)
{
    facts->pings = calloc(PING_MOST_PAIRS, sizeof *facts->pings);
    if (facts->pings == NULL)
        fail_set(fail, FAIL_MEMORY, "doctor: out of memory for pairs of ranks");
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    facts->n_pings = ping_choose(comm_size(comm), nodes, facts->pings);
    return ping_run(comm, facts->pings, facts->n_pings, fail);
}

/* What the plan asks of ranks and nodes. Rank 0. */
static int add_plan(const doctor_options_t *options, doctor_facts_t *facts, fail_t *fail)
{
    plan_t plan;
    plan_model_t sizes = config_plan_model(options->config, options->mode);
    if (plan_open(&plan, &sizes, PLAN_GATHER, facts->n_ranks, fail) != 0)
        return fail->status;
    facts->has_model = true;
    facts->kv_tokens = options->kv_tokens != 0
                           ? options->kv_tokens
                           : size_min(LEAST_KV_TOKENS, options->config->max_position_embeddings);
    facts->n_gathers = GATHERS_PER_LAYER * sizes.n_layers;
    for (size_t r = 0; r < facts->n_ranks; r++) {
        doctor_rank_t *rank = &facts->ranks[r];
        rank->weight_bytes = plan_weight_bytes(&plan, r);
        rank->kv_bytes_per_token = plan_kv_bytes_per_token(&plan, r);
        rank->exchange_bytes_per_token =
            (double)plan_exchange_bytes_per_token(&plan, r, sizes.cache_bytes);
    }
    plan_close(&plan);
    return 0;
}

int doctor_collect(
    comm_t *comm, const doctor_options_t *options, doctor_facts_t *facts, fail_t *fail)
{
    *facts = (doctor_facts_t){0};
    doctor_rank_t *mine = malloc(sizeof *mine);
    int *nodes = calloc((size_t)comm_size(comm), sizeof *nodes);
    if (mine == NULL || nodes == NULL)
        fail_set(fail, FAIL_MEMORY, "doctor: out of memory");
    else
        read_rank(comm, options, mine, fail);
    if (comm_agree(comm, fail) == 0) {
        ping_nodes(comm, nodes);
        /* Pairs first: no teams of threads wait meanwhile. */
        if (measure_pairs(comm, nodes, facts, fail) == 0 &&
            measure_rank(comm, options, mine, fail) == 0 &&
            gather_ranks(comm, mine, nodes, facts, fail) == 0 && comm_rank(comm) == 0 &&
            options->config != NULL)
            add_plan(options, facts, fail);
        comm_agree(comm, fail);
    }
    free(nodes);
    free(mine);
    return fail->status;
}

void doctor_clear(doctor_facts_t *facts)
{
    for (size_t n = 0; facts->nodes != NULL && n < facts->n_nodes; n++)
        free(facts->nodes[n].pus);
    free(facts->nodes);
    free(facts->ranks);
    free(facts->pings);
    *facts = (doctor_facts_t){0};
}

/* ---- Counting -------------------------------------------------------------------------------- */

weights_rates_t doctor_weights_rates(const doctor_facts_t *facts)
{
    weights_rates_t slowest = facts->ranks[0].weights;
    for (size_t r = 1; r < facts->n_ranks; r++) {
        slowest.dense = fmin(slowest.dense, facts->ranks[r].weights.dense);
        slowest.packed = fmin(slowest.packed, facts->ranks[r].weights.packed);
    }
    return slowest;
}

bool doctor_may_use(const doctor_rank_t *rank, const topology_pu_t *pu)
{
    return pu->os < DOCTOR_MASK_WORDS * 64 && (rank->mask[pu->os / 64] >> (pu->os % 64) & 1) != 0;
}

/* Ranks of a node that may use the core whose first hardware thread is pus[i]; *end is the one
 * after its last. */
static size_t core_ranks(const doctor_facts_t *facts, size_t node, size_t i, size_t *end)
{
    const doctor_node_t *n = &facts->nodes[node];
    size_t users = 0;
    *end = i + 1;
    while (*end < n->n_pus && n->pus[*end].core == n->pus[i].core)
        ++*end;
    for (size_t r = 0; r < facts->n_ranks; r++) {
        bool uses = false;
        for (size_t p = i; p < *end && (size_t)facts->ranks[r].node == node; p++)
            uses |= doctor_may_use(&facts->ranks[r], &n->pus[p]);
        users += uses;
    }
    return users;
}

size_t doctor_cores_of(const doctor_facts_t *facts, size_t node, size_t ranks)
{
    size_t cores = 0, end;
    for (size_t i = 0; i < facts->nodes[node].n_pus; i = end)
        cores += core_ranks(facts, node, i, &end) >= ranks;
    return cores;
}

size_t doctor_cores(const doctor_node_t *node)
{
    size_t cores = 0;
    for (size_t i = 0; i < node->n_pus; i++)
        cores += i == 0 || node->pus[i].core != node->pus[i - 1].core;
    return cores;
}

size_t doctor_numa_nodes(const doctor_node_t *node)
{
    size_t nodes = 0;
    for (size_t i = 0; i < node->n_pus; i++) {
        bool known = false;
        for (size_t j = 0; j < i && !known; j++)
            known = node->pus[j].numa == node->pus[i].numa;
        nodes += !known;
    }
    return nodes;
}

size_t doctor_threads(const doctor_facts_t *facts, size_t node)
{
    size_t threads = 0;
    for (size_t r = 0; r < facts->n_ranks; r++)
        if ((size_t)facts->ranks[r].node == node)
            threads += facts->ranks[r].threads;
    return threads;
}

size_t doctor_usable_cores(const doctor_facts_t *facts, size_t node)
{
    size_t cores = doctor_cores(&facts->nodes[node]);
    size_t granted = facts->ranks[facts->nodes[node].first_rank].topology.granted_cpus;
    return size_max(granted != 0 ? size_min(cores, granted) : cores, 1);
}
