/* Linear tiles of the amx dot product (docs/numerics.md) with TDPBF16PS, on CPUs with AMX (Intel
 * Software Developer's Manual, "Intel AMX instruction set reference").
 *
 * A packed panel is what the instruction takes as its second factor: 16 rows of a tile are 16 pairs
 * of inputs, and a row holds 16 outputs side by side. Two tiles of rows by two of outputs stay in
 * tile registers 0 to 3, so that four loads feed four products. */
#include <immintrin.h>
#include <string.h>

#include "engine/kernels/tiles.h"

enum { TILE = 16, STEP = 32, N_TILES = 8 }; /* rows, outputs; inputs of one instruction */
#define PREFETCH_BYTES 2048                 /* ahead, where weights come from memory */

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config_t;

/* Tile registers 0, 1: sums of the first rows, 2, 3: of the others, 4, 5: rows, 6, 7: outputs. */
static void configure(size_t first_rows, size_t other_rows)
{
    tile_config_t config = {.palette = 1};
    for (int i = 0; i < N_TILES; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = TILE;
    }
    config.rows[0] = config.rows[1] = config.rows[4] = (uint8_t)first_rows;
    config.rows[2] = config.rows[3] = config.rows[5] = (uint8_t)other_rows;
    _tile_loadconfig(&config);
}

/* Of multiply_thin. */
static void configure_thin(size_t rows)
{
    tile_config_t config = {.palette = 1};
    for (int i = 0; i < N_TILES; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = i <= 4 ? (uint8_t)rows : TILE;
    }
    _tile_loadconfig(&config);
}

/* Where a block of the product lies. Strides in bytes. */
typedef struct block {
    const char *a, *b; /* rows; the panel's first output of the block */
    char *c;
    size_t a_stride, width_bytes, c_stride, n_steps;
    const char *a_rest, *b_rest; /* inputs beyond the last whole step, padded with zeros; or NULL */
    tile_mode_t mode;
} block_t;

enum { REST_A_STRIDE = 2 * STEP, REST_B_STRIDE = 4 * KERNEL_PANEL };

#define INLINE static inline __attribute__((always_inline))

INLINE void load_sums(const block_t *s, const bool two_rows, const bool two_outputs)
{
    const char *other = s->c + TILE * s->c_stride;
    if (s->mode != TILE_CHAIN) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, s->c, s->c_stride);
    if (two_outputs)
        _tile_loadd(1, s->c + 64, s->c_stride);
    if (two_rows)
        _tile_loadd(2, other, s->c_stride);
    if (two_rows && two_outputs)
        _tile_loadd(3, other + 64, s->c_stride);
}

INLINE void store_sums(char *c, size_t c_stride, const bool two_rows, const bool two_outputs)
{
    _tile_stored(0, c, c_stride);
    if (two_outputs)
        _tile_stored(1, c + 64, c_stride);
    if (two_rows)
        _tile_stored(2, c + TILE * c_stride, c_stride);
    if (two_rows && two_outputs)
        _tile_stored(3, c + TILE * c_stride + 64, c_stride);
}

INLINE void multiply_step(const char *a, size_t a_stride, const char *b, size_t b_stride,
    const bool two_rows, const bool two_outputs)
{
    _tile_loadd(4, a, a_stride);
    _tile_loadd(6, b, b_stride);
    _tile_dpbf16ps(0, 4, 6);
    if (two_outputs) {
        _tile_loadd(7, b + 64, b_stride);
        _tile_dpbf16ps(1, 4, 7);
    }
    if (two_rows) {
        _tile_loadd(5, a + TILE * a_stride, a_stride);
        _tile_dpbf16ps(2, 5, 6);
        if (two_outputs)
            _tile_dpbf16ps(3, 5, 7);
    }
}

INLINE void multiply(
    const block_t *s, char *c, size_t c_stride, const bool two_rows, const bool two_outputs)
{
    load_sums(s, two_rows, two_outputs);
    const char *a = s->a, *b = s->b;
    for (size_t i = 0; i < s->n_steps; i++) {
        multiply_step(a, s->a_stride, b, s->width_bytes, two_rows, two_outputs);
        a += 2 * STEP;
        b += STEP / 2 * s->width_bytes;
    }
    if (s->a_rest != NULL)
        multiply_step(s->a_rest, REST_A_STRIDE, s->b_rest, REST_B_STRIDE, two_rows, two_outputs);
    store_sums(c, c_stride, two_rows, two_outputs);
}

/* Up to 16 rows x all 64 outputs: the panel is read as one stream, as fast as memory gives it. Tile
 * registers 0 to 3 are sums, 4 rows, 5 and 6 outputs by turns. */
