/* The numeric kernels: one table of functions per numeric mode and instruction set, and the packed
 * layouts.
 *
 * Scalar C defines what is correct; every instruction set gives the same bits (docs/numerics.md).
 * Functions are thread safe and allocate nothing.
 *
 * Element types: a table serves one mode. `element` is the mode's dtype: bf16 held in uint16_t,
 * float, or double. `accumulator` is float in the modes bf16 and f32, double in f64. Pointers are
 * void where their type follows the mode.
 *
 * Packed layout (weights, and K and V of the cache): outputs in panels of KERNEL_PANEL, the last
 * one narrower but a multiple of KERNEL_LANES, missing outputs zero. A panel of `width` outputs
 * over K inputs is
 *
 *   bf16      [K rounded up to even / 2][width][2]   pairs of inputs side by side, as vdpbf16ps
 *                                                    takes them
 *   f32, f64  [K][width]
 *
 * so that SIMD lanes run over outputs and each output is one sequential chain over its inputs.
 *
 * Chains (docs/numerics.md, "Dot product"):
 *
 *   bf16      of each pair of inputs the odd one, then the even one, each one fused multiply-add in
 *             f32, denormal factors and results taken as zero (vdpbf16ps)
 *   bf16 amx  for linear layers (TDPBF16PS): of every 32 inputs, counted from the first of the
 *             call, one chain over the even ones from +0 and one over the odd ones; the sum of the
 *             two is added to the accumulator; denormals are taken as zero in every operation
 *   bf16 fold for linear layers: 64 chains whose inputs are permuted when they are packed; fold.h
 *   f32, f64  ascending fused multiply-adds */
#ifndef CHOIR_KERNELS_H
#define CHOIR_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "engine/kernels/format.h"
#include "engine/kernels/isa.h"

#define KERNEL_PANEL 64 /* outputs of a panel */
/* Number of rows from which products are compute-bound: computing takes longer than reading the
 * weights. Measured for blocks of inputs (matrix.c) and for copies of activations (exchange.c),
 * bench/LOG.md. */
#define KERNEL_MANY_ROWS 32
#define KERNEL_LANES 16   /* a panel's width is a multiple of this */
#define KERNEL_GRANULE 64 /* logits that are summed together */
/* Inputs that the dot product amx adds in one operation, and inputs of a block of the K-blocked
 * layout (K-blocks): [inputs / KERNEL_K_BLOCK][rows][KERNEL_K_BLOCK]. An operation's 16 rows are then one
 * contiguous piece of 1 KiB. */
#define KERNEL_K_BLOCK 32
#define KERNEL_TILE_ROWS 16  /* of a tile instruction */
#define KERNEL_TILE_PANELS 4 /* at most, that a kernel multiplies a row with */
#define KERNEL_MANY_PANELS 8 /* at most, of kernels_t.tile_panels */
/* Inputs of a leaf and of a group of leaves in f32 and f64. Many short sums keep rounding errors
 * small: the f32 logits are nearer to the f64 result than PyTorch's own (docs/parity.md). */
#define KERNEL_LEAF 32
#define KERNEL_GROUP 128

/* What a tile does with the accumulators c. */
typedef enum tile_mode {
    TILE_SET,   /* c = chain from +0 */
    TILE_CHAIN, /* c = chain continued from c */
    TILE_ADD    /* c = c + (chain from +0), one plain addition: the next leaf of a sum */
} tile_mode_t;

/* --dot: how linear layers sum products of bf16. Every CPU can compute both. */
typedef enum dot {
    DOT_CHAIN, /* pair after pair, as vdpbf16ps */
    DOT_AMX,   /* 32 inputs at a time, as TDPBF16PS */
    DOT_AUTO,  /* amx where every rank has AMX, else chain */
    DOT_FOLD   /* 64 chains, folded by halves: with --order torch-avx2, and only there */
} dot_t;

/* Unpacks weights while rows are multiplied with them: those of a product while its first rows pass, and the first ones of the
 * next product into the same place while the last rows pass. */
typedef struct unpacking {
    void (*unpack)(const void *context, size_t k); /* inputs [k, k + KERNEL_K_BLOCK) */
    const void *context, *next_context;
    size_t done; /* inputs that are unpacked already; a multiple of KERNEL_K_BLOCK, as next */
    size_t next; /* inputs of the next product */
} unpacking_t;

