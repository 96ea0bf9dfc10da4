#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/json.h"
#include "engine/base/size.h"
#include "engine/run/philox.h"
#include "engine/run/sampler.h"
#include "sharding/plan.h"

#define MAX_RANKS 9
#define MAX_VOCAB 3000

static const sampler_params_t greedy_params = {.top_p = 1, .repetition_penalty = 1};

/* A stream of numbers that is the same in every run. */
typedef struct stream {
    uint64_t next;
} stream_t;

static double uniform(stream_t *stream)
{
    return philox_uniform(1234, 99, stream->next++);
}

static size_t below(stream_t *stream, size_t n)
{
    return (size_t)(uniform(stream) * (double)n);
}

static void philox_gives_the_published_numbers(void **state)
{
    (void)state;
    /* Known answers that the authors publish with Random123. */
    static const uint32_t inputs[3][6] = {
        {0, 0, 0, 0, 0, 0},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0},
    };
    static const uint32_t expected[3][4] = {
        {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        philox4x32(inputs[i], inputs[i] + 4, out);
        assert_memory_equal(out, expected[i], sizeof out);
    }
}

/* One sequence's logits and what was seen. */
typedef struct scene {
    size_t vocab;
    bool is_f64;
    float single[MAX_VOCAB];
    double wide[MAX_VOCAB];
    uint8_t seen[MAX_VOCAB / 8 + 1];
    sampler_adjust_t adjusted[MAX_VOCAB];
    size_t n_adjusted;
} scene_t;

/* NULL when no token matters. */
static const sampler_tokens_t *scene_tokens(
    const scene_t *scene, const sampler_params_t *params, size_t first, sampler_tokens_t *tokens)
{
    bool seen = sampler_needs_seen(params);
    *tokens = (sampler_tokens_t){.seen = seen ? scene->seen + first / 8 : NULL,
        .adjusted = scene->adjusted,
        .n_adjusted = scene->n_adjusted};
    return seen || scene->n_adjusted > 0 ? tokens : NULL;
}

static const void *scene_logits(const scene_t *scene, size_t row)
{
    return scene->is_f64 ? (const void *)(scene->wide + row) : (const void *)(scene->single + row);
}

static void scene_fill(scene_t *scene, stream_t *stream, size_t vocab, double spread, bool is_f64)
{
    scene->vocab = vocab;
    scene->is_f64 = is_f64;
    memset(scene->seen, 0, sizeof scene->seen);
    for (size_t i = 0; i < vocab; i++) {
        double sum = 0;
        for (int j = 0; j < 4; j++)
            sum += uniform(stream) - 0.5;
        scene->wide[i] = sum * spread;
        /* Rounded coarsely: many ties. */
        scene->single[i] = (float)(round(sum * spread * 16) / 16);
        if (uniform(stream) < 0.05)
            scene->seen[i / 8] |= (uint8_t)(1u << (i % 8));
    }
    scene->n_adjusted = 0;
    for (size_t left = below(stream, 3) == 0 ? below(stream, vocab + 1) : 0; left > 0; left--) {
        int32_t token = (int32_t)below(stream, vocab);
        const sampler_bias_t bias = {token, (float)(round(uniform(stream) * 32 - 16) / 4)};
        if (below(stream, 2) == 0)
            sampler_count(scene->adjusted, &scene->n_adjusted, token);
        else
            sampler_add_bias(scene->adjusted, &scene->n_adjusted, &bias);
    }
}

/* Ranks take scalar kernels and this CPU's in turn, which must make no difference. */
static const kernels_t *kernels_of(size_t rank)
{
    static kernels_t kernels[2];
    if (kernels[0].isa == NULL) {
        kernels_get(&kernels[0], ISA_SCALAR, DTYPE_F32);
        kernels_get(&kernels[1], isa_detect(), DTYPE_BF16);
    }
    return &kernels[rank % 2];
}

