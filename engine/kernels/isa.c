#include "engine/kernels/isa.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const struct isa_level {
    const char *name;
    isa_t needs;
    isa_t allows; /* also needs */
} levels[ISA_LEVELS] = {
    {"scalar", ISA_SCALAR, 0},
    {"avx2", ISA_AVX2, 0},
    {"avx512", ISA_AVX512, CPU_AVX512_VNNI},
    {"avx512_bf16", ISA_AVX512_BF16, CPU_AVX512_VNNI | CPU_AVX512_VBMI},
    {"amx", ISA_AMX, CPU_AVX512_VNNI | CPU_AVX512_VBMI | CPU_AMX_INT8},
};

isa_t isa_of_level(size_t i)
{
    return levels[i].needs;
}

size_t isa_level(isa_t isa)
{
    size_t level = 0;
    for (size_t i = 0; i < ISA_LEVELS; i++)
        if (isa_has(isa, levels[i].needs))
            level = i;
    return level;
}

const char *isa_name(isa_t isa)
{
    return levels[isa_level(isa)].name;
}

#if defined(__x86_64__)
/* Linux lets a process use tiles once it has asked (arch_prctl ARCH_REQ_XCOMP_PERM; threads
 * inherit it). */
static bool tiles_permitted(void)
{
#if defined(__linux__)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

/* The bits of AMX; older compilers' __builtin_cpu_supports does not know them. */
static isa_t detect_amx(void)
{
    const unsigned bf16 = 1u << 22, tiles = 1u << 24, int8 = 1u << 25; /* of CPUID 7.0, edx */
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tiles) == 0 || !tiles_permitted())
        return 0;
    return ((d & bf16) != 0 ? CPU_AMX_BF16 : 0) | ((d & int8) != 0 ? CPU_AMX_INT8 : 0);
}

isa_t isa_detect(void)
{
    __builtin_cpu_init();
    isa_t isa = 0;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("f16c"))
        return isa;
    isa |= CPU_AVX2;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return isa;
    isa |= CPU_AVX512;
    if (__builtin_cpu_supports("avx512vnni"))
        isa |= CPU_AVX512_VNNI;
    if (__builtin_cpu_supports("avx512vbmi"))
        isa |= CPU_AVX512_VBMI;
    if (__builtin_cpu_supports("avx512bf16"))
        isa |= CPU_AVX512_BF16;
    return isa | detect_amx();
}
#else
isa_t isa_detect(void)
{
    return ISA_SCALAR;
}
#endif

int isa_choose(isa_t *isa, fail_t *fail)
{
    return isa_lower(isa_detect(), getenv("CHOIR_ISA"), isa, fail);
}

int isa_lower(isa_t all, const char *wish, isa_t *isa, fail_t *fail)
{
    *isa = all;
    if (wish == NULL || *wish == 0)
        return 0;
    for (size_t i = 0; i < ISA_LEVELS; i++) {
        if (strcmp(wish, levels[i].name) != 0)
            continue;
        if (!isa_has(all, levels[i].needs))
            return fail_set(fail, FAIL_USAGE, "CHOIR_ISA=%s: this CPU has no more than %s", wish,
                isa_name(all));
        *isa = all & (levels[i].needs | levels[i].allows);
        return 0;
    }
    return fail_set(fail, FAIL_USAGE,
        "CHOIR_ISA: expected scalar, avx2, avx512, avx512_bf16 or amx, found \"%s\"", wish);
}
