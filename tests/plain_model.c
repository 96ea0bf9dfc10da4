#include "tests/plain_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/arch/arch.h"
#include "engine/model/model_source.h"
#include "engine/model/rope.h"

typedef struct plain {
    const config_t *config;
    const uint64_t *seed;
    dtype_t mode;
    size_t n;          /* tokens */
    double *x;         /* [n, hidden] the residual stream */
    double *q, *k, *v; /* [n, heads * head_dim] */
} plain_t;

/* A tensor; columns 0: a vector. To be freed. */
static double *tensor(const plain_t *m, const char *name, size_t rows, size_t columns)
{
    size_t width = columns == 0 ? 1 : columns, n = rows * width;
    const model_part_t part = {name, rows, columns, 0, rows, 0, width, NULL, NULL};
    const model_source_t source = model_source_random(m->seed);
    double *values = malloc(n * sizeof *values), *scratch = malloc(n * sizeof *scratch);
    void *rounded = malloc(n * dtype_bytes(m->mode));
    fail_t fail = {0};
    source.read(source.context, &part, m->mode, rounded, scratch, &fail);
    dtype_convert(values, DTYPE_F64, rounded, m->mode, n);
    free(rounded);
    free(scratch);
    return values;
}

static double *layer_tensor(
    const plain_t *m, size_t layer, const char *name, size_t rows, size_t columns)
{
    char full[96];
    snprintf(full, sizeof full, "model.layers.%zu.%s", layer, name);
    return tensor(m, full, rows, columns);
}

/* y = x W^T + bias. To be freed. */
static double *product(const plain_t *m, const double *x, const double *w, const double *bias,
    size_t outputs, size_t inputs)
{
    double *y = malloc(m->n * outputs * sizeof *y);
    for (size_t t = 0; t < m->n; t++)
        for (size_t o = 0; o < outputs; o++) {
            double sum = bias == NULL ? 0 : bias[o];
            for (size_t i = 0; i < inputs; i++)
                sum += x[t * inputs + i] * w[o * inputs + i];
            y[t * outputs + o] = sum;
        }
    return y;
}

static double *projection(const plain_t *m, size_t layer, const char *name, const double *x,
    bool biased, size_t outputs, size_t inputs)
{
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    double *w = layer_tensor(m, layer, full, outputs, inputs), *bias = NULL;
    snprintf(full, sizeof full, "%s.bias", name);
    if (biased)
        bias = layer_tensor(m, layer, full, outputs, 0);
    double *y = product(m, x, w, bias, outputs, inputs);
    free(w);
    free(bias);
    return y;
}

/* RMSNorm of rows of n, in place. */
static void normalise(const plain_t *m, size_t rows, size_t n, double *x, const double *weight)
{
    for (size_t r = 0; r < rows; r++, x += n) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += x[i] * x[i];
        for (size_t i = 0; i < n; i++)
            x[i] = x[i] / sqrt(sum / (double)n + m->config->rms_norm_eps) * weight[i];
    }
}

/* RMSNorm of the residual stream; frees the weight. To be freed. */
static double *normalised(const plain_t *m, double *weight)
{
    size_t h = m->config->hidden_size;
    double *y = malloc(m->n * h * sizeof *y);
    memcpy(y, m->x, m->n * h * sizeof *y);
    normalise(m, m->n, h, y, weight);
    free(weight);
    return y;
}

static void normalise_heads(
    const plain_t *m, size_t layer, const char *name, size_t heads, double *x)
{
    double *weight = layer_tensor(m, layer, name, m->config->head_dim, 0);
    normalise(m, m->n * heads, m->config->head_dim, x, weight);
    free(weight);
}

static void add_to_residual(plain_t *m, double *y)
{
    for (size_t i = 0; i < m->n * m->config->hidden_size; i++)
        m->x[i] += y[i];
    free(y);
}

