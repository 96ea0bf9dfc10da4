#include "engine/quantise/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/quantise/quantise_round.h"

#define LEAST_DAMPING 1e-3
#define MOST_DAMPING 1e6
/* A squared pivot below this share of the diagonal's mean is rounding error. */
#define LEAST_PIVOT 1e-6f

/* ---- The factor ------------------------------------------------------------------------------ */

typedef struct square {
    float value;
    uint32_t input;
} square_t;

static int compare_squares(const void *a, const void *b)
{
    const square_t *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return (x->input > y->input) - (x->input < y->input);
}

/* scratch: [2 n] */
static void choose_order(const gptq_factor_t *f, bool by_activation, float *scratch)
{
    square_t *squares = (square_t *)(void *)scratch;
    for (size_t k = 0; k < f->n; k++)
        squares[k] = (square_t){f->matrix[k * f->n + k], (uint32_t)k};
    if (by_activation)
        qsort(squares, f->n, sizeof *squares, compare_squares);
    for (size_t p = 0; p < f->n; p++)
        f->order[p] = squares[p].input;
}

/* Rows and columns of the full matrix in the reverse of the order. scratch: [2 n] */
static void reorder(const gptq_factor_t *f, float *scratch)
{
    const size_t n = f->n, bytes = n * sizeof *f->matrix;
    uint8_t *moved = (uint8_t *)(scratch + n);
    for (size_t r = 0; r < n; r++) {
        float *row = f->matrix + r * n;
        memcpy(scratch, row, bytes);
        for (size_t a = 0; a < n; a++)
            row[a] = scratch[f->order[n - 1 - a]];
    }
    memset(moved, 0, n);
    for (size_t first = 0; first < n; first++) {
        if (moved[first])
            continue;
        size_t at = first;
        memcpy(scratch, f->matrix + first * n, bytes);
        for (;;) { /* one cycle */
            size_t from = f->order[n - 1 - at];
            moved[at] = 1;
            memcpy(f->matrix + at * n, from == first ? scratch : f->matrix + from * n, bytes);
            if (from == first)
                break;
            at = from;
        }
    }
}

/* Of one member: the mean of the diagonal, the order, and the matrix in it. */
static gptq_outcome_t begin(const gptq_factor_t *f, bool by_activation, float *scratch)
{
    double sum = 0;
    for (size_t a = 0; a < f->n; a++)
        for (size_t b = 0; b <= a; b++)
            if (!isfinite(f->matrix[a * f->n + b]))
                return GPTQ_NOT_FINITE;
    for (size_t k = 0; k < f->n; k++)
        sum += (double)f->matrix[k * f->n + k];
    f->state->mean = sum / (double)f->n;
    choose_order(f, by_activation, scratch);
    gptq_mirror(f, &(gptq_team_t){.n = 1}, false);
    reorder(f, scratch);
    return GPTQ_DONE;
}

/* diagonal: [n] as it was without damping */
static bool factor_once(const blas_t *blas, const gptq_factor_t *f, const gptq_team_t *team,
    const float *diagonal, double damping)
{
    const float added = (float)(damping * f->state->mean);
    for (size_t a = 0; team->i == 0 && a < f->n; a++)
        f->matrix[a * f->n + a] = diagonal[a] == 0 ? 1 : diagonal[a] + added;
    gptq_wait(team);
    return gptq_factor_blocks(blas, f, team, diagonal, LEAST_PIVOT * (float)f->state->mean);
}

gptq_outcome_t gptq_factorise(const blas_t *blas, const gptq_factor_t *f, const gptq_team_t *team,
    bool by_activation, float *scratch)
{
    if (team->i == 0)
        f->state->outcome = (int)begin(f, by_activation, scratch);
    gptq_wait(team);
    if (f->state->outcome != GPTQ_DONE)
        return (gptq_outcome_t)f->state->outcome;
    float *diagonal = scratch;
    double damping = f->state->damping;
    for (size_t a = 0; a < f->n; a++)
        diagonal[a] = f->matrix[a * f->n + a];
    gptq_wait(team);
    while (!factor_once(blas, f, team, diagonal, damping)) {
        if (damping >= MOST_DAMPING)
            return GPTQ_SINGULAR;
        damping = fmax(damping * 10, LEAST_DAMPING);
        gptq_mirror(f, team, true);
    }
    gptq_invert_blocks(blas, f, team);
    if (team->i == 0)
        f->state->damping = damping;
    gptq_wait(team);
    return GPTQ_DONE;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* Inputs of the block that begins with the p0-th of one row. w: [n], input p at n - 1 - p */
static void quantise_block(const gptq_factor_t *f, const gptq_format_t *format, size_t p0,
    size_t p1, float *w, float *errors, uint8_t *codes, uint16_t *scales, float *scale)
{
    const size_t n = f->n, first = n - p1;
    for (size_t p = p0; p < p1; p++) {
        const size_t a = n - 1 - p;
        const float *u = f->matrix + a * n;
        if (p % format->group == 0) {
            size_t in_group = size_min(format->group, n - p);
            scales[p / format->group] =
                quantise_scale(in_group, w + a + 1 - in_group, format->bits, format->bf16, scale);
        }
        float value;
        codes[f->order[p]] = quantise_code(w[a], *scale, format->bits, &value);
        const float error = (w[a] - value) / u[a];
        for (size_t b = first; b < a; b++)
            w[b] -= error * u[b];
        errors[a - first] = error;
    }
}

static void reverse_rows(const gptq_factor_t *f, const gptq_rows_t *rows)
{
    for (size_t r = 0; r < rows->n; r++) {
        float *w = rows->weights + r * f->n;
        memcpy(rows->row, w, f->n * sizeof *w);
        for (size_t a = 0; a < f->n; a++)
            w[a] = rows->row[f->order[f->n - 1 - a]];
    }
}

void gptq_quantise(const blas_t *blas, const gptq_factor_t *f, const gptq_format_t *format,
    const gptq_rows_t *rows)
{
    const size_t n = f->n, n_groups = (n + format->group - 1) / format->group;
    float *scale = rows->row; /* [rows] of the group under way, once the rows are reversed */
    reverse_rows(f, rows);
    for (size_t p0 = 0; p0 < n; p0 += GPTQ_BLOCK) {
        const size_t p1 = size_min(p0 + GPTQ_BLOCK, n), first = n - p1;
        for (size_t r = 0; r < rows->n; r++)
            quantise_block(f, format, p0, p1, rows->weights + r * n, rows->errors + r * GPTQ_BLOCK,
                rows->codes + r * n, rows->scales + r * n_groups, &scale[r]);
        if (first > 0)
            blas_subtract_product(blas, rows->n, first, p1 - p0, rows->errors, GPTQ_BLOCK,
                f->matrix + first * n, n, rows->weights, n);
        if (rows->working != NULL)
            rows->working(rows->context);
    }
}
