/* Tiles of the dot product amx (docs/numerics.md) with TDPBF16PS, on CPUs with AMX (Intel Software
 * Developer's Manual, "Intel AMX instruction set reference").
 *
 * A packed panel is what the instruction takes as its second factor: 16 rows of a tile are 16 pairs
 * of inputs, and a row holds 16 outputs side by side. 16 rows by the 64 outputs of a panel stay in
 * tile registers 0 to 3; a block of the panel stays in the first-level cache while rows pass. */
#include <immintrin.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/tiles.h"

enum { TILE = KERNEL_TILE_ROWS }; /* rows, outputs */
enum { STEP = KERNEL_K_BLOCK };   /* inputs of one instruction */
enum { FEW_ROWS = 1 };
enum { LINE = 64, STEP_LINES = STEP * KERNEL_PANEL * 2 / LINE };
/* Up to here memory is slower than the products: weights are prefetched a little ahead of their position, while the first
 * strip of rows passes. */
#define NEAR_ROWS 64
#define AHEAD_BYTES 2048

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config_t;

/* Configuring the registers waits for all pending instructions: with few rows a sixth of the time.
 * So a thread keeps the configuration between calls while it holds the registers. */
static _Thread_local size_t configured_rows; /* 0: not set up */
static _Thread_local bool held;

/* Tile registers 0 to 3: sums of up to 16 rows; 4: rows; 5, 6: outputs in turn. */
static void configure(size_t rows)
{
    if (configured_rows == rows)
        return;
    tile_config_t config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = LINE;
        config.rows[i] = i <= 4 ? (uint8_t)rows : TILE;
    }
    /* The intrinsic declares only the first bytes to compilers. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
    configured_rows = rows;
}

/* Makes a thread's state small again, and frees the tiles for other libraries. */
static void release(void)
{
    if (configured_rows > 0)
        _tile_release();
    configured_rows = 0;
}

static void amx_begin(void)
{
    held = true;
}

static void amx_end(void)
{
    held = false;
    release();
}

/* Addresses of a block of the product. Strides in bytes. */
typedef struct block {
    const char *a, *b;
    char *c;
    char *done; /* where the sums go that registers still hold; or NULL */
    size_t a_stride, b_stride, c_stride, done_stride, n_steps;
    size_t a_step;               /* from one step's inputs to the next */
    const char *a_rest, *b_rest; /* inputs beyond the last whole step, padded with zeros; or NULL */
    const unpacking_t *unpacking; /* of b; or NULL */
    bool first_rows, last_rows;
    const char *next; /* weights to prefetch: next_lines a step */
    size_t next_lines;
    bool next_first_level; /* into which cache */
    bool chain;            /* c goes on */
} block_t;

enum { REST_A_STRIDE = 2 * STEP, REST_B_STRIDE = 4 * KERNEL_PANEL };

#define INLINE static inline __attribute__((always_inline))

/* Prefetches a step's share of the next weights, part i of n. */
INLINE void ask(const int i, const int n, const char *next, size_t lines, const bool first_level)
{
    for (size_t line = lines * i / n; line < lines * (i + 1) / n; line++)
        if (first_level)
            _mm_prefetch(next + line * LINE, _MM_HINT_T0);
        else
            _mm_prefetch(next + line * LINE, _MM_HINT_T1);
}

/* The sums of 16 outputs in place of those that register I still holds: stored, then loaded or zero. */
#define NEXT_SUM(I)                                                                                \
    if (s->done != NULL)                                                                           \
        _tile_stored(I, s->done + I * LINE, s->done_stride);                                       \
    if (s->chain)                                                                                  \
        _tile_loadd(I, s->c + I * LINE, s->c_stride);                                              \
    else                                                                                           \
        _tile_zero(I);

/* A step of 16 outputs; ASK prefetches. The first step of a strip also moves the sums, those of each 16 outputs before their
 * product: all of them at once would leave the unit without products meanwhile. */
#define STEP_OF(I, B, FIRST, LOAD_ROWS, ASK)                                                       \
    if (FIRST) {                                                                                   \
        NEXT_SUM(I)                                                                                \
    }                                                                                              \
    if (I == 0)                                                                                    \
        LOAD_ROWS(4, a, a_stride);                                                                 \
    _tile_loadd(B, b + I * LINE, b_stride);                                                        \
    _tile_dpbf16ps(I, 4, B);                                                                       \
    ASK(I)

/* All of n times 16 outputs. */
#define STEPS_OF(FIRST, LOAD_ROWS, ASK)                                                            \
    STEP_OF(0, 5, FIRST, LOAD_ROWS, ASK)                                                           \
    if (n > 1) {                                                                                   \
        STEP_OF(1, 6, FIRST, LOAD_ROWS, ASK)                                                       \
    }                                                                                              \
    if (n > 2) {                                                                                   \
        STEP_OF(2, 5, FIRST, LOAD_ROWS, ASK)                                                       \
    }                                                                                              \
    if (n > 3) {                                                                                   \
        STEP_OF(3, 6, FIRST, LOAD_ROWS, ASK)                                                       \
    }

