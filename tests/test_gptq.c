/* GPTQ: the factor and the rows against the paper's formulas in double, in order and by activation; groups; singular
 * sums; inputs that are always 0; several members. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/dtype.h"
#include "engine/quantise/gptq.h"

#define N 160 /* inputs: more than a block, and no multiple of it */
#define ROWS 24
#define SAMPLES 400
#define GROUP 32
#define GROUPS (N / GROUP)
#define BITS 4
#define MIDDLE 8

/* Everything of a case. */
typedef struct gptq_case {
    blas_t blas;
    float x[SAMPLES * N], weights[ROWS * N], sums[N * N];
    gptq_factor_t factor;
    gptq_state_t state;
    float matrix[N * N], scratch[2 * N], work[ROWS * N], errors[ROWS * GPTQ_BLOCK], row[N];
    uint32_t order[N];
    uint8_t codes[ROWS * N];
    uint16_t scales[ROWS * GROUPS];
} gptq_case_t;

static double uniform(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(*state >> 33) / (double)(UINT64_C(1) << 31) - 0.5;
}

/* Inputs that follow each other's values, of different sizes; n_zero of them are always 0. */
static gptq_case_t *open_case(size_t n_samples, size_t n_zero)
{
    gptq_case_t *c = calloc(1, sizeof *c);
    fail_t fail = {0};
    uint64_t state = 1;
    assert_non_null(c);
    if (blas_open(&c->blas, &fail) != 0 || blas_need_lapack(&c->blas, &fail) != 0) {
        free(c);
        return NULL;
    }
    c->blas.set_threads(1);
    for (size_t s = 0; s < n_samples; s++)
        for (size_t k = 0; k < N; k++) {
            double before = k == 0 ? 0 : (double)c->x[s * N + k - 1];
            double size = 0.2 + (double)(k * 37 % 11) / 4;
            c->x[s * N + k] = (float)(0.6 * before + size * uniform(&state));
        }
    for (size_t s = 0; s < n_samples; s++)
        for (size_t k = 0; k < n_zero; k++)
            c->x[s * N + 3 * k] = 0;
    for (size_t i = 0; i < ROWS * N; i++)
        c->weights[i] = (float)(uniform(&state) + uniform(&state));
    blas_add_squares(&c->blas, n_samples, 0, 64, c->x, N, c->sums, N);
    blas_add_squares(&c->blas, n_samples, 64, N - 64, c->x, N, c->sums, N);
    c->factor = (gptq_factor_t){.n = N, .matrix = c->matrix, .order = c->order, .state = &c->state};
    memcpy(c->matrix, c->sums, sizeof c->matrix);
    return c;
}

static gptq_outcome_t factorise(gptq_case_t *c, bool by_activation, double damping)
{
    c->state.damping = damping;
    return gptq_factorise(&c->blas, &c->factor, &(gptq_team_t){.n = 1}, by_activation, c->scratch);
}

static void quantise(gptq_case_t *c)
{
    const gptq_format_t format = {.bits = BITS, .group = GROUP};
    memcpy(c->work, c->weights, sizeof c->work);
    gptq_quantise(&c->blas, &c->factor, &format,
        &(gptq_rows_t){.n = ROWS,
            .weights = c->work,
            .errors = c->errors,
            .row = c->row,
            .codes = c->codes,
            .scales = c->scales});
}

/* ---- The paper's formulas in double ---------------------------------------------------------- */

