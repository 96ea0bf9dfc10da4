#include "engine/measure/predict.h"

#include <math.h>
#include <string.h>

#include "comm/stream.h"
#include "engine/base/size.h"
#include "engine/kernels/format.h"
#include "engine/kernels/kernels.h"

#define GATHERS 4     /* of a layer */
#define STEP_ROUNDS 3 /* header, payload, summaries */

/* ---- What a rank has to do ------------------------------------------------------------------- */

/* Steps of few rows read weights as they are kept; those of many multiply them, as many as the dense matrix has. */
typedef enum kept { AS_KEPT, AS_DENSE, KEPT_COUNT } kept_t;

static kept_t kept_of(double rows)
{
    return rows < KERNEL_MANY_ROWS ? AS_KEPT : AS_DENSE;
}

/* The most that any rank has, and so the time of a phase. Bytes are those of the busiest thread
 * times threads. */
typedef struct load {
    double matrix_bytes[KEPT_COUNT][GATHERS]; /* of a layer: before each gather */
    double expert_bytes[KEPT_COUNT]
                       [GATHERS]; /* of a layer: of one expert, likewise; means of all layers */
    double lm_head_bytes[KEPT_COUNT];
    double heads;    /* query heads */
    double elements; /* elementwise, of a layer and a row */
    double vocab;
    double rank_bytes, node_bytes; /* exchanged for each row, all layers */
    double gather_bytes[GATHERS];  /* of a layer and row, that a node gets from others */
    double gather_width[GATHERS];  /* bytes of a row of them */
    double window_bytes;           /* copied for each row of a layer; of the busiest rank */
    size_t nodes;
} load_t;

/* How matrices are read. */
typedef struct reading {
    kept_t kept;
    size_t threads;
    double packed_speed;
} reading_t;

/* Threads take whole panels, so that the busiest has one more than others, or the only one. Of packed matrices the dense
 * bytes that take as long. */
static double busy_bytes(const plan_model_t *m, const plan_weight_t *weight, reading_t how,
    size_t outputs, size_t inputs)
{
    bool own = how.kept == AS_KEPT && weight != NULL && weight->matrix_bytes != NULL;
    size_t panels = size_round_up(outputs, KERNEL_PANEL) / KERNEL_PANEL,
           whole = kernel_padded_outputs(outputs);
    size_t busiest = (panels + how.threads - 1) / how.threads * KERNEL_PANEL * how.threads;
    size_t rows = how.threads == 1 ? whole : size_max(whole, busiest);
    if (own)
        return (double)weight->matrix_bytes(weight->layout, rows, inputs);
    if (!m->packed)
        return (double)m->matrix_bytes(m->layout, rows, inputs);
    double dense = (double)format_matrix_bytes(format_of_packed(m->layout), rows, inputs);
    return how.kept == AS_KEPT && how.packed_speed > 0 ? dense / how.packed_speed : dense;
}

static double most(double a, double b)
{
    return a > b ? a : b;
}

/* The gather that ends the phase in which a layer's matrix is multiplied. */
static int phase_of(const plan_weight_t *weight)
{
    if (weight->rows == PLAN_DIM_HEADS || weight->rows == PLAN_DIM_KV_HEADS)
        return 0;
    if (weight->rows == PLAN_DIM_MLP || weight->rows == PLAN_DIM_EXPERTS ||
        weight->rows == PLAN_DIM_EXPERT_MLP)
        return 2;
    return weight->columns == PLAN_DIM_HEADS ? 1 : 3;
}

/* Of all layers those that have the weight. */
static double share_of_layers(const plan_model_t *m, const plan_weight_t *weight)
{
    size_t n = plan_weight_count(m, weight) / (weight->per_expert ? m->n_experts : 1);
    return (double)n / (double)m->n_layers;
}

/* Of one expert: panels of gate and up are dealt out over all experts that have rows. */
static double expert_bytes(const plan_t *plan, size_t rank, reading_t how, int phase)
{
    const plan_model_t *m = &plan->model;
    double bytes = 0;
    if (phase == 2)
        how.threads = 1;
    for (size_t i = 0; i < m->n_weights; i++) {
        const plan_weight_t *weight = &m->weights[i];
        if (!weight->per_expert || phase_of(weight) != phase)
            continue;
        const plan_part_t part = plan_weight_part(plan, rank, weight);
        bytes += share_of_layers(m, weight) *
                 busy_bytes(m, weight, how, plan_count(part.rows), plan_count(part.columns));
    }
    return bytes;
}

