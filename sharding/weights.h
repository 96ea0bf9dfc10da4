/* The share of the model of each rank, as whole numbers: with weights 2,1,1 the first of three
 * ranks owns twice as much as each of the others. 0: nothing, the rank only takes part in the
 * exchange. Only ratios count. Pure functions. */
#ifndef CHOIR_SHARDING_WEIGHTS_H
#define CHOIR_SHARDING_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

#define WEIGHTS_MOST 1000

/* Reads "2,1,1". weights: [n] written. FAIL_USAGE, naming --shares: a word that is no whole number
 * up to WEIGHTS_MOST, not n of them, or all of them 0. */
int weights_parse(const char *text, size_t n, size_t *weights, fail_t *fail);

/* FAIL_USAGE for weights that weights_parse would refuse. */
int weights_check(const size_t *weights, size_t n, fail_t *fail);

/* Weights in proportion to rates (of any unit, all above 0), in eighths of the slowest, and without
 * a common divisor. Rates that differ by less than a tenth count as equal. weights: [n] written. */
void weights_from_rates(const double *rates, size_t n, size_t *weights);

bool weights_are_even(const size_t *weights, size_t n);

/* "2,1,1"; truncated to the buffer. */
void weights_text(const size_t *weights, size_t n, char *text, size_t text_bytes);

#endif
