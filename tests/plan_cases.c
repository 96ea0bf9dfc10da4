#include "tests/plan_cases.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

const plan_shape_t plan_models[N_PLAN_MODELS] = {
    {896, 4864, 24, 14, 2, 64, 151936, true, 2, 2},
    {1536, 8960, 28, 12, 2, 128, 151936, true, 2, 2},
    {2048, 11008, 36, 16, 2, 128, 151936, true, 2, 2},
    {3584, 18944, 28, 28, 4, 128, 152064, false, 2, 2},
    {5120, 13824, 48, 40, 8, 128, 152064, false, 4, 4},
    {5120, 27648, 64, 40, 8, 128, 152064, false, 2, 2},
    {8192, 29568, 80, 64, 8, 128, 152064, false, 1, 2},
    {192, 512, 6, 6, 2, 32, 2048, true, 8, 8},
    {240, 200, 3, 6, 3, 40, 1009, false, 4, 4},
    {1, 1, 1, 1, 1, 2, 1, false, 2, 2},
    {65, 17, 2, 5, 1, 6, 63, true, 2, 2},
    {48, 100, 2, 7, 7, 6, 65, false, 2, 2},
};

plan_t open_plan(const plan_shape_t *model, plan_combine_t combine, size_t n_ranks)
{
    plan_t plan;
    fail_t fail = {0};
    const plan_model_t sizes = plan_sizes(model);
    assert_int_equal(plan_open(&plan, &sizes, combine, n_ranks, &fail), 0);
    assert_int_equal(plan.n_ranks, n_ranks);
    return plan;
}

plan_range_t part_of(const plan_share_t *share, part_t part)
{
    const plan_range_t ranges[PARTS] = {share->heads, share->hidden, share->columns, share->vocab};
    return ranges[part];
}

size_t items_of(const plan_model_t *model, part_t part)
{
    const size_t items[PARTS] = {
        model->n_heads, model->hidden, model->intermediate, model->vocab_size};
    return items[part];
}

size_t granule_of(part_t part)
{
    const size_t granules[PARTS] = {1, PLAN_GRANULE, PLAN_GRANULE, PLAN_VOCAB_GRANULE};
    return granules[part];
}

void check_cover(const plan_t *plan)
{
    for (part_t part = 0; part < PARTS; part++) {
        size_t end = 0;
        for (size_t r = 0; r < plan->n_ranks; r++) {
            plan_range_t range = part_of(&plan->shares[r], part);
            assert_int_equal(range.begin, end);
            assert_true(range.end >= range.begin);
            end = range.end;
        }
        assert_int_equal(end, items_of(&plan->model, part));
    }
}

void check_kv(const plan_t *plan)
{
    size_t group = plan->model.n_heads / plan->model.n_kv_heads;
    for (size_t r = 0; r < plan->n_ranks; r++) {
        const plan_share_t *share = &plan->shares[r];
        if (plan_count(share->heads) == 0) {
            assert_int_equal(plan_count(share->kv_heads), 0);
            assert_int_equal(plan_kv_bytes_per_token(plan, r), 0);
        } else {
            assert_int_equal(share->kv_heads.begin, share->heads.begin / group);
            assert_int_equal(share->kv_heads.end, (share->heads.end - 1) / group + 1);
        }
    }
}