typedef struct kernels {
    const char *isa; /* isa_name() of the set that it was made for */
    dtype_t mode;
    size_t element_bytes, accumulator_bytes;
    size_t packed_rows_most; /* rows at most that packed_rows takes; 0: it is NULL */
    size_t packed_row_step,
        packed_row_amx_step; /* panels that packed_rows, of one row, and packed_row_amx read in step */

    /* Products of rows with one panel.
     * a: [rows, k] element, row-major, a_stride elements apart; in bf16 k is even (pad with zero)
     * b: the panel's part for these k inputs: `width` outputs, packed
     * c: [rows, width] accumulator, c_stride apart */
    void (*tile)(size_t rows, const void *a, size_t a_stride, const void *b, size_t width, size_t k,
        void *c, size_t c_stride, tile_mode_t mode);
    /* The same by the dot product amx; mode bf16 only, NULL otherwise. A chain may be continued
     * where its inputs so far are a multiple of 32. */
    void (*tile_amx)(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
        size_t k, void *c, size_t c_stride, tile_mode_t mode);
    /* The same for two or more rows in the K-blocked layout; a_stride: elements from block to
     * block. k: a multiple of KERNEL_K_BLOCK. unpacking: NULL, or what writes b meanwhile. next: what is read soon
     * after b, to be prefetched; NULL: what lies behind it. NULL where no instruction is faster for it: everywhere but
     * with AMX. */
    void (*tile_amx_k_blocked)(size_t rows, const void *a, size_t a_stride, const void *b,
        size_t width, size_t k, const unpacking_t *unpacking, const void *next, void *c,
        size_t c_stride, tile_mode_t mode);
    /* The same by leaves and groups: a chain from +0 for each KERNEL_LEAF inputs, leaves added left
     * to right for each KERNEL_GROUP inputs, groups added left to right; TILE_SET, or TILE_ADD for
     * the next groups of a sum. Modes f32 and f64; NULL in bf16. */
    void (*tile_groups)(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
        size_t k, void *c, size_t c_stride, tile_mode_t mode);
    /* tile and tile_amx of many rows with 1 to KERNEL_MANY_PANELS panels of the same width, for
     * which rows are prepared once; c_panel accumulators from panel to panel in c. NULL where tile
     * and tile_amx prepare nothing. */
    void (*tile_panels)(size_t rows, const void *a, size_t a_stride, size_t n_panels,
        const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,
        tile_mode_t mode);
    void (*tile_amx_panels)(size_t rows, const void *a, size_t a_stride, size_t n_panels,
        const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,
        tile_mode_t mode);
    /* tile_groups of many rows likewise. */
    void (*tile_groups_panels)(size_t rows, const void *a, size_t a_stride, size_t n_panels,
        const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,
        tile_mode_t mode);
    /* tile, tile_amx and tile_groups of one row with 1 to KERNEL_TILE_PANELS panels of the same width, which are
     * read in step, each of them a stream of the memory's. a: [k] element; c: [n_panels][width] accumulator,
     * c_panel apart. NULL: as tile's are, and where a set of instructions has none. */
    void (*row_panels)(const void *a, size_t n_panels, const void *const *b, size_t width, size_t k,
        void *c, size_t c_panel, tile_mode_t mode);
    void (*row_amx_panels)(const void *a, size_t n_panels, const void *const *b, size_t width,
        size_t k, void *c, size_t c_panel, tile_mode_t mode);
    void (*row_groups_panels)(const void *a, size_t n_panels, const void *const *b, size_t width,
        size_t k, void *c, size_t c_panel, tile_mode_t mode);
    /* tile_amx of 2 to KERNEL_MANY_ROWS - 1 rows with 1 to KERNEL_TILE_PANELS panels of the same width, a step of 32 inputs of
     * each in turn, so that they are streams of the memory's; TILE_SET or TILE_CHAIN. c_panel: accumulators from panel
     * to panel. NULL: without AMX. */
    void (*few_amx_panels)(size_t rows, const void *a, size_t a_stride, size_t n_panels,
        const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,
        tile_mode_t mode);
    /* By the dot product fold, of whole rows; mode bf16 only, NULL otherwise. Panels of the same width,
     * 1 to KERNEL_TILE_PANELS, of `inputs` inputs, and rows as fold.h lays them, a_stride elements apart;
     * c_panel accumulators from panel to panel in c. Denormals are kept. */
    void (*tile_fold)(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
        const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel,
        size_t c_stride);
    /* Packed int4 (format.h); mode bf16 only, NULL otherwise. An output of a row is one chain of fused
     * multiply-adds over all inputs from +0, ascending: acc = fma(x, b, acc) with b = fma(code - 8,
     * scale, offset). Denormals count.
     *
     * c = x W^T of few rows with a panel. a: [rows, columns] bf16, a_stride apart; order: where each
     * input lies in a row, NULL: in its place; panel: its start; c: [rows, width], c_stride apart */
    void (*int4_tile)(size_t rows, const uint16_t *a, size_t a_stride, const uint32_t *order,
        const format_t *format, const void *panel, size_t width, size_t columns, float *c,
        size_t c_stride);
    /* int4_tile of one row with 1 to MATRIX_MAX_PANELS panels of the same format and width, by turns, each
     * of them a stream of the memory's. NULL in scalar C. x: [columns]; panels: their starts; c: [n_panels][width],
     * c_panel apart */
    void (*int4_row)(const uint16_t *x, const uint32_t *order, const format_t *format,
        size_t n_panels, const void *const *panels, size_t width, size_t columns, float *c,
        size_t c_panel);
    /* b of `inputs` inputs, whole groups. groups: the first one's start; b: [inputs, width], written
     */
    void (*int4_unpack)(
        const format_t *format, const void *groups, size_t width, size_t inputs, float *b);
    /* FORMAT_CODED as dense bf16: inputs [first, first + inputs) of a panel, even numbers. panel: its start;
     * b: [inputs / 2][width][2]. Mode bf16 only, NULL otherwise. */
    void (*coded_unpack)(const format_t *format, const void *panel, size_t width, size_t first,
        size_t inputs, uint16_t *b);
    /* tile and tile_amx of one row with inputs [first, first + k), both even, of 1 to KERNEL_TILE_PANELS panels of the same
     * format, FORMAT_CODED, and width, which are dequantised in registers; for the dot product amx `first` is a multiple
     * of 32. Mode bf16; NULL in scalar C. x: [k]; panels: their starts; c: [n_panels][width], c_panel apart */
    void (*coded_row)(const format_t *format, const uint16_t *x, size_t n_panels,
        const void *const *panels, size_t width, size_t columns, size_t first, size_t k, float *c,
        size_t c_panel, tile_mode_t mode);
    void (*coded_row_amx)(const format_t *format, const uint16_t *x, size_t n_panels,
        const void *const *panels, size_t width, size_t columns, size_t first, size_t k, float *c,
        size_t c_panel, tile_mode_t mode);
    /* Packed bf16 (format.h); mode bf16 only, NULL otherwise. Inputs [first, first + n) of a whole panel as they
     * lie, both even, to the dense layout. to: [n / 2][KERNEL_PANEL][2] */
    void (*unpack_packed)(const void *panel, size_t first, size_t n, uint16_t *to);
    /* tile of 1 to packed_rows_most rows, and tile_amx of one, with inputs [first, first + k), both even, of 1 to
     * KERNEL_TILE_PANELS whole panels of packed bf16, which are unpacked in registers; for the dot product amx `first` is a
     * multiple of 32. Mode bf16; NULL in scalar C. x: [rows][k], x_stride apart; panels: their starts;
     * c: [n_panels][rows][KERNEL_PANEL], panels c_panel and rows c_stride apart. */
    void (*packed_rows)(size_t rows, const uint16_t *x, size_t x_stride, size_t n_panels,
        const void *const *panels, size_t first, size_t k, float *c, size_t c_panel,
        size_t c_stride, tile_mode_t mode);
    void (*packed_row_amx)(const uint16_t *x, size_t n_panels, const void *const *panels,
        size_t first, size_t k, float *c, size_t c_panel, tile_mode_t mode);
    /* `tile` of the mode f32, for rows that were widened; mode bf16. */
    void (*tile_wide)(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
        size_t k, void *c, size_t c_stride, tile_mode_t mode);

    /* Around many calls of tile_amx by a thread: configures and releases the CPU's tile registers;
     * no other code may use them in between. Optional; no effect without such registers. */
    void (*amx_begin)(void), (*amx_end)(void);

    /* y = R(c + bias); R rounds to the mode once. bias: [width] element or NULL (then nothing is
     * added). y: [rows, width] element, y_stride apart */
    void (*store)(size_t rows, size_t width, const void *c, size_t c_stride, const void *bias,
        void *y, size_t y_stride);
    /* y = R(x + R(c)). x, y: [rows, width] element, stride apart; y may be x */
    void (*store_residual)(size_t rows, size_t width, const void *c, size_t c_stride, const void *x,
        void *y, size_t stride);
    /* y = R(R(silu(R(gate))) * R(up)); silu(g) = g / (1 + exp(-g)). gate, up: [rows, width]
     * accumulator, c_stride apart. y: [rows, width] element, y_stride apart. */
    void (*store_swiglu)(size_t rows, size_t width, const void *gate, const void *up,
        size_t c_stride, void *y, size_t y_stride);
    /* y = c widened to f32 (after R) for bf16, copied otherwise. y: [rows, width] accumulator type
     */
    void (*store_logits)(
        size_t rows, size_t width, const void *c, size_t c_stride, void *y, size_t y_stride);

    /* sum = sum + c, n accumulators */
    void (*add)(size_t n, const void *c, void *sum);
    /* sum = sum + x, x: [n] element, sum: [n] accumulators */
    void (*add_elements)(size_t n, const void *x, void *sum);

    /* RMSNorm of rows (Zhang & Sennrich 2019; transformers' Qwen2RMSNorm): y = R(w * R(x /
     * sqrt(mean(x^2) + eps))), the mean in the order of pytorch-orders.md section 3.
     * x: [rows, n] element, x_stride apart; w: [n] element; y: like x, y_stride apart, may be x */
    void (*rms_norm)(size_t rows, size_t n, const void *x, size_t x_stride, const void *w,
        double eps, void *y, size_t y_stride);

    /* Rotary embedding of a row's heads (Su et al. 2021, transformers' apply_rotary_pos_emb), in
     * place:
     *   x[i]        = R(R(x[i] cos[i]) + R(-x[i + half] sin[i]))
     *   x[i + half] = R(R(x[i + half] cos[i]) + R(x[i] sin[i]))
     * x: [heads, 2 half] element; cos, sin: [half] accumulator, already rounded to the mode */
    void (*rope)(size_t heads, size_t half, const void *cos, const void *sin, void *x);

    /* Scores of eager attention: s = R(R(c) * scale). c: [n] accumulator, s: [n] element */
    void (*scale_scores)(size_t n, const void *c, double scale, void *s);
    /* Softmax of eager attention over the n kept keys of one row, in place: p = R(exp(s - max) *
     * (1 / sum)). n_lanes: sum in 16 or 8 lanes by index and fold by halves; 1: left to right.
     * s: [n] element; scratch: [n] accumulator */
    void (*softmax)(size_t n, size_t n_lanes, void *s, void *scratch);
    /* Products of eager attention with --order torch-avx2, rows and panels in the dense layout; mode
     * bf16 only, NULL otherwise. Scores by the dot product fold of k inputs, k even: c is set. */
    void (*fold_scores)(size_t rows, const uint16_t *a, size_t a_stride, const void *b,
        size_t width, size_t k, float *c, size_t c_stride);
    /* Outputs, in four chains: the first n_interleaved inputs, any number, to chain k mod 4, the others to
     * chain 0. k: even. c: [rows][4][width], rows c_stride apart, continued */
    void (*interleaved_outputs)(size_t rows, const uint16_t *a, size_t a_stride, const void *b,
        size_t width, size_t k, size_t n_interleaved, float *c, size_t c_stride);

    /* x = exp(x) in f64, n of them, in every mode: SLEEF's exp of 1 ulp without fused multiply-add;
     * exp(0) is 1 */
    void (*exp_f64)(size_t n, double *x);

    /* Of each KERNEL_GRANULE logits (the last ones may be fewer): the largest, and the sum of
     * exp(logit - largest) in f64, ascending, by the exp above; what equals the largest adds 1,
     * also infinities, and a NaN is minus infinity. x: [n]; granules: written. Modes bf16 and f32;
     * NULL in f64 */
    void (*sum_granules)(size_t n, const float *x, double (*granules)[2]);

    /* The sdpa order's own (docs/pytorch-orders.md, "SDPA"); mode bf16 only, NULL otherwise. Its
     * chains run even input first, so the two inputs of every pair lie swapped in rows (input i at
     * i ^ 1) and panels; then `tile` is this order's chain. */

    /* Scores of query rows with the first `keys` (1 to KERNEL_PANEL) of a panel of KERNEL_PANEL
     * keys, in n_lanes (4 or 8) lanes over the inputs, folded by halves. q: [rows, inputs] f32 of
     * bf16 values, not swapped; inputs: a multiple of 8; scores: [rows, KERNEL_PANEL] f32, stride
     * apart; beyond `keys` they may hold anything */
    void (*sdpa_scores)(size_t rows, size_t keys, size_t inputs, const float *q, const void *panel,
        size_t n_lanes, float *scores, size_t stride);
    /* Exponentials of some rows and one key block, of whose n_block keys the first n_kept are not
     * masked. n_lanes: 16, or 8 with --order torch-avx2: of the vectors that take the fast exponential,
     * and that are added alternately to two sums. max: [rows] their maxima so far, updated; sum: [rows] sums of the exponentials;
     * scores: [rows, n_block] f32, overwritten with the n_kept exponentials as rounded; weights:
     * [rows, n_written] bf16 swapped, n_written >= n_kept and even: the same, then zeros; or NULL.
     * Rows of both are stride apart, with room for a multiple of 16 */
    void (*sdpa_weights)(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block,
        size_t n_written, float scale, float *max, float *sum, float *scores, uint16_t *weights,
        size_t stride);
    /* out += weights * values, single rows (M = 1): keys in fours.
     * keys: a multiple of 4; weights: [rows, keys] f32 of bf16 values, not swapped, stride apart;
     * panel: of width outputs; out: [rows, width] f32, out_stride apart */
    void (*sdpa_outputs)(size_t rows, size_t keys, const float *weights, size_t stride,
        const void *panel, size_t width, float *out, size_t out_stride);
    /* The same for one key of the panel, whose weights stand at [row, key]. */
    void (*sdpa_output_key)(size_t rows, size_t key, const float *weights, size_t stride,
        const void *panel, size_t width, float *out, size_t out_stride);
    /* out *= factor; out: [n] f32 */
    void (*sdpa_scale)(size_t n, float factor, void *out);
    /* y = R(out * factor); y: [n] bf16 */
    void (*sdpa_store)(size_t n, const void *out, float factor, void *y);
} kernels_t;