/* Experts of a layer that so many rows choose some of, if they choose evenly. */
static double active_experts(const plan_model_t *m, double rows)
{
    double all = (double)m->n_experts;
    return all == 0 ? 0 : all * (1 - pow(1 - (double)m->n_chosen / all, rows));
}

/* Columns between gate and down that a row has, on average over layers. */
static double mlp_width(const plan_model_t *m, double dense, double expert)
{
    double sparse = (double)m->n_sparse_layers / (double)m->n_layers;
    return (1 - sparse) * dense + sparse * (double)m->n_chosen * expert;
}

/* q, k and v are one list of panels; a thread computes the same panels of gate and up. */
static double layer_bytes(const plan_t *plan, size_t rank, reading_t how, int phase)
{
    const plan_model_t *m = &plan->model;
    const plan_weight_t *of_list = NULL;
    size_t listed = 0;
    double bytes = 0;
    for (size_t i = 0; i < m->n_weights; i++) {
        const plan_weight_t *weight = &m->weights[i];
        if (!weight->per_layer || weight->per_expert || weight->columns == PLAN_DIM_NONE ||
            phase_of(weight) != phase)
            continue;
        const plan_part_t part = plan_weight_part(plan, rank, weight);
        if (phase == 0) {
            listed += size_round_up(plan_count(part.rows), KERNEL_PANEL);
            of_list = weight;
        } else
            bytes += share_of_layers(m, weight) *
                     busy_bytes(m, weight, how, plan_count(part.rows), plan_count(part.columns));
    }
    return bytes + busy_bytes(m, of_list, how, listed, m->hidden);
}

/* Bytes of rows, all layers but the last, and of drawn rows, which go through the last, too.
 * a_token: of one that is drawn. */
static double step_bytes(const plan_t *plan, double a_token, double rows, double draws)
{
    const plan_model_t *m = &plan->model;
    double layers = (double)m->n_layers, embedding = (double)(m->hidden * m->cache_bytes);
    double layer = (a_token - embedding) / layers;
    return a_token == 0 ? 0 : rows * embedding + (rows * (layers - 1) + draws) * layer;
}

void predict_bytes(const plan_t *plan, size_t ranks_per_node, double rows, double draws,
    double *rank_bytes, double *node_bytes)
{
    size_t n = plan->n_ranks, per_node = size_min(size_max(ranks_per_node, 1), n);
    size_t bytes = plan->model.cache_bytes, rank = 0, node = 0;
    for (size_t r = 0; r < n; r++)
        rank = size_max(rank, plan_exchange_bytes_per_token(plan, r, bytes));
    for (size_t first = 0; first < n; first += per_node)
        node = size_max(node, plan_network_bytes_per_token(plan, first, per_node, bytes));
    *rank_bytes = step_bytes(plan, (double)rank, rows, draws);
    *node_bytes = step_bytes(plan, (double)node, rows, draws);
}

/* The most of each gather. */
static void set_gather_bytes(const plan_t *plan, size_t per_node, load_t *load)
{
    const plan_model_t *m = &plan->model;
    const double widths[GATHERS] = {(double)(m->n_heads * m->head_dim), (double)m->hidden,
        mlp_width(m, (double)m->intermediate, (double)m->expert_intermediate), (double)m->hidden};
    for (int i = 0; i < GATHERS; i++)
        load->gather_width[i] = widths[i] * (double)m->cache_bytes;
    for (size_t first = 0; first < plan->n_ranks && per_node < plan->n_ranks; first += per_node) {
        double others[GATHERS];
        memcpy(others, widths, sizeof others);
        for (size_t r = first; r < size_min(first + per_node, plan->n_ranks); r++) {
            const plan_share_t *s = &plan->shares[r];
            others[0] -= (double)(plan_count(s->heads) * m->head_dim);
            others[1] -= (double)plan_count(s->hidden);
            others[2] -=
                mlp_width(m, (double)plan_count(s->columns), (double)plan_count(s->expert_columns));
            others[3] -= (double)plan_count(s->hidden);
        }
        for (int i = 0; i < GATHERS; i++)
            load->gather_bytes[i] = most(load->gather_bytes[i], others[i] * (double)m->cache_bytes);
    }
}