/* Summaries of a random split by granules, some shares empty. */
static bool pick_split(const scene_t *scene, const sampler_params_t *params, size_t n_ranks,
    stream_t *stream, uint64_t position, sampler_choice_t *choice)
{
    size_t n_granules = (scene->vocab + PLAN_VOCAB_GRANULE - 1) / PLAN_VOCAB_GRANULE;
    size_t n_rows[MAX_RANKS] = {0}, granule = 0;
    void *summaries[MAX_RANKS] = {NULL};
    for (size_t r = 0; r < n_ranks; r++) {
        size_t left = n_granules - granule;
        size_t take = r + 1 == n_ranks ? left : below(stream, left + 1);
        size_t first = granule * PLAN_VOCAB_GRANULE;
        if (take > 0)
            n_rows[r] = size_min(take * PLAN_VOCAB_GRANULE, scene->vocab - first);
        granule += take;
        summaries[r] = malloc(sampler_summary_bytes(params, n_rows[r]) + 1);
        sampler_tokens_t tokens;
        sampler_summarise(kernels_of(r), params, scene_logits(scene, first), scene->is_f64, first,
            n_rows[r], scene_tokens(scene, params, first, &tokens), summaries[r]);
    }
    bool decided =
        sampler_pick(params, (const void *const *)summaries, n_rows, n_ranks, position, choice);
    for (size_t r = 0; r < n_ranks; r++)
        free(summaries[r]);
    return decided;
}

static void pick_full(const scene_t *scene, const sampler_params_t *params, uint64_t position,
    sampler_choice_t *choice)
{
    fail_t fail = {0};
    sampler_tokens_t tokens;
    assert_int_equal(
        sampler_pick_full(kernels_of(0), params, scene_logits(scene, 0), scene->is_f64,
            scene->vocab, scene_tokens(scene, params, 0, &tokens), position, choice, &fail),
        0);
}

static sampler_params_t random_params(stream_t *stream)
{
    static const double temperatures[] = {0, 0.3, 1, 1, 3};
    static const double top_ps[] = {1, 1, 0.2, 0.9, 0.999, 0};
    static const double min_ps[] = {0, 0, 0.02, 0.3, 1};
    static const double penalties[] = {1, 1, 1.2, 0.7}, subtracted[] = {0, 0, 0.3, 1.5, -2};
    static const uint32_t top_ks[] = {0, 0, 1, 20, 256, 400, 5000};
    return (sampler_params_t){
        .temperature = temperatures[below(stream, 5)],
        .top_p = top_ps[below(stream, 6)],
        .min_p = min_ps[below(stream, 5)],
        .repetition_penalty = penalties[below(stream, 4)],
        .presence_penalty = subtracted[below(stream, 5)],
        .frequency_penalty = subtracted[below(stream, 5)],
        .top_k = top_ks[below(stream, 7)],
        .n_logprobs = below(stream, 2) ? (uint32_t)below(stream, SAMPLER_MAX_LOGPROBS + 1) : 0,
        .want_logprob = (uint8_t)below(stream, 2),
        .seed = below(stream, 1000),
        .request = below(stream, 10),
    };
}

static void any_split_of_the_vocabulary_picks_what_all_logits_pick(void **state)
{
    (void)state;
    stream_t stream = {0};
    scene_t *scene = calloc(1, sizeof *scene);
    size_t decided = 0, trials = 6000;
    for (size_t trial = 0; trial < trials; trial++) {
        size_t vocab = 1 + below(&stream, trial % 3 == 0 ? 70 : MAX_VOCAB);
        scene_fill(scene, &stream, vocab, trial % 4 == 0 ? 2 : 12, trial % 5 == 0);
        sampler_params_t params = random_params(&stream);
        sampler_choice_t expected, found;
        pick_full(scene, &params, trial, &expected);
        if (!pick_split(scene, &params, 1 + below(&stream, MAX_RANKS), &stream, trial, &found))
            continue;
        decided++;
        assert_memory_equal(&found, &expected, sizeof found);
    }
    /* Otherwise the comparison would be empty. */
    assert_true(decided > trials / 2 && decided < trials);
    free(scene);
}

/* The rule in its plainest form: sort everything, cut, normalise, walk. Tells the distance of the
 * draw from the nearest boundary, where rounding decides. */
