/* Observing, and replacing, the components of the forward pass: the hook of `choir verify`.
 *
 * With a tap, every component of numerics.md's list is passed to a function as soon as it is
 * finished, in parts; what the function writes there is the input of the components after it.
 * Comparing and then writing the reference's values tests each component on the reference's own
 * inputs ("isolated"); comparing alone follows the real forward ("chained"). Fused steps are
 * separated while a tap is set; the bits are the same. */
#ifndef CHOIR_MODEL_TAP_H
#define CHOIR_MODEL_TAP_H

#include <stddef.h>

#include "engine/model/component.h"

/* Part of a component: rows [row, row + n_rows) and columns [column, column + n_columns) of the
 * whole matrix, whatever rank computed them. values: n_rows rows of n_columns in the mode's element
 * type (logits: accumulator type), stride elements apart; may be written. Row numbers are those of
 * the batch; FINAL_NORM and LOGITS count logits rows; ATTN_WEIGHTS as above, columns are keys.
 *
 * Every element of a component is handed to `part` once on one rank; what ranks exchange, on a rank
 * that received it from another, where there is another, so that the exchange itself is seen too.
 * KV heads that several ranks keep are handed out on each of them. */
typedef struct tap_part {
    component_t component;
    size_t layer; /* 0 for those outside of layers */
    size_t row, n_rows, column, n_columns, stride;
    void *values;
} tap_part_t;

typedef struct tap {
    void *context;
    /* Compares, and writes the replacement when isolating. Called by many threads at once, on parts
     * that do not overlap. */
    void (*part)(void *context, const tap_part_t *part);
    /* NULL when chained. Writes the reference's values without comparing: for copies of exchanged
     * parts that other ranks compared. */
    void (*refill)(void *context, const tap_part_t *part);
} tap_t;

#endif