/* Rows are loaded past the first-level cache (TILELOADDT1), where they would displace the weights, which the next strip needs
 * again. */
INLINE void multiply_step(const int n, const bool first, const block_t *s, const char *a,
    size_t a_stride, const char *b, size_t b_stride, const char *next, size_t lines,
    const bool first_level)
{
#define ASK_NEXT(I) ask(I, n, next, lines, first_level);
    STEPS_OF(first, _tile_stream_loadd, ASK_NEXT)
}

/* Of the first rows: weights of step i, where they are not unpacked yet. */
INLINE void unpack_step(const block_t *s, size_t i)
{
    const unpacking_t *u = s->unpacking;
    if (u != NULL && s->first_rows && i < s->n_steps && i * STEP >= u->done)
        u->unpack(u->context, i * STEP);
}

/* Of the last rows: the next product's weights in place of those of step i, which nobody needs any more. */
INLINE void unpack_next(const block_t *s, size_t i)
{
    const unpacking_t *u = s->unpacking;
    if (u != NULL && s->last_rows && i * STEP < u->next)
        u->unpack(u->next_context, i * STEP);
}

/* The steps of a strip, of 16 * n outputs. */
INLINE void multiply_steps(const int n, const bool first_level, const block_t *s)
{
    const char *a = s->a, *b = s->b, *next = s->next;
    const size_t a_stride = s->a_stride, b_stride = s->b_stride, n_steps = s->n_steps,
                 a_step = s->a_step, lines = s->next_lines;
    unpack_step(s, 0);
    unpack_step(s, 1);
    multiply_step(n, true, s, a, a_stride, b, b_stride, next, lines, first_level);
    unpack_next(s, 0);
    for (size_t i = 1; i < n_steps; i++) {
        a += a_step;
        b += STEP / 2 * b_stride;
        next += lines * LINE;
        unpack_step(s, i + 1);
        multiply_step(n, false, s, a, a_stride, b, b_stride, next, lines, first_level);
        unpack_next(s, i);
    }
}

/* Up to 16 rows x 16 * n outputs; the sums stay in registers 0 to n - 1. */
INLINE void multiply(const int n, const block_t *s)
{
    if (s->n_steps > 0 && s->next_first_level)
        multiply_steps(n, true, s);
    else if (s->n_steps > 0)
        multiply_steps(n, false, s);
    if (s->a_rest != NULL)
        multiply_step(n, s->n_steps == 0, s, s->a_rest, REST_A_STRIDE, s->b_rest, REST_B_STRIDE,
            NULL, 0, false);
}

/* F(n, ...) of n times 16 outputs, whose sums stay in registers. The intrinsics do not declare the memory that they read to
 * compilers. */
#define OF_WIDTH(F, ...)                                                                           \
    __asm__ volatile("" : : : "memory");                                                           \
    switch (width / TILE) {                                                                        \
    case 1:                                                                                        \
        F(1, __VA_ARGS__);                                                                         \
        break;                                                                                     \
    case 2:                                                                                        \
        F(2, __VA_ARGS__);                                                                         \
        break;                                                                                     \
    case 3:                                                                                        \
        F(3, __VA_ARGS__);                                                                         \
        break;                                                                                     \
    default:                                                                                       \
        F(4, __VA_ARGS__);                                                                         \
    }                                                                                              \
    s->done = s->c;                                                                                \
    s->done_stride = s->c_stride;

static void multiply_outputs(size_t width, block_t *s)
{
    OF_WIDTH(multiply, s)
}

/* Stores the sums that registers still hold. */
static void store_sums(size_t width, block_t *s)
{
    if (s->done == NULL)
        return;
    switch (width / TILE) {
    default:
        _tile_stored(3, s->done + 3 * LINE, s->done_stride);
        __attribute__((fallthrough));
    case 3:
        _tile_stored(2, s->done + 2 * LINE, s->done_stride);
        __attribute__((fallthrough));
    case 2:
        _tile_stored(1, s->done + LINE, s->done_stride);
        __attribute__((fallthrough));
    case 1:
        _tile_stored(0, s->done, s->done_stride);
    }
    s->done = NULL;
}

