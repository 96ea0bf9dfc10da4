/* The hardware's limits, measured: what a kernel's speed is judged by. Each function runs on the
 * calling thread alone; a team runs them together to get the rank's roof. Thread safe. */
#ifndef CHOIR_KERNELS_ROOF_H
#define CHOIR_KERNELS_ROOF_H

#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/kernels.h"

/* Reads every byte once by the widest plain loads, as a row of decode does: as four streams with prefetching, on AMD's CPUs as
 * one without, whichever is faster; returns a value that depends on all of them. data: 64-byte aligned; bytes: a multiple of 4096 */
uint64_t roof_read(const void *data, size_t bytes);

/* Runs at least `steps` multiply-adds in registers alone, many independent chains at once, with the
 * instruction that the tiles of this instruction set and mode use; *flop is set to the
 * floating-point operations done (2 for a multiply-add). Returns a value that depends on all of
 * them. 0 FLOP for scalar. */
double roof_multiply(isa_t isa, dtype_t mode, uint64_t steps, double *flop);

/* The same with dot products of 8-bit integers, for comparison: AMX where isa says so, else
 * AVX512-VNNI. *operations counts a multiply-add as 2, and is 0 where the CPU has neither. */
double roof_multiply_int8(isa_t isa, uint64_t steps, double *operations);

#endif
