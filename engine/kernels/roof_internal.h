/* Rates of AMX, for roof.c and roof_int8.c. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_ROOF_INTERNAL_H
#define CHOIR_KERNELS_ROOF_INTERNAL_H

#include <stdint.h>

/* At least `steps` tile products in registers alone; *operations counts a multiply-add as 2. Only
 * where isa_detect() has found AMX; the second where CPUID has AMX-INT8 too. */
double roof_tiles_bf16(uint64_t steps, double *operations);
double roof_tiles_int8(uint64_t steps, double *operations);

#endif