/* Fills the table of a mode (DTYPE_BF16, DTYPE_F32 or DTYPE_F64) with the kernels that need no more
 * than isa, which the CPU has. */
void kernels_get(kernels_t *kernels, isa_t isa, dtype_t mode);

#if defined(__x86_64__)
/* For tests: those of ISA_AVX512_BF16, which the CPU has, and of DTYPE_BF16 with vdpbf16ps for any number of rows,
 * also where kernels_get takes fused multiply-adds as the faster ones. */
void kernels_get_dot_product(kernels_t *kernels);
#endif

/* What some runs use and others do not. */
enum {
    KERNELS_AMX = 1,  /* the dot product amx */
    KERNELS_FOLD = 2, /* the order torch-avx2 */
    KERNELS_QUANTISED = 4,
    KERNELS_PACKED = 8,
    KERNELS_ALL = 15
};

/* Compares a table with scalar on random, odd-shaped and cancelling data, 5 to 20 ms: the kernels of every run,
 * and those of uses, KERNELS_... or'ed. FAIL_INTERNAL names the kernel that differs. */
int kernels_self_test(const kernels_t *kernels, unsigned uses, fail_t *fail);

/* ---- Packed matrices ------------------------------------------------------------------------- */

/* A share of a weight matrix: y = x W^T + bias for `rows` outputs over `columns` inputs. */
typedef struct matrix {
    const format_t *format;
    size_t rows, columns;
    size_t bytes; /* of panels */
    void *panels; /* packed */
    void *bias;   /* [rows rounded up to KERNEL_LANES] element, or NULL */
    /* Of int4: [rows], added in f32 after the sum's rounding, in place of bias, or NULL. */
    const float *late_bias;
    /* Of int4: [columns] where the i-th input of the chain lies in a row, NULL: at i; and which column
     * of the checkpoint it is, as in coded_rows_t. They differ where rows are permuted (fold.h). */
    const uint32_t *order, *code_order;
} matrix_t;