/* U with inv(H) = U^T U, inputs in the order given: the inverse by Gauss and Jordan, then Cholesky. */
static void plain_factor(const gptq_case_t *c, double damping, double *u)
{
    static double h[N][2 * N];
    double mean = 0;
    for (size_t k = 0; k < N; k++)
        mean += (double)c->sums[k * N + k] / N;
    memset(h, 0, sizeof h);
    for (size_t p = 0; p < N; p++) {
        for (size_t q = 0; q < N; q++) {
            size_t a = c->order[p], b = c->order[q];
            h[p][q] = (double)c->sums[a > b ? a * N + b : b * N + a];
        }
        h[p][p] = h[p][p] == 0 ? 1 : h[p][p] + damping * mean;
        h[p][N + p] = 1;
    }
    for (size_t p = 0; p < N; p++) {
        double pivot = h[p][p];
        for (size_t q = 0; q < 2 * N; q++)
            h[p][q] /= pivot;
        for (size_t r = 0; r < N; r++) {
            double factor = r == p ? 0 : h[r][p];
            for (size_t q = 0; q < 2 * N && factor != 0; q++)
                h[r][q] -= factor * h[p][q];
        }
    }
    memset(u, 0, N * N * sizeof *u);
    for (size_t p = 0; p < N; p++)
        for (size_t q = p; q < N; q++) {
            double sum = h[p][N + q];
            for (size_t i = 0; i < p; i++)
                sum -= u[i * N + p] * u[i * N + q];
            u[p * N + q] = p == q ? sqrt(sum) : sum / u[p * N + p];
        }
}

/* How many of a row's codes the formulas give too, with the scales that were chosen. */
static size_t plain_row(const gptq_case_t *c, const double *u, size_t r)
{
    double w[N];
    size_t n_same = 0;
    for (size_t p = 0; p < N; p++)
        w[p] = (double)c->weights[r * N + c->order[p]];
    for (size_t p = 0; p < N; p++) {
        double scale = (double)f32_from_f16(c->scales[r * GROUPS + p / GROUP]);
        double code = fmin(fmax(rint(w[p] / scale) + MIDDLE, 0), 2 * MIDDLE - 1);
        double error = (w[p] - (code - MIDDLE) * scale) / u[p * N + p];
        n_same += (uint8_t)code == c->codes[r * N + c->order[p]];
        /* Go on from the code that was chosen, so that a tie is one difference. */
        error = (w[p] - ((double)c->codes[r * N + c->order[p]] - MIDDLE) * scale) / u[p * N + p];
        for (size_t q = p + 1; q < N; q++)
            w[q] -= error * u[p * N + q];
    }
    return n_same;
}

/* Sum of the squares of X (w - q) over all rows. codes: NULL: rounded to nearest with scales of their own */
static double output_error(const gptq_case_t *c, const uint8_t *codes)
{
    static uint32_t place[N];
    double sum = 0;
    for (size_t p = 0; p < N; p++)
        place[c->order[p]] = (uint32_t)p;
    for (size_t r = 0; r < ROWS; r++) {
        double e[N];
        for (size_t k = 0; k < N; k++) {
            const float *w = c->weights + r * N;
            double most = 0;
            for (size_t i = k / GROUP * GROUP; i < k / GROUP * GROUP + GROUP; i++)
                most = fmax(most, fabs((double)w[i]));
            double scale = codes == NULL
                               ? most / 7.5
                               : (double)f32_from_f16(c->scales[r * GROUPS + place[k] / GROUP]);
            double code = codes == NULL
                              ? fmin(fmax(rint((double)w[k] / scale), -MIDDLE), MIDDLE - 1)
                              : (double)codes[r * N + k] - MIDDLE;
            e[k] = (double)w[k] - code * scale;
        }
        for (size_t s = 0; s < SAMPLES; s++) {
            double y = 0;
            for (size_t k = 0; k < N; k++)
                y += (double)c->x[s * N + k] * e[k];
            sum += y * y;
        }
    }
    return sum;
}