static void rotate(const plain_t *m, double *x, size_t heads)
{
    size_t half = m->config->head_dim / 2, n = m->n * half;
    double *cosines = malloc(n * sizeof *cosines), *sines = malloc(n * sizeof *sines);
    rope_tables(m->config, DTYPE_F64, 0, m->n, cosines, sines);
    for (size_t t = 0; t < m->n; t++)
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < half; i++) {
                double *a = &x[(t * heads + h) * 2 * half + i], *b = a + half, old = *a;
                double c = cosines[t * half + i], s = sines[t * half + i];
                *a = old * c - *b * s;
                *b = *b * c + old * s;
            }
    free(cosines);
    free(sines);
}

void plain_attention(size_t head_dim, const double *q, const double *k, const double *v,
    size_t stride, size_t first, size_t end, double *out)
{
    double sum = 0;
    memset(out, 0, head_dim * sizeof *out);
    for (size_t key = first; key < end; key++) {
        double score = 0;
        for (size_t i = 0; i < head_dim; i++)
            score += q[i] * k[key * stride + i];
        double weight = exp(score / sqrt((double)head_dim));
        sum += weight;
        for (size_t i = 0; i < head_dim; i++)
            out[i] += weight * v[key * stride + i];
    }
    for (size_t i = 0; i < head_dim; i++)
        out[i] /= sum;
}

static void attend_row(const plain_t *m, size_t t, size_t head, size_t window, double *out)
{
    const config_t *c = m->config;
    size_t d = c->head_dim, kv = head / (c->num_attention_heads / c->num_key_value_heads);
    size_t first = window != 0 && t + 1 > window ? t + 1 - window : 0;
    plain_attention(d, m->q + (t * c->num_attention_heads + head) * d, m->k + kv * d, m->v + kv * d,
        c->num_key_value_heads * d, first, t + 1, out);
}

static double *attention_output(plain_t *m, size_t layer, const double *x)
{
    const config_t *c = m->config;
    size_t d = c->head_dim, heads = c->num_attention_heads, kv = c->num_key_value_heads * d;
    bool windowed = c->use_sliding_window && layer >= c->max_window_layers;
    bool biased = (c->parts & ARCH_QKV_BIAS) != 0, o_biased = (c->parts & ARCH_O_BIAS) != 0;
    m->q = projection(m, layer, "self_attn.q_proj", x, biased, heads * d, c->hidden_size);
    m->k = projection(m, layer, "self_attn.k_proj", x, biased, kv, c->hidden_size);
    m->v = projection(m, layer, "self_attn.v_proj", x, biased, kv, c->hidden_size);
    if ((c->parts & ARCH_QK_NORM) != 0) {
        normalise_heads(m, layer, "self_attn.q_norm.weight", heads, m->q);
        normalise_heads(m, layer, "self_attn.k_norm.weight", c->num_key_value_heads, m->k);
    }
    rotate(m, m->q, heads);
    rotate(m, m->k, c->num_key_value_heads);
    double *out = malloc(m->n * heads * d * sizeof *out);
    for (size_t t = 0; t < m->n; t++)
        for (size_t h = 0; h < heads; h++)
            attend_row(m, t, h, windowed ? c->sliding_window : 0, out + (t * heads + h) * d);
    double *y = projection(m, layer, "self_attn.o_proj", out, o_biased, c->hidden_size, heads * d);
    free(out);
    free(m->q);
    free(m->k);
    free(m->v);
    return y;
}

/* silu(gate) * up, and down; prefix: "mlp" or "mlp.experts.3". To be freed. */
static double *mlp_output(
    const plain_t *m, size_t layer, const char *prefix, const double *x, bool biased, size_t width)
{
    char name[64];
    size_t h = m->config->hidden_size;
    snprintf(name, sizeof name, "%s.gate_proj", prefix);
    double *gate = projection(m, layer, name, x, biased, width, h);
    snprintf(name, sizeof name, "%s.up_proj", prefix);
    double *up = projection(m, layer, name, x, biased, width, h);
    for (size_t i = 0; i < m->n * width; i++)
        gate[i] *= up[i] / (1 + exp(-gate[i]));
    snprintf(name, sizeof name, "%s.down_proj", prefix);
    double *y = projection(m, layer, name, gate, biased, h, width);
    free(gate);
    free(up);
    return y;
}

