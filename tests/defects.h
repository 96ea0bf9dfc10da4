/* Defects of an opened model and what verification has to say of each, for mpi_defects.c. */
#ifndef CHOIR_TESTS_DEFECTS_H
#define CHOIR_TESTS_DEFECTS_H

#include "comm/comm.h"
#include "engine/base/team.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/verify/reference.h"

struct bench;

/* A model, and what Hugging Face computed of it. */
typedef struct subject {
    config_t config;
    model_source_t source;
    const char *reference;
    checkpoint_t *checkpoint; /* or NULL, where weights are random */
    order_t order;
    void (*prepare)(struct bench *bench); /* the model, before defects are planted; or NULL */
} subject_t;

/* What a defect may touch. */
typedef struct bench {
    comm_t *comm;
    team_t *team;
    reference_t *reference;
    checkpoint_t *checkpoint; /* the subject's */
    model_t model;
    matrix_t untied; /* lm_head of its own, or empty */
    kv_cache_t cache;
} bench_t;

#define BIT(component) (UINT64_C(1) << (component))
#define NORMS                                                                                      \
    (BIT(COMPONENT_NORMALIZED_INPUT) | BIT(COMPONENT_NORMALIZED_AFTER_ATTN) |                      \
        BIT(COMPONENT_FINAL_NORM))
#define ROPES (BIT(COMPONENT_Q_ROPE) | BIT(COMPONENT_K_ROPE))
#define ALL_LOGITS                                                                                 \
    (BIT(COMPONENT_LOGITS) | BIT(KIND_DECODE_LOGITS) | BIT(KIND_STEPWISE_LOGITS) |                 \
        BIT(KIND_GENERATE_LOGITS))

/* Where a defect shows. */
typedef enum where {
    EAGER,
    SDPA,
    FUSED /* only when nobody looks between fused steps: in the logits of the unobserved forward */
} where_t;

typedef struct defect {
    const char *name;
    void (*plant)(bench_t *bench);
    size_t named; /* the component that has to be named first */
    uint64_t may; /* those that may differ as well; others must not */
    where_t where;
    bool (*applies)(const bench_t *bench); /* on any rank; NULL: always */
} defect_t;

/* avx2_defects.c, of --order torch-avx2: of chains; of what shows in the tiny model, attention and sums of 216 inputs;
 * of denormals, with the model that they show in; of attention's last keys. */
extern const defect_t avx2_chain_defect, avx2_tiny_defects[], avx2_denormal_defect,
    avx2_keys_defect;
extern const size_t n_avx2_tiny_defects;
void avx2_scale_mlp(bench_t *bench);

/* moe_defects.c */
extern const defect_t moe_defects[];
extern const size_t n_moe_defects;

/* quantised_defects.c: of GPTQ's int4 and int8, of FP8, of compressed-tensors */
extern const defect_t int4_defects[], int8_defects[], fp8_defects[], compressed_defects[];
extern const size_t n_int4_defects, n_int8_defects, n_fp8_defects, n_compressed_defects;

#endif