/* The layout of a linear layer's weights. packed: without loss in fewer bytes, in mode bf16 */
const format_t *matrix_format(dtype_t mode, dot_t dot, bool packed);

/* Inputs rounded up as packed: even for bf16. */
static inline size_t kernel_padded_inputs(dtype_t mode, size_t inputs)
{
    return mode == DTYPE_BF16 ? (inputs + 1) / 2 * 2 : inputs;
}

static inline size_t kernel_padded_outputs(size_t outputs)
{
    return (outputs + KERNEL_LANES - 1) / KERNEL_LANES * KERNEL_LANES;
}

static inline size_t matrix_n_panels(const matrix_t *matrix)
{
    return (matrix->rows + KERNEL_PANEL - 1) / KERNEL_PANEL;
}

/* Outputs of panel p, padding included. */
static inline size_t matrix_panel_width(const matrix_t *matrix, size_t p)
{
    size_t left = kernel_padded_outputs(matrix->rows) - p * KERNEL_PANEL;
    return left < KERNEL_PANEL ? left : KERNEL_PANEL;
}

/* Where input k of panel p begins. */
const void *matrix_panel(const matrix_t *matrix, size_t p, size_t k);

/* ---- The dense layout -------------------------------------------------------------------------- */

/* Packs row-major rows into a panel whose outputs begin at first_output of the panel.
 * src: [rows, columns] element; panel: the panel's start; padding stays as it is (zero). */