static void check_against_plain(bool by_activation, size_t n_zero)
{
    gptq_case_t *c = open_case(SAMPLES, n_zero);
    double *u = calloc(N * N, sizeof *u);
    size_t n_same = 0;
    if (c == NULL) {
        free(u);
        skip();
        return;
    }
    assert_non_null(u);
    assert_int_equal(factorise(c, by_activation, 0.01), GPTQ_DONE);
    assert_true(c->state.damping == 0.01);
    quantise(c);
    plain_factor(c, 0.01, u);
    for (size_t p = 0; p < N; p++)
        for (size_t q = p; q < N; q++)
            assert_true(fabs(u[p * N + q] - (double)c->matrix[(N - 1 - p) * N + N - 1 - q]) <
                        1e-3 * u[p * N + p]);
    for (size_t r = 0; r < ROWS; r++)
        n_same += plain_row(c, u, r);
    assert_in_range(n_same, ROWS * N - 4, ROWS * N);
    if (n_zero == 0)
        assert_true(output_error(c, c->codes) < 0.7 * output_error(c, NULL));
    free(u);
    free(c);
}

static void rows_are_the_papers(void **state)
{
    (void)state;
    check_against_plain(false, 0);
}

static void rows_by_activation_are_the_papers(void **state)
{
    (void)state;
    check_against_plain(true, 0);
}

static void inputs_that_are_always_zero_are_rounded_alone(void **state)
{
    (void)state;
    check_against_plain(true, 5);
}

static void activations_decide_the_order(void **state)
{
    (void)state;
    gptq_case_t *c = open_case(SAMPLES, 0);
    if (c == NULL)
        skip();
    assert_int_equal(factorise(c, true, 0.01), GPTQ_DONE);
    for (size_t p = 1; p < N; p++)
        assert_true(c->sums[c->order[p - 1] * (N + 1)] >= c->sums[c->order[p] * (N + 1)]);
    free(c);
}

/* Fewer samples than inputs. */
static void damping_of_singular_sums_is_raised(void **state)
{
    (void)state;
    gptq_case_t *c = open_case(N / 4, 0);
    if (c == NULL)
        skip();
    assert_int_equal(factorise(c, false, 0), GPTQ_DONE);
    assert_true(c->state.damping >= 0.001);
    quantise(c);
    memcpy(c->matrix, c->sums, sizeof c->matrix);
    c->matrix[5 * N + 2] = NAN;
    assert_int_equal(factorise(c, false, 0.01), GPTQ_NOT_FINITE);
    free(c);
}

/* A block of rows has the same codes alone and with others. */
static void rows_do_not_depend_on_what_was_there(void **state)
{
    (void)state;
    gptq_case_t *c = open_case(SAMPLES, 0);
    uint8_t codes[ROWS * N];
    if (c == NULL)
        skip();
    assert_int_equal(factorise(c, false, 0.01), GPTQ_DONE);
    quantise(c);
    memcpy(codes, c->codes, sizeof codes);
    memset(c->errors, 0x55, sizeof c->errors);
    memset(c->row, 0x55, sizeof c->row);
    /* What lies above the diagonal is not read. */
    for (size_t a = 0; a < N; a++)
        for (size_t b = a + 1; b < N; b++)
            c->matrix[a * N + b] = NAN;
    quantise(c);
    assert_memory_equal(codes, c->codes, sizeof codes);
    free(c);
}

/* ---- Several members ------------------------------------------------------------------------- */

#define LARGE 700 /* inputs: three blocks of the factorisation, the last one shorter */
#define MEMBERS 3

typedef struct large {
    blas_t blas;
    gptq_factor_t factor;
    gptq_state_t state;
    uint32_t order[LARGE];
    float matrix[LARGE * LARGE];
    pthread_barrier_t barrier;
} large_t;

typedef struct member {
    large_t *large;
    gptq_team_t team;
    gptq_outcome_t outcome;
} member_t;

static void wait_for_members(void *context)
{
    pthread_barrier_wait(&((large_t *)context)->barrier);
}

static void *run_member(void *context)
{
    member_t *m = context;
    float *scratch = calloc(2 * LARGE, sizeof *scratch);
    if (scratch != NULL)
        m->outcome = gptq_factorise(&m->large->blas, &m->large->factor, &m->team, true, scratch);
    free(scratch);
    return NULL;
}