static int32_t plain_pick(
    const scene_t *scene, const sampler_params_t *params, double u, double *slack)
{
    static double scores[MAX_VOCAB], weights[MAX_VOCAB];
    static int32_t order[MAX_VOCAB];
    size_t n = scene->vocab;
    for (size_t i = 0; i < n; i++) {
        float logit = scene->single[i];
        if (scene->seen[i / 8] >> (i % 8) & 1) {
            float penalty = (float)params->repetition_penalty;
            logit = logit < 0 ? logit * penalty : logit / penalty;
        }
        for (size_t k = 0; k < scene->n_adjusted; k++) {
            const sampler_adjust_t *adjust = &scene->adjusted[k];
            if (adjust->token != (int32_t)i)
                continue;
            logit += adjust->bias;
            logit -= (float)params->frequency_penalty * (float)adjust->count;
            logit -= adjust->count > 0 ? (float)params->presence_penalty : 0;
        }
        scores[i] = (double)(logit / (float)params->temperature);
        size_t at = i;
        for (; at > 0 && scores[order[at - 1]] < scores[i]; at--)
            order[at] = order[at - 1];
        order[at] = (int32_t)i;
    }
    if (params->top_k > 0 && params->top_k < n) {
        size_t kept = params->top_k;
        while (kept < n && scores[order[kept]] == scores[order[params->top_k - 1]])
            kept++;
        n = kept;
    }
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        total += weights[i] = exp(scores[order[i]] - scores[order[0]]);
    for (size_t i = 0; i < n; i++) {
        *slack = fmin(*slack, fabs(sum / total - params->top_p));
        if (i > 0 && params->top_p < 1 && sum / total >= params->top_p)
            n = i;
        else
            sum += weights[i];
    }
    size_t kept = 0;
    for (total = 0; kept < n && weights[kept] >= params->min_p; kept++)
        total += weights[kept];
    sum = 0;
    for (size_t i = 0; i < kept; i++) {
        sum += weights[i] / total;
        *slack = fmin(*slack, fabs(sum - u));
        if (sum > u)
            return order[i];
    }
    return order[kept - 1];
}

static void picks_follow_the_rule_written_plainly(void **state)
{
    (void)state;
    stream_t stream = {1000000};
    scene_t *scene = calloc(1, sizeof *scene);
    size_t compared = 0;
    for (size_t trial = 0; trial < 2000; trial++) {
        scene_fill(scene, &stream, 1 + below(&stream, 900), trial % 2 == 0 ? 3 : 15, false);
        sampler_params_t params = random_params(&stream);
        if (params.temperature == 0)
            continue;
        double slack = 1;
        double u = philox_uniform(params.seed, params.request, trial);
        int32_t expected = plain_pick(scene, &params, u, &slack);
        if (slack < 1e-12)
            continue;
        sampler_choice_t choice;
        pick_full(scene, &params, trial, &choice);
        assert_int_equal(choice.token, expected);
        compared++;
    }
    assert_true(compared > 1000);
    free(scene);
}

