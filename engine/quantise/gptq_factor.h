/* inv(L) of sums L L^T (gptq.h), by a team of members that share the matrix. Internal to engine/quantise/.
 *
 * The matrix is cut into blocks of 256 inputs. A member takes whole blocks of rows, and what is computed of a block is a
 * sequence of OpenBLAS' calls that the members have no part in: so the bits are the same for any number of them. */
#ifndef CHOIR_QUANTISE_GPTQ_FACTOR_H
#define CHOIR_QUANTISE_GPTQ_FACTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/blas.h"

/* Of a factorisation, shared by those who make it. */
typedef struct gptq_state {
    double damping, mean;
    int outcome; /* gptq_outcome_t */
    bool failed; /* with the damping of before */
} gptq_state_t;

/* Sums X^T X of n inputs and what becomes of them. */
typedef struct gptq_factor {
    size_t n;
    float *matrix; /* [n, n]; sums: the lower triangle; then inv(L), lower, the rest is undefined */
    uint32_t *order; /* [n] the input that is quantised p-th */
    gptq_state_t *state;
} gptq_factor_t;

/* Who factorises: n members of which this is the i-th. They have the same matrix, order and state, or n is 1. */
typedef struct gptq_team {
    size_t n, i;
    /* Returns when all have called it, their writes seen; may be NULL where n is 1. */
    void (*wait)(void *context);
    void *context;
} gptq_team_t;

static inline void gptq_wait(const gptq_team_t *team)
{
    if (team->wait != NULL)
        team->wait(team->context);
}

/* Called by all members. The lower triangle becomes L; the elements above the diagonal stay. False, on all members, when a
 * squared pivot is not above least_square. diagonal: [n] where it is 0 the input needs no such pivot */
bool gptq_factor_blocks(const blas_t *blas, const gptq_factor_t *factor, const gptq_team_t *team,
    const float *diagonal, float least_square);

/* Called by all members. L becomes inv(L); what is above the diagonal is overwritten. */
void gptq_invert_blocks(const blas_t *blas, const gptq_factor_t *factor, const gptq_team_t *team);

/* Called by all members. Copies one triangle to the other. */
void gptq_mirror(const gptq_factor_t *factor, const gptq_team_t *team, bool to_lower);

#endif
