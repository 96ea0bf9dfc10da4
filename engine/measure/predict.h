/* A cost model of prefill and decode, for ranks that have not been measured.
 *
 * Pure functions. A cluster is a few measured rates (calibrate.h, cluster_file.h): of one rank when
 * a node holds so many of them, of so many threads each, and of the network. A plan says what each
 * rank owns. The time of a step is the sum of its phases. A gather ends a phase, so each takes as
 * long as on the rank with the most work:
 *
 *   matrix       bytes of the busiest thread's weight panels x threads x s/byte at so many rows;
 *                packed bf16 weights take the time of dense ones, few rows over packed_speed
 *   attention    FLOP of the products (4 per query head, head element, row and key) x s/FLOP
 *   elementwise  layers x (constant + elements x s/element)
 *   exchange     gathers x latency in the node + bytes copied through windows
 *                + gathers x rounds x latency of the network
 *                + (bytes from other nodes - those sent while computing) / bandwidth
 *                + bytes of gathers of many rows x s/byte of the processor
 *   waiting      layers x constant + share of the computing time
 *   sampling     constant + rows x vocabulary rows x s/row
 *
 * Of its last layer a prompt wants queries, keys and values of all rows, and the rest of those that
 * give logits (engine/forward/narrow.c); these are computed at the rates of decode steps.
 *
 * Rates are interpolated between measured sizes on logarithmic axes, and constant beyond them.
 * Links with a token bucket (those of virtual machines often have one) let a burst pass at once,
 * and the bucket fills again while ranks compute. Each gather of a layer uses the tokens filled by
 * then.
 *
 * Gathers of many rows (comm/stream.h) are sent in bursts while the phase that writes them is
 * computed: attention, or the product of a matrix. A burst follows each tenth of the phase, and
 * costs processor time, which does not overlap. Ranks wait for what the link has not carried at the
 * end. With t = bytes / bandwidth and c seconds of computing this is max(t - 9/10 c, t / 10), on a
 * link without a token bucket and when the processor's part is 0.
 *
 * Rounds are log2 of the nodes, rounded up. Messages to and from the coordinator take three such
 * rounds a step, and PREDICT_MESSAGE_S for each rank, which is assumed and not measured. */
#ifndef CHOIR_MEASURE_PREDICT_H
#define CHOIR_MEASURE_PREDICT_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"
#include "sharding/plan.h"

#define PREDICT_POINTS 12
#define PREDICT_NAME_BYTES 128
#define PREDICT_MESSAGE_S 1e-6

/* y at some x, x ascending; both greater than 0. */
typedef struct predict_curve {
    size_t n;
    double x[PREDICT_POINTS], y[PREDICT_POINTS];
} predict_curve_t;

/* Between two points a power law; beyond the ends their values. 0 without any point. */
double predict_curve_at(const predict_curve_t *curve, double x);
/* Keeps x ascending; a point at the same x is replaced. Ignored: y that is not above 0, and points
 * beyond PREDICT_POINTS. */
void predict_curve_add(predict_curve_t *curve, double x, double y);

/* Of one rank, while all ranks of its node are at work. */
typedef struct predict_rates {
    char model[PREDICT_NAME_BYTES];   /* the shape they were measured with */
    size_t hidden, head_dim;          /* of that shape */
    size_t ranks, threads;            /* ranks on the node; threads of each */
    predict_curve_t decode_matrix;    /* s per weight byte, by rows of a decode step */
    predict_curve_t prompt_matrix;    /* likewise, by rows of a prompt's step */
    predict_curve_t decode_attention; /* s per FLOP, by keys */
    predict_curve_t prompt_attention; /* s per FLOP, by tokens of the prompt */
    double elementwise_layer_s, elementwise_element_s;
    double waiting_layer_s, waiting_share;  /* share of matrix + attention + elementwise */
    double sampling_step_s, sampling_row_s; /* the latter for a row of the vocabulary */
    double gather_s;    /* of one gather in the node, without copies; 0 for one rank */
    double copy_byte_s; /* of a byte of an activation copied through windows; likewise */
    double
        packed_speed; /* of a row's product with packed weights against dense ones; 0: unknown, as 1 */
} predict_rates_t;

