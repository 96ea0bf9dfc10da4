#include "engine/measure/bench_counts.h"

/* Keys that decode steps see on average, in layers with and without a sliding window. */
static double mean_keys(const config_t *config, const bench_load_t *load, bool windowed)
{
    double keys = (double)load->context + (double)(load->gen_tokens + 1) / 2;
    double window = (double)config->sliding_window;
    return windowed && keys > window ? window : keys;
}

/* Bytes of one expert of a layer, on average over those that have some. */
static double expert_bytes(const model_t *m)
{
    double bytes = 0;
    const arch_weight_t *weight;
    for (size_t l = 0; l < m->config.num_hidden_layers; l++)
        for (size_t i = 0; (weight = arch_weight(&m->config, i)) != NULL; i++)
            if (weight->shape.per_expert && arch_layer_is(&m->config, weight->shape.layers, l))
                bytes += (double)model_weight(m, weight, l)->experts[0].bytes;
    return bytes == 0 ? 0 : bytes / (double)config_sparse_layers(&m->config);
}

/* Collective. */
static void count_bytes(
    bench_counts_t *counts, const model_t *m, comm_t *comm, const bench_load_t *load)
{
    const config_t *c = &m->config;
    double weights = (double)model_lm_head(m)->bytes, kv = 0;
    const arch_weight_t *weight;
    double token =
        (double)plan_kv_bytes_per_token(&m->plan, m->rank) / (double)c->num_hidden_layers;
    for (size_t l = 0; l < c->num_hidden_layers; l++) {
        for (size_t i = 0; (weight = arch_weight(c, i)) != NULL; i++)
            if (weight->shape.per_layer)
                weights += (double)model_weight(m, weight, l)->matrix.bytes;
        kv += token * mean_keys(c, load, c->use_sliding_window && l >= c->max_window_layers);
    }
    counts->dense_bytes = (double)comm_sum(comm, (int64_t)weights);
    counts->expert_bytes = (double)comm_sum(comm, (int64_t)expert_bytes(m));
    counts->kv_bytes = (double)comm_sum(comm, (int64_t)(kv * (double)load->batch));
}

static void count_flop(
    bench_counts_t *counts, const model_t *m, const bench_load_t *load, bool whole_prompts)
{
    const config_t *c = &m->config;
    const plan_model_t *sizes = &m->plan.model;
    double hidden = (double)c->hidden_size, layers = (double)c->num_hidden_layers;
    double q = (double)plan_dim(sizes, PLAN_DIM_HEADS), row = 0, unwanted = 0;
    for (size_t i = 0; i < sizes->n_weights; i++) {
        const plan_weight_t *w = &sizes->weights[i];
        if (!w->per_layer || w->columns == PLAN_DIM_NONE)
            continue;
        double elements = (double)plan_dim(sizes, w->rows) * (double)plan_dim(sizes, w->columns);
        row += elements * (double)plan_active_count(sizes, w);
        /* For a prompt's rows except the last one, the last layer computes keys and values; queries
         * come with them. */
        if (w->rows != PLAN_DIM_HEADS && w->rows != PLAN_DIM_KV_HEADS &&
            arch_layer_is(c, w->layers, c->num_hidden_layers - 1))
            unwanted += elements * (double)(w->per_expert ? c->n_experts_per_token : 1);
    }
    unwanted = whole_prompts ? 0 : unwanted; /* narrow.c */
    double batch = (double)load->batch, prompt = (double)load->prompt_tokens;
    double logits = 2 * hidden * (double)c->vocab_size;
    counts->decode_flop = batch * (2 * row + logits);
    counts->prefill_flop = batch * (2 * (prompt * row - (prompt - 1) * unwanted) + logits);
    counts->attention_flop = batch * 4 * q * (prompt * (prompt + 1) / 2 * (layers - 1) + prompt);
}

void bench_count(bench_counts_t *counts, const model_t *model, comm_t *comm,
    const bench_load_t *load, bool whole_prompts)
{
    count_bytes(counts, model, comm, load);
    count_flop(counts, model, load, whole_prompts);
}