static void factorise_large(large_t *large, const float *sums, size_t n_members)
{
    pthread_t threads[MEMBERS];
    member_t members[MEMBERS];
    memcpy(large->matrix, sums, sizeof large->matrix);
    large->factor = (gptq_factor_t){LARGE, large->matrix, large->order, &large->state};
    large->state = (gptq_state_t){.damping = 1e-9};
    assert_int_equal(pthread_barrier_init(&large->barrier, NULL, (unsigned)n_members), 0);
    for (size_t i = 0; i < n_members; i++) {
        members[i] = (member_t){large, {n_members, i, wait_for_members, large}, GPTQ_SINGULAR};
        assert_int_equal(pthread_create(&threads[i], NULL, run_member, &members[i]), 0);
    }
    for (size_t i = 0; i < n_members; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(members[i].outcome, GPTQ_DONE);
    }
    pthread_barrier_destroy(&large->barrier);
}

/* inv(L) H inv(L)^T is the identity, H with its damping. */
static void check_inverse(const large_t *large, const float *sums)
{
    double worst = 0, *row = calloc(LARGE, sizeof *row);
    assert_non_null(row);
    for (size_t a = 0; a < LARGE; a += 7) {
        for (size_t b = 0; b < LARGE; b++) {
            row[b] = 0;
            for (size_t k = 0; k <= a; k++) {
                size_t p = large->order[LARGE - 1 - k], q = large->order[LARGE - 1 - b];
                double h = (double)sums[p > q ? p * LARGE + q : q * LARGE + p];
                h += p == q ? large->state.damping * large->state.mean : 0;
                row[b] += (double)large->matrix[a * LARGE + k] * h;
            }
        }
        for (size_t b = 0; b <= a; b++) {
            double sum = a == b ? -1 : 0;
            for (size_t k = 0; k <= b; k++)
                sum += row[k] * (double)large->matrix[b * LARGE + k];
            worst = fmax(worst, fabs(sum));
        }
    }
    free(row);
    assert_true(worst < 0.02);
}

static void check_members(size_t n_samples)
{
    large_t *large = calloc(1, sizeof *large);
    float *x = calloc(n_samples * LARGE, sizeof *x), *sums = calloc(LARGE * LARGE, sizeof *sums),
          *alone = calloc(LARGE * LARGE, sizeof *alone);
    fail_t fail = {0};
    uint64_t state = 5;
    assert_true(large != NULL && x != NULL && sums != NULL && alone != NULL);
    if (blas_open(&large->blas, &fail) == 0 && blas_need_lapack(&large->blas, &fail) == 0) {
        large->blas.set_threads(1);
        for (size_t i = 0; i < n_samples * LARGE; i++)
            x[i] = (float)uniform(&state);
        blas_add_squares(&large->blas, n_samples, 0, LARGE, x, LARGE, sums, LARGE);
        factorise_large(large, sums, 1);
        check_inverse(large, sums);
        memcpy(alone, large->matrix, sizeof large->matrix);
        for (size_t n = 2; n <= MEMBERS; n++) {
            factorise_large(large, sums, n);
            for (size_t a = 0; a < LARGE; a++)
                assert_memory_equal(
                    large->matrix + a * LARGE, alone + a * LARGE, (a + 1) * sizeof *alone);
        }
    }
    free(alone);
    free(sums);
    free(x);
    free(large);
}

static void members_give_the_same_bits(void **state)
{
    (void)state;
    check_members(3 * LARGE);
    check_members(LARGE / 4); /* singular: damping is raised by all */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_the_papers),
        cmocka_unit_test(rows_by_activation_are_the_papers),
        cmocka_unit_test(inputs_that_are_always_zero_are_rounded_alone),
        cmocka_unit_test(activations_decide_the_order),
        cmocka_unit_test(damping_of_singular_sums_is_raised),
        cmocka_unit_test(rows_do_not_depend_on_what_was_there),
        cmocka_unit_test(members_give_the_same_bits),
    };
    return cmocka_run_group_tests_name("gptq", tests, NULL, NULL);
}
