/* What is in a stage. Internal to sharding/checkpoint/. */
#ifndef CHOIR_SHARDING_QUANTISED_INTERNAL_H
#define CHOIR_SHARDING_QUANTISED_INTERNAL_H

#include "sharding/checkpoint/quantised.h"

struct quantised_stage {
    quantised_t matrix;
    quantised_part_t part;
    /* As stored: packed words or bytes of the part, rounded out to whole words. */
    unsigned char *codes;
    size_t word_begin,
        words;     /* of a run of packed words: of outputs (AWQ) or inputs (GPTQ, packed) */
    float *scales; /* of the part, as stored: [groups, outputs] or [blocks of outputs, groups] */
    unsigned char *zeros; /* as stored */
    size_t zero_word_begin, zero_words;
    size_t block_begin; /* of outputs, where blocks have scales in common */
    uint32_t *group_of; /* [columns of the part] */
    bool in_order;
    /* For quantised_unpack. */
    uint8_t *row_codes;
    size_t row_stride;
    float *row_scales;
    uint8_t *row_zeros;
    float *row; /* [columns] */
};

#endif
