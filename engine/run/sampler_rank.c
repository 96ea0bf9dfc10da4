/* The whole vocabulary in the order of candidates, by a radix sort: a flat distribution needs it for
 * every token drawn, and comparing entries takes longer than a step of a small model. */
#include <string.h>

#include "engine/run/sampler_internal.h"

enum { DIGIT_BITS = 11, N_DIGIT_VALUES = 1 << DIGIT_BITS, KEY_BITS = 64 };

/* A larger score gives a smaller key; both zeros give the same. */
sampler_place_t sampler_place_of(double score, size_t token)
{
    uint64_t bits;
    score += 0.0;
    memcpy(&bits, &score, sizeof bits);
    return (sampler_place_t){bits >> 63 != 0 ? bits : ~(bits | UINT64_C(1) << 63), (uint32_t)token};
}

double sampler_place_score(const sampler_place_t *place)
{
    uint64_t key = place->key, bits = key >> 63 != 0 ? key : ~key & ~(UINT64_C(1) << 63);
    double score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* Moves places by one digit of their keys, equal ones in the order they have. False, and nothing
 * moved, where all have the same digit: scores that were floats lack the lower ones. */
static bool sort_digit(const sampler_place_t *from, sampler_place_t *to, size_t n, int shift)
{
    size_t starts[N_DIGIT_VALUES] = {0}, sum = 0;
    for (size_t i = 0; i < n; i++)
        starts[from[i].key >> shift & (N_DIGIT_VALUES - 1)]++;
    if (n == 0 || starts[from[0].key >> shift & (N_DIGIT_VALUES - 1)] == n)
        return false;
    for (size_t value = 0; value < N_DIGIT_VALUES; value++) {
        size_t count = starts[value];
        starts[value] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        to[starts[from[i].key >> shift & (N_DIGIT_VALUES - 1)]++] = from[i];
    return true;
}

const sampler_place_t *sampler_sort(sampler_place_t *places, sampler_place_t *spare, size_t n)
{
    for (int shift = 0; shift < KEY_BITS; shift += DIGIT_BITS)
        if (sort_digit(places, spare, n, shift)) {
            sampler_place_t *sorted = spare;
            spare = places;
            places = sorted;
        }
    return places;
}
