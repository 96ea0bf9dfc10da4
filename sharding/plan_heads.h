/* Divides query heads among ranks. Internal to the plan. */
#ifndef CHOIR_SHARDING_PLAN_HEADS_H
#define CHOIR_SHARDING_PLAN_HEADS_H

#include "sharding/plan.h"

/* Writes shares[].heads and shares[].kv_heads. FAIL_MEMORY; FAIL_LIMIT when the search for uneven
 * shares would be too large. */
int plan_divide_heads(plan_t *plan, fail_t *fail);

#endif
