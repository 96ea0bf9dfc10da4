#include "engine/kernels/kernels.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "engine/kernels/elementwise.h"
#include "engine/kernels/tiles.h"

static const char *const isa_names[ISA_COUNT] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};

const char *isa_name(isa_t isa)
{
    return isa_names[isa];
}

#if defined(__x86_64__) && defined(__linux__)
/* Whether the CPU has tiles of bf16 and Linux lets this process use them (its arch_prctl
 * ARCH_REQ_XCOMP_PERM; threads inherit it). */
static bool amx_usable(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    const unsigned tile_and_bf16 = 1u << 24 | 1u << 22;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tile_and_bf16) != tile_and_bf16)
        return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#elif defined(__x86_64__)
static bool amx_usable(void)
{
    return false;
}
#endif

isa_t isa_detect(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    if (bf16 && amx_usable())
        return ISA_AMX;
    if (bf16)
        return ISA_AVX512_BF16;
    if (avx512)
        return ISA_AVX512;
    if (avx2)
        return ISA_AVX2;
#endif
    return ISA_SCALAR;
}

int isa_choose(isa_t *isa, fail_t *fail)
{
    isa_t widest = isa_detect();
    *isa = widest;
    const char *wish = getenv("CHOIR_ISA");
    if (wish == NULL || *wish == 0)
        return 0;
    for (isa_t i = ISA_SCALAR; i < ISA_COUNT; i++) {
        if (strcmp(wish, isa_names[i]) != 0)
            continue;
        if (i > widest)
            return fail_set(fail, FAIL_USAGE, "CHOIR_ISA=%s: this CPU has no more than %s", wish,
                isa_names[widest]);
        *isa = i;
        return 0;
    }
    return fail_set(fail, FAIL_USAGE,
        "CHOIR_ISA: expected scalar, avx2, avx512, avx512_bf16 or amx, found \"%s\"", wish);
}

typedef void (*tile_fn)(
    size_t, const void *, size_t, const void *, size_t, size_t, void *, size_t, tile_mode_t);

/* The tables differ in their tiles; the rest comes from elementwise.c as compiled for the
 * instruction set. */
typedef struct kernel_source {
    void (*fill)(kernels_t *kernels, dtype_t mode);
    void (*fill_bf16)(kernels_t *kernels); /* or NULL */
    void (*fill_sdpa)(kernels_t *kernels);
    tile_fn bf16, amx, f32, f64, groups_f32, groups_f64;
    void (*hold_tiles)(void), (*release_tiles)(void);
    tile_fn slabs; /* or NULL */
} kernel_source_t;

static void no_tiles(void) {}

static const kernel_source_t sources[ISA_COUNT] = {
    {elementwise_fill_baseline, NULL, sdpa_fill_baseline, tile_scalar_bf16, tile_scalar_amx,
        tile_scalar_f32, tile_scalar_f64, tile_groups_scalar_f32, tile_groups_scalar_f64, no_tiles,
        no_tiles, NULL},
#if defined(__x86_64__)
    {elementwise_fill_avx2, NULL, sdpa_fill_avx2, tile_avx2_bf16, tile_avx2_amx, tile_avx2_f32,
        tile_avx2_f64, tile_groups_avx2_f32, tile_groups_avx2_f64, no_tiles, no_tiles, NULL},
    {elementwise_fill_avx512, bf16_fill_avx512, sdpa_fill_avx512, tile_avx512_bf16_by_fma,
        tile_avx512_amx, tile_avx512_f32, tile_avx512_f64, tile_groups_avx512_f32,
        tile_groups_avx512_f64, no_tiles, no_tiles, NULL},
    {elementwise_fill_avx512, bf16_fill_avx512_bf16, sdpa_fill_avx512, tile_avx512_bf16,
        tile_avx512_amx, tile_avx512_f32, tile_avx512_f64, tile_groups_avx512_f32,
        tile_groups_avx512_f64, no_tiles, no_tiles, NULL},
    {elementwise_fill_avx512, bf16_fill_avx512_bf16, sdpa_fill_avx512, tile_avx512_bf16, tile_amx,
        tile_avx512_f32, tile_avx512_f64, tile_groups_avx512_f32, tile_groups_avx512_f64,
        tiles_amx_hold, tiles_amx_release, tile_amx_slabs},
#endif
};

void kernels_get(kernels_t *kernels, isa_t isa, dtype_t mode)
{
    const kernel_source_t *source = &sources[isa];
    source->fill(kernels, mode);
    kernels->tile_amx = kernels->tile_amx_slabs = NULL;
    if (mode == DTYPE_BF16) {
        source->fill_sdpa(kernels);
        if (source->fill_bf16 != NULL)
            source->fill_bf16(kernels);
        kernels->tile_amx = source->amx;
        kernels->tile_amx_slabs = source->slabs;
    }
    kernels->hold_tiles = source->hold_tiles;
    kernels->release_tiles = source->release_tiles;
    kernels->isa = isa_names[isa];
    kernels->tile_groups = mode == DTYPE_BF16  ? NULL
                           : mode == DTYPE_F32 ? source->groups_f32
                                               : source->groups_f64;
    kernels->tile = mode == DTYPE_BF16  ? source->bf16
                    : mode == DTYPE_F32 ? source->f32
                                        : source->f64;
}