static double number_of(json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void kept_tokens_and_probabilities_are_those_of_transformers(void **state)
{
    (void)state;
    json_t *cases;
    fail_t fail = {0};
    assert_int_equal(
        json_file_read(CHOIR_SOURCE_DIR "/tests/golden/sampler.json", &cases, &fail), 0);
    scene_t *scene = calloc(1, sizeof *scene);
    size_t index, compared = 0;
    json_t *entry;
    json_array_foreach (cases, index, entry) {
        json_t *logits = json_object_get(entry, "logits"), *seen = json_object_get(entry, "seen");
        json_t *kept = json_object_get(entry, "kept");
        json_t *probabilities = json_object_get(entry, "probabilities");
        memset(scene, 0, sizeof *scene);
        scene->vocab = json_array_size(logits);
        for (size_t i = 0; i < scene->vocab; i++)
            scene->single[i] = (float)json_number_value(json_array_get(logits, i));
        for (size_t i = 0; i < json_array_size(seen); i++) {
            size_t id = (size_t)json_integer_value(json_array_get(seen, i));
            scene->seen[id / 8] |= (uint8_t)(1u << (id % 8));
        }
        sampler_params_t params = {
            .temperature = number_of(entry, "temperature"),
            .top_k = (uint32_t)number_of(entry, "top_k"),
            .top_p = number_of(entry, "top_p"),
            .min_p = number_of(entry, "min_p"),
            .repetition_penalty = number_of(entry, "repetition_penalty"),
            .seed = index,
        };
        for (uint64_t position = 0; position < 500; position++) {
            double u = philox_uniform(params.seed, 0, position), sum = 0, slack = 1;
            size_t chosen = 0;
            for (; chosen < json_array_size(kept); chosen++) {
                sum += json_number_value(json_array_get(probabilities, chosen));
                slack = fmin(slack, fabs(sum - u));
                if (sum > u)
                    break;
            }
            if (slack < 1e-9)
                continue;
            sampler_choice_t choice;
            pick_full(scene, &params, position, &choice);
            assert_int_equal(choice.token, json_integer_value(json_array_get(kept, chosen)));
            compared++;
        }
    }
    assert_true(compared > 20000);
    json_decref(cases);
    free(scene);
}

static void adjusted_tokens_are_counted_in_order(void **state)
{
    (void)state;
    sampler_adjust_t list[4];
    size_t n = 0;
    sampler_count(list, &n, 7);
    sampler_count(list, &n, 3);
    sampler_add_bias(list, &n, &(sampler_bias_t){5, 1.5f});
    sampler_count(list, &n, 7);
    sampler_add_bias(list, &n, &(sampler_bias_t){7, -1});
    assert_int_equal(n, 3);
    assert_true(list[0].token == 3 && list[0].count == 1 && list[0].bias == 0);
    assert_true(list[1].token == 5 && list[1].count == 0 && list[1].bias == 1.5f);
    assert_true(list[2].token == 7 && list[2].count == 2 && list[2].bias == -1);
}

static void draws_are_distributed_as_the_softmax(void **state)
{
    (void)state;
    enum { N = 8, DRAWS = 200000 };
    scene_t *scene = calloc(1, sizeof *scene);
    scene->vocab = N;
    double total = 0, expected[N];
    for (size_t i = 0; i < N; i++) {
        scene->single[i] = (float)i * 0.5f;
        total += expected[i] = exp((double)scene->single[i] / 0.8);
    }
    sampler_params_t params = {.temperature = 0.8, .top_p = 1, .repetition_penalty = 1, .seed = 7};
    size_t counts[N] = {0};
    for (uint64_t position = 0; position < DRAWS; position++) {
        sampler_choice_t choice;
        pick_full(scene, &params, position, &choice);
        counts[choice.token]++;
    }
    double chi_square = 0;
    for (size_t i = 0; i < N; i++) {
        double mean = expected[i] / total * DRAWS;
        chi_square += ((double)counts[i] - mean) * ((double)counts[i] - mean) / mean;
    }
    assert_true(chi_square < 24.3); /* 7 degrees of freedom, p = 0.001 */
    free(scene);
}

static void seed_request_and_position_each_change_the_draw(void **state)
{
    (void)state;
    double base = philox_uniform(1, 2, 3);
    assert_true(base != philox_uniform(2, 2, 3) && base != philox_uniform(1, 3, 3));
    assert_true(base != philox_uniform(1, 2, 4) && base == philox_uniform(1, 2, 3));
    assert_true(base != philox_uniform(1 | (uint64_t)1 << 40, 2, 3));
}

static void equal_logits_choose_the_lowest_id(void **state)
{
    (void)state;
    scene_t *scene = calloc(1, sizeof *scene);
    scene->vocab = 500;
    scene->single[130] = scene->single[131] = scene->single[400] = 5;
    sampler_choice_t choice;
    pick_full(scene, &greedy_params, 0, &choice);
    assert_int_equal(choice.token, 130);
    stream_t stream = {5};
    for (size_t ranks = 1; ranks <= MAX_RANKS; ranks++) {
        assert_true(pick_split(scene, &greedy_params, ranks, &stream, 0, &choice));
        assert_int_equal(choice.token, 130);
    }
    free(scene);
}

static void nan_and_infinite_logits_never_crash(void **state)
{
    (void)state;
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 0, 1};
    stream_t stream = {77};
    scene_t *scene = calloc(1, sizeof *scene);
    for (size_t trial = 0; trial < 3000; trial++) {
        size_t kinds = 1 + below(&stream, 7), from = below(&stream, 7);
        scene_fill(scene, &stream, 1 + below(&stream, 600), 5, trial % 2 == 0);
        for (size_t i = 0; i < scene->vocab; i++) {
            scene->single[i] = odd[(from + below(&stream, kinds)) % 7];
            scene->wide[i] = (double)scene->single[i];
        }
        sampler_params_t params = random_params(&stream);
        sampler_choice_t expected, found;
        pick_full(scene, &params, trial, &expected);
        assert_in_range(expected.token, 0, scene->vocab - 1);
        if (pick_split(scene, &params, 1 + below(&stream, MAX_RANKS), &stream, trial, &found))
            assert_memory_equal(&found, &expected, sizeof found);
    }
    free(scene);
}

static void a_nan_is_never_chosen_while_a_number_is_left(void **state)
{
    (void)state;
    scene_t *scene = calloc(1, sizeof *scene);
    scene->vocab = 200;
    for (size_t i = 0; i < 200; i++)
        scene->single[i] = NAN;
    sampler_choice_t choice;
    pick_full(scene, &greedy_params, 0, &choice);
    assert_int_equal(choice.token, 0);
    scene->single[150] = -1e30f;
    pick_full(scene, &greedy_params, 0, &choice);
    assert_int_equal(choice.token, 150);
    free(scene);
}