/* The same for rows of which the first `done` have their sums, or sums to be added to c. */
static void multiply_apart(size_t done, size_t rows, size_t width, block_t *s, tile_mode_t mode)
{
    float sums[TILE][KERNEL_PANEL];
    store_sums(width, s);
    block_t apart = *s;
    apart.c = (char *)sums;
    apart.c_stride = sizeof sums[0];
    for (size_t r = 0; mode == TILE_CHAIN && r < rows; r++)
        memcpy(sums[r], s->c + r * s->c_stride, width * sizeof(float));
    multiply_outputs(width, &apart);
    store_sums(width, &apart);
    for (size_t r = done; r < rows; r++) {
        float *to = (float *)(s->c + r * s->c_stride);
        for (size_t j = 0; j < width; j++)
            to[j] = mode == TILE_ADD ? to[j] + sums[r][j] : sums[r][j];
    }
}

/* Inputs that do not fill a step, completed with zeros, which leave every sum as it is. */
typedef struct rest {
    uint16_t a[TILE][STEP];
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

/* Few rows prefetch weights near, many the next block of weights, spread over all steps; so do few rows where the next
 * weights lie elsewhere. */
static void plan_prefetch(block_t *s, size_t rows, const char *next)
{
    const bool few = rows <= NEAR_ROWS;
    s->next_first_level = few && next == NULL;
    s->next =
        next != NULL ? next : s->b + (few ? AHEAD_BYTES : s->n_steps * STEP / 2 * s->b_stride);
    s->next_lines = few ? STEP_LINES : STEP_LINES / ((rows + TILE - 1) / TILE);
}

/* a: row 0. Strides as in tile_amx and tile_amx_k_blocked. */
static void multiply_strips(size_t rows, const uint16_t *a, size_t a_stride, size_t a_step,
    const void *b, size_t width, size_t k, const unpacking_t *unpacking, const void *next, void *c,
    size_t c_stride, tile_mode_t mode)
{
    rest_t rest;
    size_t whole = k / STEP * STEP, left = k - whole;
    block_t s = {.b = b,
        .a_stride = 2 * a_stride,
        .a_step = 2 * a_step,
        .b_stride = 4 * width,
        .c_stride = sizeof(float) * c_stride,
        .n_steps = whole / STEP,
        .unpacking = unpacking,
        .chain = mode == TILE_CHAIN};
    plan_prefetch(&s, rows, next);
    if (left > 0) {
        fill_rest_b(&rest, (const uint16_t *)b + whole * width, width, left);
        s.a_rest = (const char *)rest.a;
        s.b_rest = (const char *)rest.b;
    }
    /* The last rows of many are computed with some before them, so that there are always 16. */
    size_t n = rows < TILE ? rows : TILE;
    configure(n);
    for (size_t r = 0; r < rows; r += n) {
        size_t first = r + n <= rows ? r : rows - n;
        const uint16_t *from = a + first * a_stride;
        if (left > 0)
            fill_rest_a(&rest, from + whole / STEP * a_step, a_stride, n, left);
        s.a = (const char *)from;
        s.c = (char *)c + first * c_stride * sizeof(float);
        s.first_rows = r == 0;
        s.last_rows = r + n >= rows;
        if (mode == TILE_ADD || (mode == TILE_CHAIN && first < r))
            multiply_apart(r - first, n, width, &s, mode);
        else
            multiply_outputs(width, &s);
        if (rows <= NEAR_ROWS)
            s.next_lines = 0;
        else
            s.next += s.n_steps * s.next_lines * LINE;
    }
    store_sums(width, &s);
    if (!held)
        release();
}

/* ---- Few rows with several panels ------------------------------------------------------------- */

/* Panels whose next step is prefetched while this one is multiplied, a line of each in turn. */
typedef struct streams {
    const char *at[KERNEL_TILE_PANELS];
    size_t n, lines; /* of a step of each panel; 0: nothing follows */
} streams_t;

/* Quarter `part` of the p-th panel's share. */
INLINE void ask_streams(const streams_t *s, size_t p, size_t part)
{
    const size_t share = s->lines / s->n, begin = p * share + share * part / 4,
                 end = p * share + share * (part + 1) / 4;
    for (size_t line = begin; line < end; line++)
        for (size_t stream = 0; stream < s->n; stream++)
            _mm_prefetch(s->at[stream] + line * LINE, _MM_HINT_T0);
}

/* A step of the p-th panel, 16 * n outputs. */
INLINE void multiply_in_turn(const int n, const block_t *s, const streams_t *next, size_t p)
{
    const char *a = s->a, *b = s->b;
    const size_t a_stride = s->a_stride, b_stride = s->b_stride;
#define ASK_STREAMS(I) ask_streams(next, p, I);
    STEPS_OF(true, _tile_loadd, ASK_STREAMS)
}

static void turn(size_t width, block_t *s, const streams_t *next, size_t p)
{
    OF_WIDTH(multiply_in_turn, s, next, p)
}

/* Rows that go through tiles together, and where their sums lie meanwhile. */
typedef struct strip {
    const uint16_t *a;
    float *c;
    size_t c_panel, c_stride;
} strip_t;

/* Sums of the last n rows, those of no other strip, from c to the second strip's, or back. */
static void move_apart(size_t n, size_t n_panels, size_t width, float *c, size_t c_panel,
    size_t c_stride, float apart[][TILE][KERNEL_PANEL], bool back)
{
    for (size_t p = 0; p < n_panels; p++)
        for (size_t r = 0; r < n; r++) {
            float *to = c + p * c_panel + (TILE + r) * c_stride, *sums = apart[p][TILE - n + r];
            memcpy(back ? to : sums, back ? sums : to, width * sizeof *to);
        }
}

/* Between a panel's turns its sums wait in the first-level cache. More than 16 rows are two strips; the second has some of the
 * first one's rows again, and its sums lie apart. */
static void few_amx_panels(size_t rows, const void *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode)
{
    enum { MOST_STRIPS = 2 };
    _Static_assert(KERNEL_MANY_ROWS - 1 <= MOST_STRIPS * TILE, "rows of few_amx_panels");
    const size_t whole = k / STEP * STEP, step_bytes = STEP * width * sizeof(uint16_t),
                 n_strips = rows > TILE ? MOST_STRIPS : 1, n = size_min(rows, TILE);
    float apart[KERNEL_TILE_PANELS][TILE][KERNEL_PANEL] __attribute__((aligned(64)));
    const strip_t strips[MOST_STRIPS] = {
        {a, c, c_panel, c_stride}, {(const uint16_t *)a + (rows - n) * a_stride, apart[0][0],
                                       TILE * KERNEL_PANEL, KERNEL_PANEL}};
    const streams_t none = {.n = 1};
    streams_t next = {.n = n_panels};
    rest_t rest[MOST_STRIPS];
    block_t s = {.done = NULL};
    configure(n);
    if (mode == TILE_CHAIN)
        move_apart(rows - n, n_panels, width, c, c_panel, c_stride, apart, false);
    for (size_t i = 0; i < k; i += STEP) {
        const bool is_rest = i == whole;
        next.lines = i + 2 * STEP <= k ? step_bytes / LINE : 0;
        s.chain = i > 0 || mode == TILE_CHAIN;
        for (size_t strip = 0; is_rest && strip < n_strips; strip++)
            fill_rest_a(&rest[strip], strips[strip].a + i, a_stride, n, k - i);
        for (size_t p = 0; p < n_panels; p++)
            next.at[p] = (const char *)b[p] + (i + STEP) * width * sizeof(uint16_t);
        for (size_t p = 0; p < n_panels; p++) {
            const char *weights = next.at[p] - step_bytes;
            if (is_rest)
                fill_rest_b(&rest[0], (const uint16_t *)(const void *)weights, width, k - i);
            for (size_t i_strip = 0; i_strip < n_strips; i_strip++) {
                const strip_t *strip = &strips[i_strip];
                s.a = is_rest ? (const char *)rest[i_strip].a : (const char *)(strip->a + i);
                s.a_stride = is_rest ? REST_A_STRIDE : a_stride * sizeof *strip->a;
                s.b = is_rest ? (const char *)rest[0].b : weights;
                s.b_stride = is_rest ? REST_B_STRIDE : 4 * width;
                s.c = (char *)(strip->c + p * strip->c_panel);
                s.c_stride = strip->c_stride * sizeof(float);
                turn(width, &s, i_strip == 0 ? &next : &none, p);
            }
        }
    }
    store_sums(width, &s);
    move_apart(rows - n, n_panels, width, c, c_panel, c_stride, apart, true);
    if (!held)
        release();
}

static void tile_amx(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode)
{
    /* A tile of one row takes as long as one of 16. The same sums by fused multiply-adds reach the
     * speed of memory. */
    if (rows <= FEW_ROWS)
        tile_amx_by_fma(rows, a, a_stride, b, width, k, c, c_stride, mode);
    else
        multiply_strips(rows, a, a_stride, STEP, b, width, k, NULL, NULL, c, c_stride, mode);
}

static void tile_amx_k_blocked(size_t rows, const void *a, size_t a_stride, const void *b,
    size_t width, size_t k, const unpacking_t *unpacking, const void *next, void *c,
    size_t c_stride, tile_mode_t mode)
{
    multiply_strips(rows, a, STEP, a_stride, b, width, k, unpacking, next, c, c_stride, mode);
}

void tiles_fill_amx(kernels_t *kernels)
{
    if (kernels->mode != DTYPE_BF16)
        return;
    kernels->tile_amx = tile_amx;
    kernels->tile_amx_panels = NULL; /* nothing is widened */
    kernels->tile_amx_k_blocked = tile_amx_k_blocked;
    kernels->few_amx_panels = few_amx_panels;
    kernels->amx_begin = amx_begin;
    kernels->amx_end = amx_end;
}
