/* Measured rates of the cost model: curves, and which set suits a plan. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/measure/predict.h"

/* ---- Curves ---------------------------------------------------------------------------------- */

double predict_curve_at(const predict_curve_t *c, double x)
{
    size_t i = 0;
    if (c->n == 0)
        return 0;
    while (i < c->n && c->x[i] < x)
        i++;
    if (i == 0)
        return c->y[0];
    if (i == c->n)
        return c->y[c->n - 1];
    double at = log(x / c->x[i - 1]) / log(c->x[i] / c->x[i - 1]);
    return c->y[i - 1] * pow(c->y[i] / c->y[i - 1], at);
}

void predict_curve_add(predict_curve_t *c, double x, double y)
{
    size_t i = 0;
    if (!(y > 0))
        return;
    while (i < c->n && c->x[i] < x)
        i++;
    bool replaces = i < c->n && c->x[i] == x;
    if (!replaces && c->n == PREDICT_POINTS)
        return;
    if (!replaces) {
        memmove(c->x + i + 1, c->x + i, (c->n - i) * sizeof *c->x);
        memmove(c->y + i + 1, c->y + i, (c->n - i) * sizeof *c->y);
        c->n++;
    }
    c->x[i] = x;
    c->y[i] = y;
}

/* ---- Clusters -------------------------------------------------------------------------------- */

void predict_cluster_clear(predict_cluster_t *cluster)
{
    free(cluster->rates);
    cluster->rates = NULL;
    cluster->n_rates = 0;
}

/* 0 for equal sizes, more the further apart they are. */
static double distance(size_t a, size_t b)
{
    return a > 0 && b > 0 ? fabs(log((double)a / (double)b)) : 0;
}

/* Whether a is a better match than b. */
static bool suits_better(const predict_rates_t *a, const predict_rates_t *b, size_t ranks,
    size_t threads, size_t hidden, size_t head_dim)
{
    double x[] = {distance(a->ranks, ranks), distance(a->head_dim, head_dim),
        distance(a->hidden, hidden), threads > 0 ? distance(a->threads, threads) : 0};
    double y[] = {distance(b->ranks, ranks), distance(b->head_dim, head_dim),
        distance(b->hidden, hidden), threads > 0 ? distance(b->threads, threads) : 0};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        if (x[i] != y[i])
            return x[i] < y[i];
    return a->threads > b->threads;
}

const predict_rates_t *predict_choose(const predict_cluster_t *cluster, size_t ranks_on_node,
    size_t threads, size_t hidden, size_t head_dim)
{
    const predict_rates_t *best = NULL;
    for (size_t i = 0; i < cluster->n_rates; i++) {
        const predict_rates_t *rates = &cluster->rates[i];
        if (best == NULL || suits_better(rates, best, ranks_on_node, threads, hidden, head_dim))
            best = rates;
    }
    return best;
}
