/* Philox4x32-10: counter-based random numbers (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers:
 * As Easy as 1, 2, 3, SC 2011). A pure function of key and counter, so a draw depends on nothing
 * that happened before it. */
#ifndef CHOIR_RUN_PHILOX_H
#define CHOIR_RUN_PHILOX_H

#include <stdint.h>

/* Ten rounds. counter: [4] 32-bit words, key: [2], out: [4] written; out may be counter. */
void philox4x32(const uint32_t *counter, const uint32_t *key, uint32_t *out);

/* A uniform number in [0, 1) with 53 random bits: key = seed, counter = (stream, index), low words
 * first. */
double philox_uniform(uint64_t seed, uint64_t stream, uint64_t index);

#endif