typedef struct predict_network {
    double latency_s;   /* of a round between nodes */
    double bytes_per_s; /* that a node receives; 0: not known */
    double burst_bytes; /* that pass at once after a pause; 0: a link without a token bucket */
    /* For each byte that a node receives of a gather that streams, the time that sending and
     * receiving take from computing; 0: none, as when an interface does all of it, or unknown. */
    double processor_byte_s;
} predict_network_t;

typedef struct predict_cluster {
    char cpu[PREDICT_NAME_BYTES];
    size_t node_cores;
    double node_memory_bytes;
    predict_network_t network;
    size_t n_rates;
    predict_rates_t *rates; /* [n_rates], owned */
} predict_cluster_t;

void predict_cluster_clear(predict_cluster_t *cluster);

/* The nearest rates: by ranks on the node, then by the shape's head and hidden size, then (threads
 * 0) the most threads, else the nearest number of them. Not NULL unless the cluster has none. */
const predict_rates_t *predict_choose(const predict_cluster_t *cluster, size_t ranks_on_node,
    size_t threads, size_t hidden, size_t head_dim);

/* What one replica does. */
typedef struct predict_work {
    size_t batch, prompt_tokens;
    size_t context, gen_tokens; /* keys when decoding begins; decode steps */
    size_t chunk;               /* prompt tokens of one step */
} predict_work_t;

/* Seconds of one prefill of all prompts, or of one decode step. */
typedef struct predict_split {
    double matrix, attention, elementwise, exchange, waiting, sampling;
    double network; /* the part of exchange that goes between nodes */
} predict_split_t;
double predict_seconds(const predict_split_t *split);

typedef struct predict_result {
    predict_split_t prefill, decode;
    double prefill_tokens_per_s, decode_tokens_per_s; /* of the replica */
    double exchange_bytes; /* that the busiest rank gets from others in a decode step */
    double network_bytes;  /* that a node gets from others in a decode step */
} predict_result_t;

/* ranks_per_node: of the plan's ranks, in their order; n_ranks or more: one node. */
void predict_run(const plan_t *plan, const predict_rates_t *rates, const predict_network_t *network,
    size_t ranks_per_node, const predict_work_t *work, predict_result_t *result);

/* Bytes that pass between ranks in steps of so many rows together, of which `draws` give logits:
 * what the busiest rank gets from all others, and what a node gets from other nodes. The
 * embedding's and, with PLAN_REDUCE, the ring's are included. */
void predict_bytes(const plan_t *plan, size_t ranks_per_node, double rows, double draws,
    double *rank_bytes, double *node_bytes);

/* A mesh of replicas. */
typedef struct predict_mesh {
    size_t replicas, ranks_each, nodes, threads; /* threads of a rank */
    double weight_bytes;                         /* of the node with the most */
    bool fits;
    predict_result_t each;                            /* of one replica */
    double prefill_tokens_per_s, decode_tokens_per_s; /* of all replicas */
} predict_mesh_t;

typedef struct predict_query {
    const predict_cluster_t *cluster;
    const plan_model_t *model;
    plan_combine_t combine;
    size_t ranks_per_node, threads; /* threads 0: as measured */
    predict_work_t work;            /* batch: of all replicas together */
    predict_network_t network;
} predict_query_t;

/* One mesh. ranks_each must divide n_ranks, and either divide ranks_per_node or be a multiple of
 * it, or there is one replica. FAIL_USAGE, FAIL_MEMORY, FAIL_MODEL. */
int predict_mesh(const predict_query_t *query, size_t n_ranks, size_t replicas,
    predict_mesh_t *mesh, fail_t *fail);

/* The mesh of n_ranks with the most decode (by_prefill: prefill) tokens a second among those that
 * fit and give every replica a sequence; where none fits, the one with the least memory. */
int predict_best_mesh(const predict_query_t *query, size_t n_ranks, bool by_prefill,
    predict_mesh_t *best, fail_t *fail);

#endif