void panel_pack_rows(dtype_t mode, size_t rows, size_t columns, const void *src, void *panel,
    size_t width, size_t first_output);
/* The inverse of panel_pack_rows for one output. dst: [columns] element */
void panel_unpack_row(
    dtype_t mode, size_t columns, const void *panel, size_t width, size_t output, void *dst);
/* Writes input k of `outputs` outputs: x [outputs] element. In bf16, when k is even, its partner k
 * + 1 becomes zero, and with swapped the two change places. */
void panel_pack_input(
    dtype_t mode, bool swapped, size_t outputs, const void *x, void *panel, size_t width, size_t k);
/* Swaps the two inputs of every pair of a bf16 row. x: [n], n even */
void row_swap_pairs(size_t n, uint16_t *x);

/* A panel of a matrix. */
typedef struct panel {
    const matrix_t *matrix;
    size_t p;
} panel_t;

/* Rows that are multiplied; the first n_single_rows of n are single rows (M = 1), whose order may differ.
 * x: [n, columns] element, padding inputs zero: row-major, stride elements apart, or K-blocked,
 * with stride elements from block to block. */
typedef struct matrix_rows {
    const void *x;
    size_t stride;
    bool k_blocked; /* only for DOT_AMX and kernels that have tile_amx_k_blocked */
    size_t n, n_single_rows;
} matrix_rows_t;