static load_t load_of(const plan_t *plan, size_t ranks_per_node, const predict_rates_t *rates)
{
    const plan_model_t *m = &plan->model;
    load_t load = {0};
    size_t per_node = size_min(size_max(ranks_per_node, 1), plan->n_ranks);
    double width = (double)(m->n_heads * m->head_dim + 2 * m->hidden) +
                   mlp_width(m, (double)m->intermediate, (double)m->expert_intermediate);
    for (size_t r = 0; r < plan->n_ranks; r++) {
        const plan_share_t *s = &plan->shares[r];
        double heads = (double)plan_count(s->heads), kv = (double)plan_count(s->kv_heads);
        for (kept_t k = 0; k < KEPT_COUNT; k++) {
            const reading_t how = {k, rates->threads, rates->packed_speed};
            for (int i = 0; i < GATHERS; i++) {
                double *matrix = &load.matrix_bytes[k][i], *expert = &load.expert_bytes[k][i];
                *matrix = most(*matrix, layer_bytes(plan, r, how, i));
                *expert = most(*expert, expert_bytes(plan, r, how, i));
            }
            load.lm_head_bytes[k] = most(
                load.lm_head_bytes[k], busy_bytes(m, NULL, how, plan_count(s->vocab), m->hidden));
        }
        load.heads = most(load.heads, heads);
        load.elements =
            most(load.elements, 2 * (double)m->hidden + (heads + 2 * kv) * (double)m->head_dim);
        load.vocab = most(load.vocab, (double)plan_count(s->vocab));
    }
    set_gather_bytes(plan, per_node, &load);
    predict_bytes(plan, ranks_per_node, 1, 1, &load.rank_bytes, &load.node_bytes);
    load.window_bytes = width * (double)m->cache_bytes;
    load.nodes = (plan->n_ranks + per_node - 1) / per_node;
    return load;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

typedef struct step {
    bool decode;
    double rows, draws; /* rows of logits */
    double flop_heads;  /* rows x keys x 4 x head elements, for each query head and layer */
    double flop_s;      /* seconds of a FLOP of attention */
} step_t;

/* Layers of all rows: after its keys and values the last one continues with the drawn ones only
 * (narrow.c). */
static double whole_layers(const plan_t *plan, const step_t *step)
{
    return (double)plan->model.n_layers - 1 + step->draws / step->rows;
}

static double rounds(size_t nodes)
{
    double n = 0;
    for (size_t reached = 1; reached < nodes; reached *= 2)
        n++;
    return n;
}

/* Gathers of a step: four a layer and the embedding's; with reduce two sums. */
static double n_gathers(const plan_t *plan, const step_t *step)
{
    double each = plan->combine == PLAN_GATHER ? GATHERS : GATHERS / 2;
    return each * (double)(plan->model.n_layers - (step->draws == 0)) + 1;
}

/* A link between nodes: bytes that wait to pass, and bytes that may pass at once. */
typedef struct link {
    double bytes_per_s, most_saved, saved, queued; /* bytes */
} link_t;

static void link_pass(link_t *link, double seconds)
{
    double room = seconds * link->bytes_per_s, passed = fmin(room, link->queued);
    link->queued -= passed;
    link->saved = fmin(link->saved + room - passed, link->most_saved);
}

static void link_put(link_t *link, double bytes)
{
    double at_once = fmin(link->saved, bytes);
    link->saved -= at_once;
    link->queued += bytes - at_once;
}

/* Seconds of a layer before what a gather sends is written, and while it is. */
typedef struct phase {
    double before, during;
} phase_t;

/* comm_stream_pays for an average rank. */
static bool streams(const plan_t *plan, const load_t *load, const step_t *step, int gather)
{
    return step->rows >= COMM_STREAM_FROM_ROWS &&
           step->rows * load->gather_width[gather] / (double)plan->n_ranks >=
               (double)COMM_STREAM_FROM_BYTES;
}

/* Seconds that a gather adds to its phase, without latency. */
static double gather_seconds(
    const phase_t *phase, double bytes, int pieces, double processor, link_t *link)
{
    link_pass(link, phase->before);
    for (int i = 0; i < pieces; i++) {
        link_pass(link, phase->during / pieces);
        link_put(link, bytes / pieces);
        link_pass(link, processor / pieces);
    }
    double waited = link->queued / link->bytes_per_s;
    link->queued = 0;
    return processor + waited;
}

/* Of the gathers of all layers. The second of two layers stands for all. */
static double layer_gathers_seconds(const plan_t *plan, const load_t *load,
    const predict_network_t *network, const step_t *step, const phase_t *phases)
{
    link_t link = {network->bytes_per_s, network->burst_bytes, network->burst_bytes, 0};
    double seconds = 0;
    for (int i = 0; i < 2 * GATHERS; i++) {
        int gather = i % GATHERS;
        bool streamed = streams(plan, load, step, gather);
        double bytes = step->rows * load->gather_bytes[gather];
        double processor = streamed ? bytes * network->processor_byte_s : 0;
        double more = gather_seconds(
            &phases[gather], bytes, streamed ? COMM_STREAM_BURSTS : 1, processor, &link);
        seconds += i < GATHERS ? 0 : more;
    }
    return seconds * whole_layers(plan, step);
}

static double seconds_between_nodes(const plan_t *plan, const load_t *load,
    const predict_network_t *network, const step_t *step, const phase_t *phases)
{
    double latency =
        (n_gathers(plan, step) + STEP_ROUNDS) * rounds(load->nodes) * network->latency_s;
    double layer_bytes = 0;
    if (network->bytes_per_s <= 0)
        return latency;
    if (plan->combine != PLAN_GATHER)
        return latency +
               step_bytes(plan, load->node_bytes, step->rows, step->draws) / network->bytes_per_s;
    for (int i = 0; i < GATHERS; i++)
        layer_bytes += load->gather_bytes[i];
    double rest = load->node_bytes - layer_bytes * (double)plan->model.n_layers;
    return latency + step->rows * fmax(rest, 0) / network->bytes_per_s +
           layer_gathers_seconds(plan, load, network, step, phases);
}

static void add_exchange(const plan_t *plan, const load_t *load, const predict_rates_t *rates,
    const predict_network_t *network, const step_t *step, const phase_t *phases,
    predict_split_t *split)
{
    double messages = (double)plan->n_ranks * PREDICT_MESSAGE_S, node = 0, between = 0;
    if (plan->n_ranks == 1)
        return;
    node = (n_gathers(plan, step) + STEP_ROUNDS) * rates->gather_s;
    if (step->rows >= KERNEL_MANY_ROWS) /* copied through windows (exchange.c) */
        node += step->rows * whole_layers(plan, step) * load->window_bytes * rates->copy_byte_s;
    if (load->nodes > 1) {
        between = seconds_between_nodes(plan, load, network, step, phases);
        messages += n_gathers(plan, step) * rates->gather_s; /* a second barrier in the node */
    }
    split->exchange += node + between + messages;
    split->network += between;
}

/* Seconds of a layer's matrices before a gather, for so many rows. */
static double matrix_seconds(const plan_model_t *m, const load_t *load,
    const predict_curve_t *byte_s, double rows, int gather)
{
    double active = active_experts(m, rows), each = 0;
    kept_t kept = kept_of(rows);
    if (active > 0)
        each = predict_curve_at(byte_s, rows * (double)m->n_chosen / active);
    return load->matrix_bytes[kept][gather] * predict_curve_at(byte_s, rows) +
           load->expert_bytes[kept][gather] * active * each;
}

static void add_step(const plan_t *plan, const load_t *load, const predict_rates_t *rates,
    const predict_network_t *network, const step_t *step, predict_split_t *split)
{
    double layers = (double)plan->model.n_layers, whole = whole_layers(plan, step);
    const predict_curve_t *matrix = step->decode ? &rates->decode_matrix : &rates->prompt_matrix;
    phase_t phases[GATHERS];
    double layer = 0, last = 0;
    double attention = load->heads * step->flop_heads * step->flop_s;
    double elementwise =
        rates->elementwise_layer_s + step->rows * load->elements * rates->elementwise_element_s;
    for (int i = 0; i < GATHERS; i++) {
        double seconds = matrix_seconds(&plan->model, load, matrix, step->rows, i);
        phases[i] = (phase_t){elementwise / GATHERS, seconds};
        layer += seconds;
        last += i == 0 || step->draws == 0
                    ? 0
                    : matrix_seconds(&plan->model, load, &rates->decode_matrix, step->draws, i);
    }
    double qkv = phases[0].during;
    phases[0].before += phases[0].during; /* q, k and v of all rows come before attention */
    phases[0].during = attention;
    predict_split_t sum = {.attention = whole * attention};
    /* Half of the elements of a layer come before attention. */
    sum.elementwise = (whole + layers) / 2 * elementwise;
    sum.matrix = (layers - 1) * layer + qkv + last;
    if (step->draws > 0)
        sum.matrix += load->lm_head_bytes[kept_of(step->draws)] *
                      predict_curve_at(&rates->decode_matrix, step->draws);
    split->matrix += sum.matrix;
    split->attention += sum.attention;
    split->elementwise += sum.elementwise;
    split->waiting += layers * rates->waiting_layer_s +
                      rates->waiting_share * (sum.matrix + sum.attention + sum.elementwise);
    split->sampling += rates->sampling_step_s + step->draws * load->vocab * rates->sampling_row_s;
    add_exchange(plan, load, rates, network, step, phases, split);
}

double predict_seconds(const predict_split_t *s)
{
    return s->matrix + s->attention + s->elementwise + s->exchange + s->waiting + s->sampling;
}

/* Prompts go through in chunks, oldest first; a step may hold several. */
static void add_prefill(const plan_t *plan, const load_t *load, const predict_rates_t *rates,
    const predict_network_t *network, const predict_work_t *work, predict_split_t *split)
{
    double prompt = (double)work->prompt_tokens, d = (double)plan->model.head_dim;
    size_t total = work->batch * work->prompt_tokens;
    double flop_s = predict_curve_at(&rates->prompt_attention, prompt);
    for (size_t begin = 0; begin < total; begin += work->chunk) {
        size_t end = size_min(begin + work->chunk, total), keys = 0;
        for (size_t at = begin; at < end;) {
            size_t first = at % work->prompt_tokens;
            size_t n = size_min(work->prompt_tokens - first, end - at);
            keys += n * first + n * (n + 1) / 2;
            at += n;
        }
        size_t draws = end / work->prompt_tokens - begin / work->prompt_tokens;
        const step_t step = {
            false, (double)(end - begin), (double)draws, 4 * d * (double)keys, flop_s};
        add_step(plan, load, rates, network, &step, split);
    }
}

static void add_decode(const plan_t *plan, const load_t *load, const predict_rates_t *rates,
    const predict_network_t *network, const predict_work_t *work, predict_split_t *split)
{
    double rows = (double)work->batch;
    double keys = (double)work->context + (double)(work->gen_tokens + 1) / 2;
    double flop_s = predict_curve_at(&rates->decode_attention, keys);
    const step_t step = {true, rows, rows, 4 * (double)plan->model.head_dim * rows * keys, flop_s};
    add_step(plan, load, rates, network, &step, split);
}

void predict_run(const plan_t *plan, const predict_rates_t *rates, const predict_network_t *network,
    size_t ranks_per_node, const predict_work_t *work, predict_result_t *result)
{
    load_t load = load_of(plan, ranks_per_node, rates);
    *result = (predict_result_t){.exchange_bytes = load.rank_bytes * (double)work->batch,
        .network_bytes = load.node_bytes * (double)work->batch};
    add_prefill(plan, &load, rates, network, work, &result->prefill);
    add_decode(plan, &load, rates, network, work, &result->decode);
    double tokens = (double)work->batch * (double)work->prompt_tokens;
    result->prefill_tokens_per_s = tokens / predict_seconds(&result->prefill);
    result->decode_tokens_per_s = (double)work->batch / predict_seconds(&result->decode);
}

/* ---- Meshes ---------------------------------------------------------------------------------- */

static bool mesh_is_possible(const predict_query_t *q, size_t n_ranks, size_t replicas)
{
    if (replicas == 0 || n_ranks % replicas != 0)
        return false;
    size_t each = n_ranks / replicas;
    return replicas == 1 || q->ranks_per_node % each == 0 || each % q->ranks_per_node == 0;
}

/* Weights of the node that has most of them: replicas on a node share one copy. */
static double node_weight_bytes(const plan_t *plan, size_t ranks_per_node)
{
    double largest = 0;
    size_t per_node = size_min(ranks_per_node, plan->n_ranks);
    for (size_t first = 0; first < plan->n_ranks; first += per_node) {
        double bytes = 0;
        for (size_t r = first; r < size_min(first + per_node, plan->n_ranks); r++)
            bytes += (double)plan_weight_bytes(plan, r);
        largest = most(largest, bytes);
    }
    return largest;
}

int predict_mesh(
    const predict_query_t *q, size_t n_ranks, size_t replicas, predict_mesh_t *mesh, fail_t *fail)
{
    plan_t plan;
    if (!mesh_is_possible(q, n_ranks, replicas))
        return fail_set(fail, FAIL_USAGE,
            "predict: %zu replicas of %zu ranks, %zu on a node: replicas must be of one size and divide a node, or take whole nodes",
            replicas, n_ranks, q->ranks_per_node);
    size_t each = n_ranks / replicas, on_node = size_min(n_ranks, q->ranks_per_node);
    const predict_rates_t *rates =
        predict_choose(q->cluster, on_node, q->threads, q->model->hidden, q->model->head_dim);
    if (rates == NULL)
        return fail_set(fail, FAIL_USAGE, "predict: the cluster has no rates");
    if (plan_open(&plan, q->model, q->combine, each, fail) != 0)
        return fail->status;
    predict_work_t work = q->work;
    work.batch = size_max(1, (q->work.batch + replicas - 1) / replicas);
    *mesh = (predict_mesh_t){.replicas = replicas,
        .ranks_each = each,
        .threads = rates->threads,
        .nodes = (n_ranks + q->ranks_per_node - 1) / q->ranks_per_node};
    predict_run(&plan, rates, &q->network, q->ranks_per_node, &work, &mesh->each);
    double kv = (double)plan_kv_bytes_per_token(&plan, 0) * (double)size_min(each, on_node);
    double tokens = (double)(size_max(work.context, work.prompt_tokens) + work.gen_tokens);
    mesh->weight_bytes = node_weight_bytes(&plan, q->ranks_per_node);
    double caches = kv * tokens * (double)work.batch * (double)size_max(1, on_node / each);
    mesh->fits = q->cluster->node_memory_bytes <= 0 ||
                 mesh->weight_bytes + caches <= q->cluster->node_memory_bytes;
    double sequences = (double)q->work.batch / (double)work.batch;
    mesh->prefill_tokens_per_s = mesh->each.prefill_tokens_per_s * sequences;
    mesh->decode_tokens_per_s = mesh->each.decode_tokens_per_s * sequences;
    plan_close(&plan);
    return 0;
}

static bool is_better(const predict_mesh_t *a, const predict_mesh_t *b, bool by_prefill)
{
    if (a->fits != b->fits)
        return a->fits;
    if (!a->fits)
        return a->weight_bytes < b->weight_bytes;
    return by_prefill ? a->prefill_tokens_per_s > b->prefill_tokens_per_s
                      : a->decode_tokens_per_s > b->decode_tokens_per_s;
}

int predict_best_mesh(
    const predict_query_t *q, size_t n_ranks, bool by_prefill, predict_mesh_t *best, fail_t *fail)
{
    bool found = false;
    for (size_t replicas = 1; replicas <= size_min(n_ranks, q->work.batch); replicas++) {
        predict_mesh_t mesh;
        if (!mesh_is_possible(q, n_ranks, replicas))
            continue;
        if (predict_mesh(q, n_ranks, replicas, &mesh, fail) != 0)
            return fail->status;
        if (!found || is_better(&mesh, best, by_prefill))
            *best = mesh;
        found = true;
    }
    return 0;
}
