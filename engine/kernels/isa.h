/* What a CPU can do, as a set of capability bits, and the names by which users lower it.
 *
 * Kernels ask for the bits they need and nothing else, since CPUs are not ordered: AVX-512 comes
 * with and without bf16, 8-bit dot products with AVX2 and without. A *level* is a set with a name
 * (CHOIR_ISA, reports); levels are ordered. Thread safe. */
#ifndef CHOIR_KERNELS_ISA_H
#define CHOIR_KERNELS_ISA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

/* A set of capability bits. */
typedef uint32_t isa_t;

#define CPU_AVX2 (1u << 0)        /* AVX2 with FMA */
#define CPU_AVX512 (1u << 1)      /* AVX-512 F, BW, VL and DQ */
#define CPU_AVX512_BF16 (1u << 2) /* vdpbf16ps, vcvtneps2bf16 */
#define CPU_AMX_BF16 (1u << 3)    /* TDPBF16PS, and Linux lets this process use tiles */
#define CPU_AVX512_VNNI (1u << 4) /* vpdpbusd of 512 bits */
#define CPU_AMX_INT8 (1u << 5)    /* TDPBSSD */
#define CPU_AVX512_VBMI (1u << 6) /* vpermi2b */

/* The levels: what CHOIR_ISA's names need. */
#define ISA_SCALAR 0u
#define ISA_AVX2 CPU_AVX2
#define ISA_AVX512 (ISA_AVX2 | CPU_AVX512)
#define ISA_AVX512_BF16 (ISA_AVX512 | CPU_AVX512_BF16)
#define ISA_AMX (ISA_AVX512_BF16 | CPU_AMX_BF16)
#define ISA_LEVELS 5

/* Level i of ISA_LEVELS, from scalar on. */
isa_t isa_of_level(size_t i);

/* The highest level that a set has all bits of, and its name. */
size_t isa_level(isa_t isa);
const char *isa_name(isa_t isa);

static inline bool isa_has(isa_t isa, isa_t wanted)
{
    return (isa & wanted) == wanted;
}

/* What this CPU and its operating system have. Asks for the use of AMX, once a process. */
isa_t isa_detect(void);
/* isa_detect(), lowered to the level that CHOIR_ISA names, where it is set. FAIL_USAGE for an
 * unknown name or one that the CPU lacks. */
int isa_choose(isa_t *isa, fail_t *fail);
/* The same for a CPU that has `all`. wish: a level's name; NULL or "": all */
int isa_lower(isa_t all, const char *wish, isa_t *isa, fail_t *fail);

#endif