static void log_probabilities_are_of_the_raw_logits(void **state)
{
    (void)state;
    stream_t stream = {31337};
    scene_t *scene = calloc(1, sizeof *scene);
    scene_fill(scene, &stream, 1000, 10, true);
    sampler_params_t params = {
        .temperature = 0.5, .top_p = 0.9, .repetition_penalty = 1.5, .n_logprobs = 5, .seed = 3};
    sampler_choice_t choice;
    pick_full(scene, &params, 11, &choice);
    double sum = 0, best = -INFINITY;
    for (size_t i = 0; i < scene->vocab; i++) {
        sum += exp(scene->wide[i]);
        best = fmax(best, scene->wide[i]);
    }
    assert_true(fabs(choice.logprob - (scene->wide[choice.token] - log(sum))) < 1e-12);
    assert_int_equal(choice.n_top, 5);
    assert_true(scene->wide[choice.top_tokens[0]] == best);
    for (size_t i = 0; i < 5; i++) {
        double expected = scene->wide[choice.top_tokens[i]] - log(sum);
        assert_true(fabs(choice.top_logprobs[i] - expected) < 1e-12);
        assert_true(i == 0 || choice.top_logprobs[i] <= choice.top_logprobs[i - 1]);
    }
    free(scene);
}

static void a_greedy_summary_is_one_entry(void **state)
{
    (void)state;
    assert_true(sampler_summary_bytes(&greedy_params, 50000) <= 32);
    assert_int_equal(sampler_summary_bytes(&greedy_params, 0), 0);
}

static void parameters_out_of_range_are_named(void **state)
{
    (void)state;
    static const struct {
        sampler_params_t params;
        const char *name;
    } cases[] = {
        {{.temperature = -1, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.temperature = NAN, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.temperature = 1e-31, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.top_p = 1.5, .repetition_penalty = 1}, "top_p"},
        {{.top_p = 1, .min_p = -0.1, .repetition_penalty = 1}, "min_p"},
        {{.top_p = 1}, "repetition_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .presence_penalty = 2.5}, "presence_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .frequency_penalty = NAN}, "frequency_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .n_logprobs = 21}, "logprobs"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fail_t fail = {0};
        assert_int_equal(sampler_check(&cases[i].params, &fail), FAIL_USAGE);
        assert_non_null(strstr(fail.message, cases[i].name));
    }
    fail_t fail = {0};
    assert_int_equal(sampler_check(&greedy_params, &fail), 0);
}

/* Logits of 32 and more divided by it are far beyond what exp takes. */
static void the_lowest_temperatures_draw_the_likeliest(void **state)
{
    (void)state;
    static const double temperatures[] = {1e-4, 1e-6, 1e-30};
    stream_t stream = {77};
    scene_t *scene = calloc(1, sizeof *scene);
    for (size_t i = 0; i < 3; i++) {
        sampler_params_t params = {
            .temperature = temperatures[i], .top_p = 1, .repetition_penalty = 1, .seed = 5};
        fail_t fail = {0};
        sampler_choice_t drawn, best;
        scene_fill(scene, &stream, 500, 15, false);
        assert_int_equal(sampler_check(&params, &fail), 0);
        pick_full(scene, &params, 0, &drawn);
        pick_full(scene, &greedy_params, 0, &best);
        assert_int_equal(drawn.token, best.token);
        assert_true(isfinite(drawn.logprob));
    }
    free(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_numbers),
        cmocka_unit_test(any_split_of_the_vocabulary_picks_what_all_logits_pick),
        cmocka_unit_test(picks_follow_the_rule_written_plainly),
        cmocka_unit_test(kept_tokens_and_probabilities_are_those_of_transformers),
        cmocka_unit_test(adjusted_tokens_are_counted_in_order),
        cmocka_unit_test(draws_are_distributed_as_the_softmax),
        cmocka_unit_test(seed_request_and_position_each_change_the_draw),
        cmocka_unit_test(equal_logits_choose_the_lowest_id),
        cmocka_unit_test(nan_and_infinite_logits_never_crash),
        cmocka_unit_test(a_nan_is_never_chosen_while_a_number_is_left),
        cmocka_unit_test(log_probabilities_are_of_the_raw_logits),
        cmocka_unit_test(a_greedy_summary_is_one_entry),
        cmocka_unit_test(the_lowest_temperatures_draw_the_likeliest),
        cmocka_unit_test(parameters_out_of_range_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
