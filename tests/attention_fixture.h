/* One KV head's attention for tests: a cache with keys and values, queries, and the same computed
 * plainly in double precision. Without ranks, threads and forward pass. */
#ifndef CHOIR_TESTS_ATTENTION_FIXTURE_H
#define CHOIR_TESTS_ATTENTION_FIXTURE_H

#include "engine/model/attention.h"

/* Shape and order of a case. */
typedef struct attention_case {
    dtype_t mode;
    isa_t isa;
    order_t order;
    attention_t attention; /* not ATTENTION_AUTO */
    dot_t dot;
    size_t head_dim, n_heads; /* query heads of the KV head */
    size_t n_tokens;          /* of the prompt */
    size_t window;            /* 0: none */
} attention_case_t;

/* Queries, keys and values of a sequence, in the mode's element type, and what attention gives. */
typedef struct attention_data {
    attention_case_t c;
    kernels_t kernels;
    kv_cache_t cache;
    int32_t *blocks;    /* not in ascending order */
    char *q;            /* [n_tokens, n_heads, head_dim] */
    char *k, *v;        /* [n_tokens, head_dim] */
    char *out;          /* like q */
    size_t out_bytes;   /* of out */
    size_t total_heads; /* of the model; n_heads unless set */
} attention_data_t;

/* Random numbers from a seed that depends on the shape alone, so that cases of one shape and mode
 * have the same. The cache's memory is all ones before: NaN, as an earlier sequence may leave. */
void attention_open(attention_data_t *data, const attention_case_t *c);
/* The same with numbers of the caller's: q, k, v as above, copied. */
void attention_open_with(
    attention_data_t *data, const attention_case_t *c, const void *q, const void *k, const void *v);
void attention_close(attention_data_t *data);

/* Writes keys and values of tokens [begin, end) into the cache. */
void attention_append(attention_data_t *data, size_t begin, size_t end);

/* Computes tokens [begin, end) into out, as rows of a call of ref_q_len tokens (1: of calls of
 * their own), in units of work as forward cuts them. Their keys have been appended. */
void attention_compute(attention_data_t *data, size_t begin, size_t end, size_t ref_q_len);
/* Appends and computes the whole prompt as one call, `chunk` tokens at a time. */
void attention_prefill(attention_data_t *data, size_t chunk);

/* What out would be in double precision. exact: [n_tokens, n_heads, head_dim] */
void attention_exact(const attention_data_t *data, double *exact);
/* The largest difference of out from it. */
double attention_error(const attention_data_t *data);

#endif
