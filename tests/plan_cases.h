/* Models and parts of plans for tests of sharding/plan.h. */
#ifndef CHOIR_TESTS_PLAN_CASES_H
#define CHOIR_TESTS_PLAN_CASES_H

#include "tests/plan_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Shapes of many kinds, published ones and odd ones. */
enum { N_PLAN_MODELS = 12 };
extern const plan_shape_t plan_models[N_PLAN_MODELS];

/* What a plan deals out, in which granules. */
typedef enum part { HEADS, HIDDEN, COLUMNS, VOCAB, PARTS } part_t;

plan_range_t part_of(const plan_share_t *share, part_t part);
size_t items_of(const plan_model_t *model, part_t part);
size_t granule_of(part_t part);

/* A plan of even shares, which has to be possible. */
plan_t open_plan(const plan_shape_t *model, plan_combine_t combine, size_t n_ranks);

/* Every item of a plan has one owner, in ascending order. */
void check_cover(const plan_t *plan);
/* Ranks hold just the KV heads that their query heads read. */
void check_kv(const plan_t *plan);

#endif
