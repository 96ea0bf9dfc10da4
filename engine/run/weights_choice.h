/* --weights auto: whether packed weights (docs/speed.md) decode faster than dense ones on this machine.
 *
 * A thread takes for a weight the time that memory needs for its bytes, or that the kernel needs for it once it is in
 * a cache, whichever is longer: loads run ahead of the products. */
#ifndef CHOIR_RUN_WEIGHTS_CHOICE_H
#define CHOIR_RUN_WEIGHTS_CHOICE_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/team.h"
#include "engine/kernels/kernels.h"

/* Of a thread while all threads of the machine work. */
typedef struct weights_rates {
    double memory;        /* bytes a second */
    double dense, packed; /* weights a second, from a cache */
} weights_rates_t;

/* Seconds a weight takes in a decode step. */
double weights_seconds(const weights_rates_t *rates, bool packed);

/* Packed weights are faster by a margin that a measurement can tell. Seconds of the slowest rank. */
bool weights_packed_is_faster(double dense_s, double packed_s);

/* "12.5,9.1,12": GB/s, and 1e9 dense and packed weights a second. FAIL_USAGE for anything else. */
int weights_rates_parse(const char *text, weights_rates_t *rates, fail_t *fail);

/* Local; the ranks of a machine measure at the same time. About 0.1 s. dot: not DOT_FOLD */
int weights_rates_measure(
    team_t *team, const kernels_t *kernels, dot_t dot, weights_rates_t *rates, fail_t *fail);

#endif