static void multiply_thin(const block_t *s, char *c, size_t c_stride)
{
    if (s->mode == TILE_CHAIN) {
        _tile_loadd(0, s->c, s->c_stride);
        _tile_loadd(1, s->c + 64, s->c_stride);
        _tile_loadd(2, s->c + 128, s->c_stride);
        _tile_loadd(3, s->c + 192, s->c_stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    const char *a = s->a, *b = s->b;
    size_t a_stride = s->a_stride, b_stride = s->width_bytes;
    for (size_t i = 0; i < s->n_steps + (s->a_rest != NULL); i++) {
        if (i == s->n_steps) {
            a = s->a_rest;
            b = s->b_rest;
            a_stride = REST_A_STRIDE;
            b_stride = REST_B_STRIDE;
        }
        for (size_t line = 0; line < STEP / 2 * 4; line++)
            _mm_prefetch(b + PREFETCH_BYTES + line * 64, _MM_HINT_T0);
        _tile_loadd(4, a, a_stride);
        _tile_loadd(5, b, b_stride);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(6, b + 64, b_stride);
        _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(5, b + 128, b_stride);
        _tile_dpbf16ps(2, 4, 5);
        _tile_loadd(6, b + 192, b_stride);
        _tile_dpbf16ps(3, 4, 6);
        a += 2 * STEP;
        b += STEP / 2 * b_stride;
    }
    _tile_stored(0, c, c_stride);
    _tile_stored(1, c + 64, c_stride);
    _tile_stored(2, c + 128, c_stride);
    _tile_stored(3, c + 192, c_stride);
}

/* rows x 16, 32 or, for up to 16 rows, 64 outputs. */
static void multiply_block(const block_t *s, size_t rows, size_t outputs)
{
    float leaf[2 * TILE][KERNEL_PANEL];
    bool adds = s->mode == TILE_ADD, two_rows = rows > TILE, two_outputs = outputs > TILE;
    char *c = adds ? (char *)leaf : s->c;
    size_t c_stride = adds ? sizeof leaf[0] : s->c_stride;
    if (outputs == KERNEL_PANEL)
        multiply_thin(s, c, c_stride);
    else if (two_rows && two_outputs)
        multiply(s, c, c_stride, true, true);
    else if (two_rows)
        multiply(s, c, c_stride, true, false);
    else if (two_outputs)
        multiply(s, c, c_stride, false, true);
    else
        multiply(s, c, c_stride, false, false);
    for (size_t r = 0; adds && r < rows; r++)
        for (size_t j = 0; j < outputs; j++)
            ((float *)(s->c + r * s->c_stride))[j] += leaf[r][j];
}

/* Inputs that do not fill a step, completed with zeros, which leave every sum as it is. */
typedef struct rest {
    uint16_t a[2 * TILE][STEP];
    uint32_t b[STEP / 2][KERNEL_PANEL];
} rest_t;

static void fill_rest_b(rest_t *rest, const uint16_t *b, size_t width, size_t n)
{
    memset(rest->b, 0, sizeof rest->b);
    for (size_t i = 0; i < n / 2; i++)
        memcpy(rest->b[i], b + 2 * i * width, width * sizeof rest->b[i][0]);
}

static void fill_rest_a(rest_t *rest, const uint16_t *a, size_t a_stride, size_t rows, size_t n)
{
    memset(rest->a, 0, sizeof rest->a);
    for (size_t r = 0; r < rows; r++)
        memcpy(rest->a[r], a + r * a_stride, n * sizeof *a);
}

void tile_amx(size_t rows, const void *a, size_t a_stride, const void *b, size_t width, size_t k,
    void *c, size_t c_stride, tile_mode_t mode)
{
    rest_t rest;
    size_t whole = k / STEP * STEP, left = k - whole;
    block_t s = {.a_stride = 2 * a_stride,
        .width_bytes = 4 * width,
        .c_stride = sizeof(float) * c_stride,
        .n_steps = whole / STEP,
        .mode = mode};
    if (left > 0) {
        fill_rest_b(&rest, (const uint16_t *)b + whole * width, width, left);
        s.a_rest = (const char *)rest.a;
    }
    if (rows <= TILE && width == KERNEL_PANEL) {
        configure_thin(rows);
        if (left > 0)
            fill_rest_a(&rest, (const uint16_t *)a + whole, a_stride, rows, left);
        s.a = a;
        s.b = b;
        s.b_rest = (const char *)rest.b;
        s.c = c;
        multiply_block(&s, rows, width);
        _tile_release();
        return;
    }
    size_t configured = 0;
    for (size_t r = 0; r < rows; r += 2 * TILE) {
        size_t n = rows - r < 2 * TILE ? rows - r : 2 * TILE;
        const uint16_t *from = (const uint16_t *)a + r * a_stride;
        if (n != configured)
            configure(n < TILE ? n : TILE, n > TILE ? n - TILE : TILE);
        configured = n;
        if (left > 0)
            fill_rest_a(&rest, from + whole, a_stride, n, left);
        for (size_t j = 0; j < width; j += 2 * TILE) {
            s.a = (const char *)from;
            s.b = (const char *)b + 4 * j;
            s.b_rest = (const char *)rest.b + 4 * j;
            s.c = (char *)c + (r * c_stride + j) * sizeof(float);
            multiply_block(&s, n, width - j < 2 * TILE ? width - j : 2 * TILE);
        }
    }
    /* So that a thread's state is small again, and other libraries find the tiles free. */
    _tile_release();
}
