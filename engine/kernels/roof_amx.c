#include "engine/kernels/roof_internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define TILE_CHAINS 6 /* of 8 tile registers; the others are the factors */
#define ROWS 16
#define ROW_BYTES 64

/* Laid out as ldtilecfg reads it. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config_t;

/* Full tiles everywhere; both factors hold `factor` in every byte. */
__attribute__((target("amx-tile"))) static void begin(uint8_t factor)
{
    tile_config_t config = {.palette = 1};
    uint8_t values[ROWS * ROW_BYTES];
    memset(values, factor, sizeof values);
    for (int i = 0; i < TILE_CHAINS + 2; i++) {
        config.row_bytes[i] = ROW_BYTES;
        config.rows[i] = ROWS;
    }
    /* The intrinsics do not declare all the memory that they read to the compiler. */
    __asm__ volatile("" : : "r"(&config), "r"(values) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_loadd(6, values, ROW_BYTES);
    _tile_loadd(7, values, ROW_BYTES);
}

/* The first element of the first chain, as bits. */
__attribute__((target("amx-tile"))) static double end(void)
{
    uint32_t sums[ROWS * ROW_BYTES / sizeof(uint32_t)];
    _tile_stored(0, sums, ROW_BYTES);
    _tile_release();
    return (double)sums[0];
}

#define DEFINE_TILES(NAME, TARGET, MULTIPLY, FACTOR, DEPTH)                                        \
    __attribute__((target("amx-tile," TARGET))) double NAME(uint64_t steps, double *operations)    \
    {                                                                                              \
        steps = (steps + TILE_CHAINS - 1) / TILE_CHAINS * TILE_CHAINS;                             \
        *operations = (double)steps * 2 * ROWS * 16 * DEPTH;                                       \
        begin(FACTOR);                                                                             \
        for (uint64_t k = 0; k < steps; k += TILE_CHAINS) {                                        \
            MULTIPLY(0, 6, 7);                                                                     \
            MULTIPLY(1, 6, 7);                                                                     \
            MULTIPLY(2, 6, 7);                                                                     \
            MULTIPLY(3, 6, 7);                                                                     \
            MULTIPLY(4, 6, 7);                                                                     \
            MULTIPLY(5, 6, 7);                                                                     \
        }                                                                                          \
        return end();                                                                              \
    }

DEFINE_TILES(roof_tiles_bf16, "amx-bf16", _tile_dpbf16ps, 0x3f, 32) /* 0x3f3f: about 0.75 */
DEFINE_TILES(roof_tiles_int8, "amx-int8", _tile_dpbssd, 1, 64)
#endif