/* c = x W^T of n_panels panels, of matrices with the same columns, for a batch of rows in two
 * classes: single rows sum in leaves of leaf_single inputs, the others in leaves of leaf_rows; leaves
 * are added left to right. (f32 and f64: by leaves and groups, kernels_t.tile_groups.) A leaf of
 * MATRIX_ONE_LEAF is the whole row. One pass over the panels.
 * dot: DOT_AMX and DOT_FOLD in mode bf16 only; with DOT_FOLD rows and panels are laid as in fold.h, and
 * there are no leaves. c: [n_panels][n rows, KERNEL_PANEL] accumulator. The larger leaf
 * is a multiple of the smaller. scratch: matrix_scratch_bytes, 64-byte aligned, or NULL. */
#define MATRIX_ONE_LEAF SIZE_MAX
#define MATRIX_MAX_PANELS 16
void matrix_product(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n_panels,
    const matrix_rows_t *rows, size_t leaf_single, size_t leaf_rows, void *scratch, void *c);

/* Bytes of scratch of matrix_product for panels of so many inputs; 0: none. */
size_t matrix_scratch_bytes(const format_t *format, size_t columns);

/* Whether this number of rows is multiplied faster in the K-blocked layout. */
bool matrix_wants_k_blocked(const kernels_t *kernels, dot_t dot, size_t n_rows, size_t columns);

/* Writes n bf16 rows into the K-blocked layout at row first_row.
 * src: [n, columns], src_stride apart; columns: a multiple of KERNEL_K_BLOCK; k_blocked: k_block_stride
 * elements from block to block */
void k_blocks_pack_rows(size_t n, size_t columns, const uint16_t *src, size_t src_stride,
    uint16_t *k_blocked, size_t k_block_stride, size_t first_row);

/* Panels that so many rows read in step, as streams of the memory's, while their sums stay in the first-level cache: they cost
 * less if a thread takes them at once (team_take). 1: of many rows. */
size_t matrix_panels_in_step(size_t n_rows);

/* Panels per block of inputs for large M. */
size_t matrix_panels_together(const kernels_t *kernels, dot_t dot);

#endif
