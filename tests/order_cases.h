/* The orders of operations that are tested against double precision. */
#ifndef CHOIR_TESTS_ORDER_CASES_H
#define CHOIR_TESTS_ORDER_CASES_H

#include "engine/base/dtype.h"
#include "engine/model/order.h"

typedef struct order_case {
    const char *name;
    dtype_t mode;
    order_t order;
    attention_t attention;
    dot_t dot;
    /* How far from double precision attention may be, whose values are below 2 (bf16 has 8 bits of scores,
     * weights and results), and logits of about 2. */
    double attention_bound, logits_bound;
} order_case_t;

enum {
    CASE_EAGER,
    CASE_UNIFORM,
    CASE_SDPA,
    CASE_SDPA_AMX,
    CASE_EAGER_AVX2,
    CASE_SDPA_AVX2,
    CASE_F32,
    CASE_F64,
    N_ORDERS
};
extern const order_case_t orders[N_ORDERS];

#endif
