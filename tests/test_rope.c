/* Frequencies of RoPE against those of transformers (oracle/checkpoints.py --frequencies prints
 * them). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/rope.h"

enum { HALF = 8 };

static config_t config_of(rope_type_t type, double factor)
{
    return (config_t){.head_dim = 2 * HALF,
        .max_position_embeddings = 16,
        .rope_theta = 10000,
        .rope = {.type = type, .factor = factor}};
}

static void frequencies_are_those_of_transformers(void **state)
{
    static const struct {
        rope_type_t type;
        double factor;
        size_t length;
        float expected[HALF];
    } cases[] = {
        {ROPE_LINEAR, 3, 1,
            {0x1.555556p-2f, 0x1.afc19ep-4f, 0x1.111112p-5f, 0x1.5967b2p-7f, 0x1.b4e81ap-9f,
                0x1.1452f6p-10f, 0x1.5d867ep-12f, 0x1.ba1e56p-14f}},
        {ROPE_DYNAMIC, 1.7, 16,
            {0x1p+0f, 0x1.43d136p-2f, 0x1.99999ap-4f, 0x1.030dc6p-5f, 0x1.47ae14p-7f, 0x1.9e7c7p-9f,
                0x1.0624dep-10f, 0x1.4b96cp-12f}},
        {ROPE_DYNAMIC, 1.7, 17,
            {0x1p+0f, 0x1.3f2dfep-2f, 0x1.8df3a8p-4f, 0x1.f02a1ap-6f, 0x1.354ecep-7f,
                0x1.81a4c4p-9f, 0x1.e0d196p-11f, 0x1.2bbdc8p-12f}},
        {ROPE_DYNAMIC, 1.7, 23,
            {0x1p+0f, 0x1.2b1718p-2f, 0x1.5d6ef4p-4f, 0x1.98402p-6f, 0x1.dcf7b8p-8f, 0x1.16a02ep-9f,
                0x1.458638p-11f, 0x1.7c5122p-13f}},
        {ROPE_DYNAMIC, 1.7, 64,
            {0x1p+0f, 0x1.f4321cp-3f, 0x1.e8a9ep-5f, 0x1.dd65b8p-7f, 0x1.d2641p-9f, 0x1.c7a35ap-11f,
                0x1.bd221cp-13f, 0x1.b2dee0p-15f}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        config_t config = config_of(cases[i].type, cases[i].factor);
        float found[HALF];
        assert_true(rope_frequencies(&config, cases[i].length, found) == 1);
        assert_memory_equal(found, cases[i].expected, sizeof found);
    }
}

static config_t llama3_of(size_t head_dim, double theta, double factor, size_t original)
{
    return (config_t){.head_dim = head_dim,
        .max_position_embeddings = 131072,
        .rope_theta = theta,
        .rope = {.type = ROPE_LLAMA3,
            .factor = factor,
            .low_freq_factor = 1,
            .high_freq_factor = 4,
            .original_max_position_embeddings = original}};
}

static void llama3_keeps_divides_and_interpolates(void **state)
{
    (void)state;
    static const float small[] = {0x1p+0f, 0x1.43d136p-2f, 0x1.99999ap-4f, 0x1.2f0cbp-6f,
        0x1.47ae14p-10f, 0x1.9e7c7p-12f, 0x1.0624dep-13f, 0x1.4b96cp-15f};
    /* Powers of the C library, of which number 14 is not SLEEF's. */
    static const float odd[] = {0x1p+0f, 0x1.1feb34p-1f, 0x1.43d136p-2f, 0x1.6c310cp-3f,
        0x1.99999ap-4f, 0x1.ccab84p-5f, 0x1.2f0ca6p-6f, 0x1.2a526ap-8f, 0x1.47ae12p-10f,
        0x1.70893cp-11f, 0x1.9e7c7p-12f, 0x1.d22a4ap-13f, 0x1.0624d8p-13f, 0x1.26d432p-14f,
        0x1.4b96cp-15f, 0x1.74eea6p-16f, 0x1.a36e2cp-17f, 0x1.d7b9dap-18f, 0x1.09456ap-18f,
        0x1.2a5888p-19f};
    config_t config = llama3_of(16, 1e4, 8, 512);
    float found[64];
    assert_true(rope_frequencies(&config, 0, found) == 1);
    assert_memory_equal(found, small, sizeof small);
    config = llama3_of(40, 1e5, 8, 512);
    rope_frequencies(&config, 0, found);
    assert_memory_equal(found, odd, sizeof odd);
}

/* Llama 3.1 and 3.2: the three frequencies between long and short waves. */
static void real_shapes_of_llama_have_the_frequencies_of_transformers(void **state)
{
    (void)state;
    static const float by_8[] = {0x1.67a23ap-10f, 0x1.132ba4p-11f, 0x1.765ba4p-13f},
                       by_32[] = {0x1.524f36p-10f, 0x1.c26c4p-12f, 0x1.9731eep-14f};
    config_t config = llama3_of(64, 5e5, 8, 8192);
    float found[64];
    rope_frequencies(&config, 0, found);
    assert_memory_equal(found + 15, by_8, sizeof by_8);
    config.rope.factor = 32;
    rope_frequencies(&config, 0, found);
    assert_memory_equal(found + 15, by_32, sizeof by_32);
    assert_false(rope_follows_length(&config, 200000));
}

static void only_long_calls_of_dynamic_rope_have_tables_of_their_own(void **state)
{
    (void)state;
    config_t config = config_of(ROPE_DYNAMIC, 4), linear = config_of(ROPE_LINEAR, 4);
    assert_false(rope_follows_length(&config, 16));
    assert_true(rope_follows_length(&config, 17));
    assert_false(rope_follows_length(&linear, 17));
    enum { N = 24 };
    float alone[2][N][HALF], call[2][N][HALF];
    rope_tables(&config, DTYPE_F32, 0, N, alone[0], alone[1]);
    rope_call_tables(&config, DTYPE_F32, N, 0, N, call[0], call[1]);
    /* A decode step at the last position is a call of as many tokens; earlier ones are shorter. */
    assert_memory_equal(alone[0][N - 1], call[0][N - 1], sizeof alone[0][0]);
    assert_memory_equal(alone[1][N - 1], call[1][N - 1], sizeof alone[1][0]);
    assert_true(memcmp(alone[1][17], call[1][17], sizeof alone[1][0]) != 0);
    /* Positions of a part are those of the whole. */
    rope_call_tables(&config, DTYPE_F32, N, 7, 1, alone[0], alone[1]);
    assert_memory_equal(alone[1][0], call[1][7], sizeof alone[1][0]);
    rope_call_tables(&config, DTYPE_F32, 9, 0, 9, call[0], call[1]);
    rope_tables(&config, DTYPE_F32, 0, 9, alone[0], alone[1]);
    assert_memory_equal(alone[1], call[1], 9 * sizeof alone[1][0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_are_those_of_transformers),
        cmocka_unit_test(llama3_keeps_divides_and_interpolates),
        cmocka_unit_test(real_shapes_of_llama_have_the_frequencies_of_transformers),
        cmocka_unit_test(only_long_calls_of_dynamic_rope_have_tables_of_their_own),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
