/* What the tiles of several instruction sets share. Internal to engine/kernels. */
#ifndef CHOIR_KERNELS_TILES_H
#define CHOIR_KERNELS_TILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels/kernels.h"

#if defined(__x86_64__)
#define CPU_IS(VENDOR) __builtin_cpu_is(VENDOR)
#else
#define CPU_IS(VENDOR) false
#endif

/* Whether few rows, which wait for memory, are faster with weights prefetched. On AMD's Zen 3 prefetching the first lines of
 * the next page of 4 KiB costs a quarter of the bandwidth, and Zen 4 reads one stream without prefetches best
 * (bench/LOG.md). */
static inline bool streams_want_prefetching(void)
{
    return !CPU_IS("amd");
}

/* Whether vdpbf16ps multiplies more than fused multiply-adds of f32 do: it takes Intel's CPUs two cycles on one of the two
 * ports that take an FMA each in one, so that it is half as fast there, and twice as fast on AMD's (bench/LOG.md). */
static inline bool dot_product_is_faster(void)
{
    return !CPU_IS("intel");
}

/* Rows that are bound by multiplying, no longer by memory, where it is not. */
#define ROWS_BY_FMA 4

/* Panels that a single row reads in step, each a stream of the memory's. */
static inline size_t panels_in_step(void)
{
    return streams_want_prefetching() ? KERNEL_TILE_PANELS : 1;
}

/* A single row reads its weights once, as one stream, `bytes` at a time. */
static inline __attribute__((always_inline)) void prefetch_next_page(const void *at, size_t bytes)
{
    enum { PAGE_BYTES = 4096, LINE_BYTES = 64, LINES = 4, SECOND_LEVEL = 2 };
    size_t in_page = (uintptr_t)at % PAGE_BYTES;
    const char *next = (const char *)at + (PAGE_BYTES - in_page);
    if (in_page < bytes && streams_want_prefetching())
        for (int i = 0; i < LINES; i++)
            __builtin_prefetch(next + LINE_BYTES * i, 0, SECOND_LEVEL);
}

/* The same for `bytes` that are being read, and what this stream reads soon. */
static inline __attribute__((always_inline)) void prefetch_stream(const void *at, size_t bytes)
{
    enum { AHEAD_BYTES = 1024, LINE_BYTES = 64 };
    if (!streams_want_prefetching())
        return;
    prefetch_next_page(at, bytes);
    for (size_t i = 0; i < bytes; i += LINE_BYTES)
        __builtin_prefetch((const char *)at + AHEAD_BYTES + i);
}

/* While `bytes` are unpacked into a block: what is unpacked `ahead` bytes later. From memory the first-level caches of AMD's
 * CPUs take only so many lines at a time: they lie in the second level by then (bench/LOG.md). */
static inline __attribute__((always_inline)) void prefetch_unpacked(
    const void *at, size_t bytes, size_t ahead)
{
    enum { FAR_BYTES = 8192, LINE_BYTES = 64, SECOND_LEVEL = 2 };
    for (size_t i = 0; i < bytes; i += LINE_BYTES) {
        __builtin_prefetch((const char *)at + ahead + i);
        if (!streams_want_prefetching())
            __builtin_prefetch((const char *)at + FAR_BYTES + i, 0, SECOND_LEVEL);
    }
}

#endif
