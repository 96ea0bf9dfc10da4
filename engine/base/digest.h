/* A running 64-bit digest (FNV-1a) of values that must be equal on all ranks, and the hash of
 * tables. Detects accidents, not forgeries. Start with DIGEST_START. Values are added by the byte,
 * so add struct fields one by one: structs have padding. Digests of files and logits are XXH3,
 * which is faster on many bytes. */
#ifndef CHOIR_BASE_DIGEST_H
#define CHOIR_BASE_DIGEST_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DIGEST_START UINT64_C(0xcbf29ce484222325)

static inline uint64_t digest_bytes(uint64_t digest, const void *bytes, size_t n)
{
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < n; i++)
        digest = (digest ^ byte[i]) * UINT64_C(0x100000001b3);
    return digest;
}

static inline uint64_t digest_u64(uint64_t digest, uint64_t value)
{
    return digest_bytes(digest, &value, sizeof value);
}

static inline uint64_t digest_f64(uint64_t digest, double value)
{
    return digest_bytes(digest, &value, sizeof value);
}

/* With its zero byte, so that adjacent strings stay distinct. */
static inline uint64_t digest_string(uint64_t digest, const char *text)
{
    return digest_bytes(digest, text, strlen(text) + 1);
}

/* A slot of a table whose size is a power of two: the digest's upper bits count too. */
static inline size_t digest_slot(uint64_t digest, size_t n_slots)
{
    return (size_t)(digest ^ digest >> 29) & (n_slots - 1);
}

#endif
