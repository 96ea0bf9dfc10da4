/* Levels of instruction sets by name: CHOIR_ISA. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/kernels/isa.h"

static void a_name_lowers_the_cpu_to_its_level(void **state)
{
    (void)state;
    fail_t fail = {0};
    isa_t isa;
    assert_int_equal(isa_lower(ISA_AMX, "avx2", &isa, &fail), 0);
    assert_int_equal(isa, ISA_AVX2);
    assert_int_equal(isa_lower(ISA_AMX, "avx512", &isa, &fail), 0);
    assert_int_equal(isa, ISA_AVX512);
    assert_int_equal(isa_lower(ISA_AVX2, "scalar", &isa, &fail), 0);
    assert_int_equal(isa, ISA_SCALAR);
}

static void without_a_name_all_of_the_cpu_is_used(void **state)
{
    (void)state;
    fail_t fail = {0};
    isa_t isa;
    assert_int_equal(isa_lower(ISA_AVX512, NULL, &isa, &fail), 0);
    assert_int_equal(isa, ISA_AVX512);
    assert_int_equal(isa_lower(ISA_AVX512, "", &isa, &fail), 0);
    assert_int_equal(isa, ISA_AVX512);
}

static void what_the_cpu_lacks_is_refused(void **state)
{
    (void)state;
    fail_t fail = {0};
    isa_t isa;
    assert_int_equal(isa_lower(ISA_AVX2, "avx512", &isa, &fail), FAIL_USAGE);
    assert_string_equal(fail.message, "CHOIR_ISA=avx512: this CPU has no more than avx2");
    fail = (fail_t){0};
    assert_int_equal(isa_lower(ISA_AVX512, "avx512_bf16", &isa, &fail), FAIL_USAGE);
    assert_string_equal(fail.message, "CHOIR_ISA=avx512_bf16: this CPU has no more than avx512");
}

static void an_unknown_name_is_refused(void **state)
{
    (void)state;
    fail_t fail = {0};
    isa_t isa;
    assert_int_equal(isa_lower(ISA_AMX, "avx3", &isa, &fail), FAIL_USAGE);
    assert_string_equal(fail.message,
        "CHOIR_ISA: expected scalar, avx2, avx512, avx512_bf16 or amx, found \"avx3\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_lowers_the_cpu_to_its_level),
        cmocka_unit_test(without_a_name_all_of_the_cpu_is_used),
        cmocka_unit_test(what_the_cpu_lacks_is_refused),
        cmocka_unit_test(an_unknown_name_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
