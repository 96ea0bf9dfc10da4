#include "tests/attention_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "tests/plain_model.h"

static uint64_t next(uint64_t *random)
{
    *random += 0x9e3779b97f4a7c15u;
    uint64_t x = (*random ^ (*random >> 30)) * 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 27);
}

/* n numbers between -2 and 2. */
static char *random_elements(dtype_t mode, uint64_t seed, size_t n)
{
    char *elements = malloc(n * dtype_bytes(mode));
    for (size_t i = 0; i < n; i++) {
        double x = (double)(int64_t)next(&seed) * 0x1p-62;
        dtype_convert(elements + i * dtype_bytes(mode), mode, &x, DTYPE_F64, 1);
    }
    return elements;
}

static char *copy_of(const void *elements, size_t bytes)
{
    char *copy = malloc(bytes);
    memcpy(copy, elements, bytes);
    return copy;
}

static void open_cache(attention_data_t *data)
{
    const attention_case_t *c = &data->c;
    size_t n = (c->n_tokens + KV_BLOCK - 1) / KV_BLOCK;
    fail_t fail = {0};
    kernels_get(&data->kernels, c->isa, c->mode);
    if (kv_cache_open(&data->cache, c->mode, 1, 1, c->head_dim, n, &fail) != 0)
        abort();
    memset(data->cache.blocks, 0xff, data->cache.bytes);
    data->blocks = malloc(n * sizeof *data->blocks);
    for (size_t i = 0; i < n; i++)
        data->blocks[i] = (int32_t)(n - 1 - i);
    data->out_bytes = c->n_tokens * c->n_heads * c->head_dim * dtype_bytes(c->mode);
    data->out = calloc(1, data->out_bytes);
    data->total_heads = c->n_heads;
}

void attention_open(attention_data_t *data, const attention_case_t *c)
{
    size_t n = c->n_tokens * c->head_dim;
    *data = (attention_data_t){.c = *c,
        .q = random_elements(c->mode, 1, n * c->n_heads),
        .k = random_elements(c->mode, 2, n),
        .v = random_elements(c->mode, 3, n)};
    open_cache(data);
}

void attention_open_with(
    attention_data_t *data, const attention_case_t *c, const void *q, const void *k, const void *v)
{
    size_t bytes = c->n_tokens * c->head_dim * dtype_bytes(c->mode);
    *data = (attention_data_t){.c = *c,
        .q = copy_of(q, bytes * c->n_heads),
        .k = copy_of(k, bytes),
        .v = copy_of(v, bytes)};
    open_cache(data);
}

void attention_close(attention_data_t *data)
{
    kv_cache_close(&data->cache);
    free(data->blocks);
    free(data->q);
    free(data->k);
    free(data->v);
    free(data->out);
}

void attention_append(attention_data_t *data, size_t begin, size_t end)
{
    const attention_case_t *c = &data->c;
    size_t d = c->head_dim, e = dtype_bytes(c->mode);
    for (size_t t = begin; t < end; t++) {
        size_t block = (size_t)data->blocks[t / KV_BLOCK];
        char *key = copy_of(data->k + t * d * e, d * e);
        kv_cache_append(&data->cache, 0, 0, block, t % KV_BLOCK, c->attention == ATTENTION_SDPA,
            key, data->v + t * d * e);
        free(key);
    }
}

static void compute_unit(
    attention_data_t *data, size_t begin, size_t end, size_t ref_q_len, void *scratch)
{
    const attention_case_t *c = &data->c;
    size_t row = c->n_heads * c->head_dim, e = dtype_bytes(c->mode);
    const attention_unit_t unit = {.kernels = &data->kernels,
        .order = c->order,
        .dot = c->dot,
        .total_heads = data->total_heads,
        .head_dim = c->head_dim,
        .scale = 1 / sqrt((double)c->head_dim),
        .cache = &data->cache,
        .blocks = data->blocks,
        .first_position = begin,
        .n_tokens = end - begin,
        .n_heads = c->n_heads,
        .ref_q_len = ref_q_len,
        .window = c->window,
        .kv_group = c->n_heads,
        .q = data->q + begin * row * e,
        .q_stride = row,
        .out = data->out + begin * row * e,
        .out_stride = row};
    if (c->attention == ATTENTION_SDPA)
        attention_sdpa(&unit, 1, scratch);
    else
        attention_eager(&unit, scratch);
}

void attention_compute(attention_data_t *data, size_t begin, size_t end, size_t ref_q_len)
{
    const attention_case_t *c = &data->c;
    size_t tokens = ref_q_len == 1 ? 1 : attention_unit_tokens(c->n_heads);
    size_t bytes =
        c->attention == ATTENTION_SDPA
            ? attention_sdpa_scratch_bytes(c->head_dim, c->n_heads)
            : attention_eager_scratch_bytes(&data->kernels, c->head_dim, c->n_heads, c->n_tokens);
    void *scratch = aligned_alloc(64, size_round_up(bytes, 64));
    memset(scratch, 0xff, bytes);
    for (size_t at = begin, stop; at < end; at = stop) {
        stop = size_min((at / tokens + 1) * tokens, end);
        compute_unit(data, at, stop, ref_q_len, scratch);
    }
    free(scratch);
}

void attention_prefill(attention_data_t *data, size_t chunk)
{
    size_t n = data->c.n_tokens;
    for (size_t at = 0; at < n; at += chunk) {
        size_t end = size_min(at + chunk, n);
        attention_append(data, at, end);
        attention_compute(data, at, end, n);
    }
}

/* n elements of the mode, widened. To be freed. */
static double *widened(const attention_data_t *data, const char *elements, size_t n)
{
    double *wide = malloc(n * sizeof *wide);
    dtype_convert(wide, DTYPE_F64, elements, data->c.mode, n);
    return wide;
}

void attention_exact(const attention_data_t *data, double *exact)
{
    const attention_case_t *c = &data->c;
    size_t n = c->n_tokens * c->head_dim;
    double *q = widened(data, data->q, n * c->n_heads);
    double *k = widened(data, data->k, n), *v = widened(data, data->v, n);
    for (size_t row = 0; row < c->n_tokens * c->n_heads; row++) {
        size_t at = row * c->head_dim, end = row / c->n_heads + 1;
        size_t first = c->window != 0 && end > c->window ? end - c->window : 0;
        plain_attention(c->head_dim, q + at, k, v, c->head_dim, first, end, exact + at);
    }
    free(q);
    free(k);
    free(v);
}

double attention_error(const attention_data_t *data)
{
    size_t n = data->c.n_tokens * data->c.n_heads * data->c.head_dim;
    double *exact = malloc(n * sizeof *exact);
    attention_exact(data, exact);
    double error = plain_difference(exact, data->out, data->c.mode, n);
    free(exact);
    return error;
}
