/* --weights auto: whether packed weights (docs/speed.md) decode faster than dense ones on this machine. */
#ifndef CHOIR_RUN_WEIGHTS_CHOICE_H
#define CHOIR_RUN_WEIGHTS_CHOICE_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/team.h"
#include "engine/kernels/kernels.h"

/* Weights a second from memory that a thread multiplies a row with, while all threads of the machine do so. */
typedef struct weights_rates {
    double dense, packed;
    bool given; /* by CHOIR_WEIGHTS_RATES, in place of a measurement */
} weights_rates_t;

/* Packed weights are faster by a margin that a measurement can tell. Seconds a weight of the slowest rank. */
bool weights_packed_is_faster(double dense_s, double packed_s);

/* "7.5,9": 1e9 dense and packed weights a second. FAIL_USAGE for anything else. */
int weights_rates_parse(const char *text, weights_rates_t *rates, fail_t *fail);
/* What CHOIR_WEIGHTS_RATES says; rates->given is false where it is not set. FAIL_USAGE as above. */
int weights_rates_given(weights_rates_t *rates, fail_t *fail);

/* Local; the ranks of a machine measure at the same time. About 0.1 s, 56 MiB a thread. dot: not DOT_FOLD */
int weights_rates_measure(
    team_t *team, const kernels_t *kernels, dot_t dot, weights_rates_t *rates, fail_t *fail);
/* Local. Those given, else measured. */
int weights_rates_find(
    team_t *team, const kernels_t *kernels, dot_t dot, weights_rates_t *rates, fail_t *fail);

#endif
