#include "engine/quantise/gptq_factor.h"

#include <math.h>

#include "engine/base/size.h"

#define BLOCK 256
#define TILE 32 /* divides BLOCK */

/* A block of rows: its first input, and how many. */
typedef struct span {
    size_t first, n;
} span_t;

static size_t n_blocks(const gptq_factor_t *f)
{
    return (f->n + BLOCK - 1) / BLOCK;
}

static span_t span_of(const gptq_factor_t *f, size_t block)
{
    return (span_t){block * BLOCK, size_min(BLOCK, f->n - block * BLOCK)};
}

static float *at(const gptq_factor_t *f, size_t row, size_t column)
{
    return f->matrix + row * f->n + column;
}

/* Blocks take longer, or shorter, one after the other: back and forth, so that all members have as much to do. */
static bool is_mine(const gptq_team_t *team, size_t block)
{
    size_t place = block % (2 * team->n);
    return (place < team->n ? place : 2 * team->n - 1 - place) == team->i;
}

void gptq_mirror(const gptq_factor_t *f, const gptq_team_t *team, bool to_lower)
{
    for (size_t block = 0; block < n_blocks(f); block++) {
        const span_t s = span_of(f, block);
        for (size_t a0 = s.first; is_mine(team, block) && a0 < s.first + s.n; a0 += TILE)
            for (size_t b0 = 0; b0 <= a0; b0 += TILE)
                for (size_t a = a0; a < size_min(a0 + TILE, s.first + s.n); a++)
                    for (size_t b = b0; b < size_min(b0 + TILE, a); b++)
                        if (to_lower)
                            *at(f, a, b) = *at(f, b, a);
                        else
                            *at(f, b, a) = *at(f, a, b);
    }
    gptq_wait(team);
}

/* ---- L --------------------------------------------------------------------------------------- */

static bool pivots_are_large(
    const gptq_factor_t *f, span_t s, const float *diagonal, float least_square)
{
    for (size_t a = s.first; a < s.first + s.n; a++) {
        float pivot = *at(f, a, a);
        if (!(pivot * pivot > least_square) && diagonal[a] != 0)
            return false;
    }
    return true;
}

bool gptq_factor_blocks(const blas_t *blas, const gptq_factor_t *f, const gptq_team_t *team,
    const float *diagonal, float least_square)
{
    for (size_t k = 0; k < n_blocks(f); k++) {
        const span_t s = span_of(f, k);
        float *corner = at(f, s.first, s.first);
        if (is_mine(team, k))
            f->state->failed = !blas_factor(blas, s.n, corner, f->n) ||
                               !pivots_are_large(f, s, diagonal, least_square);
        gptq_wait(team);
        if (f->state->failed)
            return false;
        for (size_t i = k + 1; i < n_blocks(f); i++)
            if (is_mine(team, i))
                blas_divide_by_factor(
                    blas, span_of(f, i).n, s.n, corner, f->n, at(f, i * BLOCK, s.first), f->n);
        gptq_wait(team);
        for (size_t i = k + 1; i < n_blocks(f); i++) {
            const span_t t = span_of(f, i);
            const float *row = at(f, t.first, s.first), *next = at(f, s.first + s.n, s.first);
            if (!is_mine(team, i))
                continue;
            if (i > k + 1)
                blas_subtract_transposed(blas, t.n, t.first - s.first - s.n, s.n, row, f->n, next,
                    f->n, at(f, t.first, s.first + s.n), f->n);
            blas_subtract_squares(blas, t.n, s.n, row, f->n, at(f, t.first, t.first), f->n);
        }
        gptq_wait(team);
    }
    return true;
}

/* ---- inv(L) ---------------------------------------------------------------------------------- */

/* Y = inv(L)^T, of which block row j, right of the diagonal, comes into the place above it:
 * Y[j][i] = -(sum of Y[j][k] L[i][k]^T over j <= k < i) inv(L[i][i])^T. Blocks on the diagonal are inverted already. */
static void invert_row(const blas_t *blas, const gptq_factor_t *f, size_t j)
{
    const span_t s = span_of(f, j);
    const size_t next = s.first + s.n;
    for (size_t i = j + 1; i < n_blocks(f); i++) {
        const span_t t = span_of(f, i);
        float *y = at(f, s.first, t.first);
        for (size_t a = 0; a < s.n; a++)
            for (size_t b = 0; b < t.n; b++)
                y[a * f->n + b] = *at(f, t.first + b, s.first + a);
        blas_multiply_left_by_factor(blas, s.n, t.n, at(f, s.first, s.first), f->n, y, f->n);
        if (t.first > next)
            blas_subtract_transposed(blas, s.n, t.n, t.first - next, at(f, s.first, next), f->n,
                at(f, t.first, next), f->n, y, f->n);
        blas_multiply_by_factor(blas, s.n, t.n, at(f, t.first, t.first), f->n, y, f->n);
    }
}

void gptq_invert_blocks(const blas_t *blas, const gptq_factor_t *f, const gptq_team_t *team)
{
    for (size_t i = 0; i < n_blocks(f); i++) {
        const span_t s = span_of(f, i);
        if (is_mine(team, i))
            blas_invert_factor(blas, s.n, at(f, s.first, s.first), f->n);
    }
    gptq_wait(team);
    for (size_t j = 0; j < n_blocks(f); j++)
        if (is_mine(team, j))
            invert_row(blas, f, j);
    gptq_wait(team);
    for (size_t i = 0; i < n_blocks(f); i++) {
        const span_t s = span_of(f, i);
        for (size_t a = s.first; is_mine(team, i) && a < s.first + s.n; a++)
            for (size_t b = 0; b < s.first; b++)
                *at(f, a, b) = *at(f, b, a);
    }
    gptq_wait(team);
}
