/* The share of the model of each rank, as whole numbers: with shares 2,1,1 the first of three
 * ranks owns twice as much as each of the others. 0: nothing, the rank only takes part in the
 * exchange. Only ratios count. Pure functions. */
#ifndef CHOIR_SHARDING_RANK_SHARES_H
#define CHOIR_SHARDING_RANK_SHARES_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

#define RANK_SHARES_MOST 1000

/* Reads "2,1,1". shares: [n] written. FAIL_USAGE, naming --shares: a word that is no whole number
 * up to RANK_SHARES_MOST, not n of them, or all of them 0. */
int rank_shares_parse(const char *text, size_t n, size_t *shares, fail_t *fail);

/* FAIL_USAGE for shares that rank_shares_parse would refuse. */
int rank_shares_check(const size_t *shares, size_t n, fail_t *fail);

/* Shares in proportion to rates (of any unit, all above 0), in eighths of the slowest, and without
 * a common divisor. Rates that differ by less than a tenth count as equal. shares: [n] written. */
void rank_shares_from_rates(const double *rates, size_t n, size_t *shares);

bool rank_shares_are_even(const size_t *shares, size_t n);

/* "2,1,1"; truncated to the buffer. */
void rank_shares_text(const size_t *shares, size_t n, char *text, size_t text_bytes);

#endif
