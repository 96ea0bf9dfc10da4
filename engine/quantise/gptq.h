/* GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2022, https://arxiv.org/abs/2210.17323): rows of a matrix are quantised one
 * input after the other, and the error of each is made up for by the inputs that follow, so that X (w - q) is small for
 * the inputs X of a calibration. Internal to engine/quantise/.
 *
 * With H = X^T X, damped, and the upper triangular U of inv(H) = U^T U: when input i of a row w is rounded to q,
 * w[j] -= (w[i] - q) / U[i][i] * U[i][j] for all j > i. Inputs are taken from the end of an array, so that U is what a
 * Cholesky factorisation and an inversion of the factor give without inverting H: with the inputs in reverse order
 * H = L L^T, and inv(L)[a][b] is U[n - 1 - a][n - 1 - b]. Everything here is Local and a function of its arguments. */
#ifndef CHOIR_QUANTISE_GPTQ_H
#define CHOIR_QUANTISE_GPTQ_H

#include "engine/quantise/gptq_factor.h"

#define GPTQ_BLOCK 128 /* inputs whose errors are spread together */

typedef enum gptq_outcome { GPTQ_DONE, GPTQ_NOT_FINITE, GPTQ_SINGULAR } gptq_outcome_t;

/* From sums to inv(L), called by all members of a team, with the same bits for any number of them. state->damping: share
 * of the diagonal's mean that is added to it, which is raised by tens, from 0.001 where it is less, while the matrix is
 * singular: as it was used then. by_activation: inputs are quantised in order of their squares, largest first, else in the
 * order of the matrix. An input that is always 0 is rounded by itself. scratch: [2 n], each member's. Not GPTQ_DONE: a sum
 * is not finite, or no damping below 10^6 helps. */
gptq_outcome_t gptq_factorise(const blas_t *blas, const gptq_factor_t *factor,
    const gptq_team_t *team, bool by_activation, float *scratch);

typedef struct gptq_format {
    unsigned bits;
    size_t group; /* inputs that have a scale in common, in the order in which they are quantised */
    bool bf16;    /* scales are rounded to bf16, else to f16 */
} gptq_format_t;

/* Quantises n rows. weights: [n, factor->n], overwritten; errors: [n, GPTQ_BLOCK], scratch; codes: [n, factor->n] in the
 * matrix's order; scales: [n, groups] as stored; row: [max(n, factor->n)], scratch. working: called once a block of inputs; may be NULL. */
typedef struct gptq_rows {
    size_t n;
    float *weights, *errors, *row;
    uint8_t *codes;
    uint16_t *scales;
    void (*working)(void *context);
    void *context;
} gptq_rows_t;

void gptq_quantise(const blas_t *blas, const gptq_factor_t *factor, const gptq_format_t *format,
    const gptq_rows_t *rows);

#endif