/* A row's weights of its most probable experts, 0 of all others, in place of its router logits. */
static void weigh_experts(const config_t *c, double *row)
{
    double all = 0, chosen = 0, weights[64] = {0};
    for (size_t e = 0; e < c->n_experts; e++)
        all += row[e] = exp(row[e]);
    for (size_t j = 0; j < c->n_experts_per_token; j++) {
        size_t best = 0;
        for (size_t e = 1; e < c->n_experts; e++)
            best = row[e] > row[best] ? e : best;
        chosen += weights[best] = row[best] / all;
        row[best] = -1;
    }
    for (size_t e = 0; e < c->n_experts; e++)
        row[e] = c->norm_topk_prob ? weights[e] / chosen : weights[e];
}

static double *mixture_output(const plain_t *m, size_t layer, const double *x)
{
    const config_t *c = m->config;
    size_t h = c->hidden_size;
    double *weights = projection(m, layer, "mlp.gate", x, false, c->n_experts, h);
    double *sum = calloc(m->n * h, sizeof *sum);
    for (size_t t = 0; t < m->n; t++)
        weigh_experts(c, weights + t * c->n_experts);
    for (size_t e = 0; e < c->n_experts; e++) {
        char prefix[40];
        snprintf(prefix, sizeof prefix, "mlp.experts.%zu", e);
        double *y = mlp_output(m, layer, prefix, x, false, c->expert_intermediate_size);
        for (size_t i = 0; i < m->n * h; i++)
            sum[i] += weights[i / h * c->n_experts + e] * y[i];
        free(y);
    }
    free(weights);
    return sum;
}

static void run_layer(plain_t *m, size_t layer)
{
    const config_t *c = m->config;
    size_t h = c->hidden_size;
    double *x = normalised(m, layer_tensor(m, layer, "input_layernorm.weight", h, 0));
    add_to_residual(m, attention_output(m, layer, x));
    free(x);
    x = normalised(m, layer_tensor(m, layer, "post_attention_layernorm.weight", h, 0));
    bool biased = (c->parts & ARCH_MLP_BIAS) != 0;
    add_to_residual(m, config_layer_is_sparse(c, layer)
                           ? mixture_output(m, layer, x)
                           : mlp_output(m, layer, "mlp", x, biased, c->intermediate_size));
    free(x);
}

void plain_logits(const config_t *config, const uint64_t *seed, dtype_t mode, const int32_t *ids,
    size_t n, double *logits)
{
    size_t h = config->hidden_size, vocab = config->vocab_size;
    plain_t m = {.config = config, .seed = seed, .mode = mode, .n = n};
    double *embedding = tensor(&m, "model.embed_tokens.weight", vocab, h);
    m.x = malloc(n * h * sizeof *m.x);
    for (size_t t = 0; t < n; t++)
        memcpy(m.x + t * h, embedding + (size_t)ids[t] * h, h * sizeof *m.x);
    for (size_t l = 0; l < config->num_hidden_layers; l++)
        run_layer(&m, l);
    double *x = normalised(&m, tensor(&m, "model.norm.weight", h, 0));
    double *head = config->tie_word_embeddings ? embedding : tensor(&m, "lm_head.weight", vocab, h);
    double *y = product(&m, x, head, NULL, vocab, h);
    memcpy(logits, y, n * vocab * sizeof *y);
    if (head != embedding)
        free(head);
    free(embedding);
    free(x);
    free(y);
    free(m.x);
}

double plain_difference(const double *exact, const void *found, dtype_t dtype, size_t n)
{
    double error = 0, value;
    for (size_t i = 0; i < n; i++) {
        dtype_convert(&value, DTYPE_F64, (const char *)found + i * dtype_bytes(dtype), dtype, 1);
        double difference = fabs(exact[i] - value);
        error = difference <= error ? error : difference >= 0 ? difference : INFINITY;
    }
    return error;
}
