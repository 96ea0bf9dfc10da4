/* The product of rows with panels: the same for every instruction set. */
#include <string.h>

#include "engine/base/size.h"
#include "engine/base/team.h"
#include "engine/kernels/fold.h"
#include "engine/kernels/kernels_internal.h"
#include "engine/kernels/packed.h"
#include "engine/kernels/tiles.h"

/* Inputs of a block of a panel: as many as the largest leaf of the orders, and few enough for the
 * block (64 outputs x 1,024 inputs in bf16: 128 KiB) to stay in L2 while all rows use it. */
#define BLOCK_INPUTS 1024
/* Smaller blocks for many rows, which need the block in L1: where tile instructions would wait for
 * L2 (512 rows: 256 inputs are 1.3 times as fast as 1,024), and where elements are wide. */
#define BLOCK_BYTES_NEAR (32 * 1024)
/* Of weights that are unpacked for few rows in one leaf: a block stays in the first-level cache. */
#define UNPACKED_INPUTS 128

const void *matrix_panel(const matrix_t *matrix, size_t p, size_t k)
{
    return (const char *)matrix->panels + matrix->format->offset(matrix->format, matrix->columns,
                                              matrix_panel_width(matrix, p), p, k);
}

const format_t *matrix_format(dtype_t mode, dot_t dot, bool packed)
{
    const format_t *dense = dot == DOT_FOLD ? format_fold() : format_dense(mode);
    return packed && mode == DTYPE_BF16 ? format_packed(dense) : dense;
}

void row_swap_pairs(size_t n, uint16_t *x)
{
    for (size_t i = 0; i < n; i += 2) {
        uint16_t even = x[i];
        x[i] = x[i + 1];
        x[i + 1] = even;
    }
}

bool matrix_wants_k_blocked(const kernels_t *kernels, dot_t dot, size_t n_rows, size_t columns)
{
    return dot == DOT_AMX && kernels->tile_amx_k_blocked != NULL && n_rows >= KERNEL_MANY_ROWS &&
           columns % KERNEL_K_BLOCK == 0;
}

void k_blocks_pack_rows(size_t n, size_t columns, const uint16_t *src, size_t src_stride,
    uint16_t *k_blocked, size_t k_block_stride, size_t first_row)
{
    for (size_t i = 0; i < columns; i += KERNEL_K_BLOCK) {
        uint16_t *to = k_blocked + i / KERNEL_K_BLOCK * k_block_stride + first_row * KERNEL_K_BLOCK;
        for (size_t r = 0; r < n; r++)
            memcpy(to + r * KERNEL_K_BLOCK, src + r * src_stride + i, KERNEL_K_BLOCK * sizeof *src);
    }
}

/* Blocks of inputs of panels that are dequantised or unpacked, as dense bf16; what a slot holds. */
typedef struct unpacked {
    struct {
        const matrix_t *matrix;
        size_t p, k0, inputs;
    } of[KERNEL_MANY_PANELS];
    uint16_t weights[KERNEL_MANY_PANELS][BLOCK_INPUTS * KERNEL_PANEL] __attribute__((aligned(64)));
} unpacked_t;

/* The arguments of matrix_product. */
typedef struct call {
    const kernels_t *kernels;
    dot_t dot;
    const matrix_rows_t *rows;
    size_t n_single_rows, leaf_single, leaf_rows, inputs;
    unpacked_t *unpacked; /* NULL: of dense formats */
} call_t;

/* Inputs [k0, k0 + block) of a panel, as dense bf16. */
static void unpack_inputs(
    const kernels_t *kernels, const panel_t *panel, size_t k0, size_t block, uint16_t *to)
{
    const matrix_t *matrix = panel->matrix;
    const void *from = matrix_panel(matrix, panel->p, 0);
    if (matrix->format->kind == FORMAT_CODED)
        kernels->coded_unpack(
            matrix->format, from, matrix_panel_width(matrix, panel->p), k0, block, to);
    else
        kernels->unpack_packed(from, k0, block, to);
}

/* How many inputs of a panel from k0 on a slot holds; and what it holds from now on. */
static size_t held(const unpacked_t *unpacked, size_t slot, const panel_t *panel, size_t k0)
{
    return unpacked->of[slot].matrix == panel->matrix && unpacked->of[slot].p == panel->p &&
                   unpacked->of[slot].k0 == k0
               ? unpacked->of[slot].inputs
               : 0;
}

static void hold(unpacked_t *unpacked, size_t slot, const panel_t *panel, size_t k0, size_t inputs)
{
    unpacked->of[slot].matrix = panel->matrix;
    unpacked->of[slot].p = panel->p;
    unpacked->of[slot].k0 = k0;
    unpacked->of[slot].inputs = inputs;
}

/* Whether a panel's weights are dequantised or unpacked before they are multiplied. */
static bool is_unpacked(const call_t *y, const panel_t *panel)
{
    return y->unpacked != NULL &&
           (panel->matrix->format->kind != FORMAT_PACKED || panel_is_packed(panel));
}

/* Inputs [k0, k0 + block) of panel i of those that are multiplied together. */
static const char *weights_of(
    const call_t *y, const panel_t *panel, size_t i, size_t k0, size_t block)
{
    if (!is_unpacked(y, panel))
        return matrix_panel(panel->matrix, panel->p, k0);
    const size_t slot = i % KERNEL_MANY_PANELS;
    uint16_t *weights = y->unpacked->weights[slot];
    if (held(y->unpacked, slot, panel, k0) < block) {
        unpack_inputs(y->kernels, panel, k0, block, weights);
        hold(y->unpacked, slot, panel, k0, block);
    }
    return (const char *)weights;
}

/* While inputs [k0, k0 + block) of panel i of n are multiplied, what is prefetched: weights of the panel after the next, of
 * these inputs or of the next ones; after the last inputs, of the panels that lie behind these. NULL: where no panel does. */
static const void *weights_ahead(
    const call_t *y, const panel_t *panels, size_t i, size_t n, size_t k0, size_t block)
{
    enum { PANELS_AHEAD = 2 };
    const size_t at = i + PANELS_AHEAD;
    const matrix_t *matrix = panels[at % n].matrix;
    size_t p = panels[at % n].p, k = k0 + at / n * block;
    if (k >= y->inputs) {
        k = 0;
        for (size_t j = 0; j < n; j++)
            p += panels[j].matrix == matrix;
    }
    return p < matrix_n_panels(matrix) ? matrix_panel(matrix, p, k) : NULL;
}

/* Input k of a row; in the K-blocked layout k is the first of a block. */
static const char *input_at(const call_t *y, size_t row, size_t k)
{
    const matrix_rows_t *rows = y->rows;
    size_t at = rows->k_blocked ? k / KERNEL_K_BLOCK * rows->stride + row * KERNEL_K_BLOCK
                                : row * rows->stride + k;
    return (const char *)rows->x + at * y->kernels->element_bytes;
}

#define LINE_BYTES 64
#define CHUNK_ROWS 24 /* whole register tiles */

static void prefetch(const char *from, size_t bytes)
{
    enum { SECOND_LEVEL = 2 };
    for (size_t i = 0; i < bytes; i += LINE_BYTES)
        __builtin_prefetch(from + i, 0, SECOND_LEVEL);
}

/* Many rows of wide elements: while a chunk of them is multiplied, its share of the next block of
 * inputs is prefetched from L3, and that of the panel's next weights from memory. Of the panels
 * that use a block of inputs, the i-th of n prefetches its part of the rows. */
static void multiply_chunks(const call_t *y, const char *x, const char *weights, size_t width,
    size_t block, size_t rows, size_t i, size_t n, char *to, tile_mode_t mode)
{
    const kernels_t *kernels = y->kernels;
    size_t element = kernels->element_bytes, x_row = y->rows->stride * element;
    const char *next_x = x + block * element, *next_weights = weights + block * width * element;
    for (size_t r = 0; r < rows; r += CHUNK_ROWS) {
        size_t chunk = size_min(CHUNK_ROWS, rows - r);
        team_part_t mine = team_part(chunk, i, n);
        for (size_t q = r + mine.begin; q < r + mine.end; q++)
            prefetch(next_x + q * x_row, block * element);
        size_t share = block * width * element / rows * chunk;
        prefetch(next_weights + r * (share / chunk), share);
        kernels->tile_groups(chunk, x + r * x_row, y->rows->stride, weights, width, block,
            to + r * KERNEL_PANEL * kernels->accumulator_bytes, KERNEL_PANEL, mode);
    }
}

/* Rows that sum in leaves of the same length. */
typedef struct rows_class {
    size_t first, n, leaf;
} rows_class_t;

/* Accumulators of a panel's results. */
static size_t panel_elements(const call_t *y)
{
    return y->rows->n * KERNEL_PANEL;
}

/* Of the first leaf of a block that begins at input k0. */
static tile_mode_t first_mode(size_t k0, size_t leaf)
{
    return k0 == 0 ? TILE_SET : leaf == MATRIX_ONE_LEAF ? TILE_CHAIN : TILE_ADD;
}

/* A panel's inputs from k0 on, and where they go. */
typedef struct unpack_to {
    const kernels_t *kernels;
    const panel_t *panel;
    size_t k0;
    uint16_t *to;
} unpack_to_t;

static void unpack_step(const void *context, size_t k)
{
    const unpack_to_t *u = context;
    unpack_inputs(u->kernels, u->panel, u->k0 + k, KERNEL_K_BLOCK,
        u->to + k * matrix_panel_width(u->panel->matrix, u->panel->p));
}

/* multiply_rows of the K-blocked layout. Panels share a slot, which stays in the first-level cache; half of the next panel's
 * weights are unpacked there while the last rows pass. */
static void multiply_k_blocked(const call_t *y, const panel_t *panels, size_t k0, size_t block,
    rows_class_t class, size_t i, size_t n, char *to)
{
    const panel_t *panel = &panels[i], *next = &panels[(i + 1) % n];
    const size_t width = matrix_panel_width(panel->matrix, panel->p),
                 next_k0 = k0 + (i + 1) / n * block;
    const bool unpacks = is_unpacked(y, panel);
    unpack_to_t these = {y->kernels, panel, k0, NULL}, those = {y->kernels, next, next_k0, NULL};
    unpacking_t unpacking = {unpack_step, &these, &those, 0, 0};
    if (unpacks) {
        these.to = those.to = y->unpacked->weights[0];
        unpacking.done = held(y->unpacked, 0, panel, k0);
        if (next_k0 < y->inputs && is_unpacked(y, next) &&
            matrix_panel_width(next->matrix, next->p) == width)
            unpacking.next =
                size_min(block, y->inputs - next_k0) / 2 / KERNEL_K_BLOCK * KERNEL_K_BLOCK;
        hold(y->unpacked, 0, next, next_k0, unpacking.next);
    }
    y->kernels->tile_amx_k_blocked(class.n, input_at(y, class.first, k0), y->rows->stride,
        unpacks ? these.to : matrix_panel(panel->matrix, panel->p, k0), width, block,
        unpacks ? &unpacking : NULL, weights_ahead(y, panels, i, n, k0, block), to, KERNEL_PANEL,
        first_mode(k0, class.leaf));
}

/* Rows of one class over inputs [k0, k0 + block) of panel i of n that use the block. */
static void multiply_rows(const call_t *y, const panel_t *panels, size_t k0, size_t block,
    rows_class_t class, size_t i, size_t n, char *c)
{
    const panel_t *panel = &panels[i];
    size_t rows = class.n, leaf = class.leaf;
    const kernels_t *kernels = y->kernels;
    const matrix_t *matrix = panel->matrix;
    size_t width = matrix_panel_width(matrix, panel->p), element = kernels->element_bytes;
    const char *x = input_at(y, class.first, k0);
    char *to = c + class.first * KERNEL_PANEL * kernels->accumulator_bytes;
    tile_mode_t first = first_mode(k0, leaf);
    if (y->rows->k_blocked) {
        multiply_k_blocked(y, panels, k0, block, class, i, n, to);
        return;
    }
    const char *weights = weights_of(y, panel, i, k0, block);
    if (kernels->tile_groups != NULL) {
        if (rows >= KERNEL_MANY_ROWS)
            multiply_chunks(y, x, weights, width, block, rows, i, n, to, first);
        else
            kernels->tile_groups(
                rows, x, y->rows->stride, weights, width, block, to, KERNEL_PANEL, first);
        return;
    }
    for (size_t k = 0; k < block; k += size_min(leaf, block))
        (y->dot == DOT_AMX ? kernels->tile_amx : kernels->tile)(rows, x + k * element,
            y->rows->stride, weights + k * width * element, width, size_min(leaf, block - k), to,
            KERNEL_PANEL, k == 0 ? first : TILE_ADD);
}

typedef void tile_panels_t(size_t rows, const void *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t k, void *c, size_t c_panel, size_t c_stride,
    tile_mode_t mode);

/* The kernel that multiplies rows with several panels; NULL where there is none. */
static tile_panels_t *tile_panels(const kernels_t *kernels, dot_t dot)
{
    return kernels->tile_groups != NULL ? kernels->tile_groups_panels
           : dot == DOT_AMX             ? kernels->tile_amx_panels
                                        : kernels->tile_panels;
}

size_t panels_of_a_width(const panel_t *panels, size_t n)
{
    size_t same = 1, width = matrix_panel_width(panels[0].matrix, panels[0].p);
    while (same < n && matrix_panel_width(panels[same].matrix, panels[same].p) == width)
        same++;
    return same;
}

/* Many rows of one class and panels of the same width. */
static void multiply_together(const call_t *y, const panel_t *panels, size_t n, size_t k0,
    size_t block, rows_class_t class, float *c)
{
    size_t width = matrix_panel_width(panels[0].matrix, panels[0].p), c_panel = panel_elements(y);
    const void *weights[KERNEL_MANY_PANELS];
    tile_mode_t mode = first_mode(k0, class.leaf);
    /* Tiles that sum in groups have leaves of their own. */
    size_t leaf = y->kernels->tile_groups != NULL ? block : size_min(class.leaf, block);
    for (size_t k = 0; k < block; k += leaf, mode = TILE_ADD) {
        for (size_t i = 0; i < n; i++)
            weights[i] =
                weights_of(y, &panels[i], i, k0, block) + k * width * y->kernels->element_bytes;
        tile_panels(y->kernels, y->dot)(class.n, input_at(y, class.first, k0 + k), y->rows->stride,
            n, weights, width, size_min(leaf, block - k), c + class.first * KERNEL_PANEL, c_panel,
            KERNEL_PANEL, mode);
    }
}

typedef void row_panels_t(const void *a, size_t n_panels, const void *const *b, size_t width,
    size_t k, void *c, size_t c_panel, tile_mode_t mode);

/* The kernel that multiplies the one row of a call with several panels as they lie in memory; NULL where there
 * is none, and for weights that are unpacked. */
static row_panels_t *row_panels(const call_t *y)
{
    const kernels_t *kernels = y->kernels;
    if (y->rows->n != 1 || y->unpacked != NULL)
        return NULL;
    return kernels->tile_groups != NULL ? kernels->row_groups_panels
           : y->dot == DOT_AMX          ? kernels->row_amx_panels
                                        : kernels->row_panels;
}

/* One row with panels of the same width. */
static void multiply_row(const call_t *y, const panel_t *panels, size_t n, size_t leaf, char *c)
{
    const kernels_t *kernels = y->kernels;
    size_t width = matrix_panel_width(panels[0].matrix, panels[0].p);
    const void *weights[KERNEL_TILE_PANELS];
    if (kernels->tile_groups != NULL) /* has leaves of its own */
        leaf = MATRIX_ONE_LEAF;
    for (size_t k = 0; k < y->inputs; k += size_min(leaf, y->inputs)) {
        for (size_t i = 0; i < n; i++)
            weights[i] = matrix_panel(panels[i].matrix, panels[i].p, k);
        row_panels(y)(input_at(y, 0, k), n, weights, width, size_min(leaf, y->inputs - k), c,
            panel_elements(y), first_mode(k, leaf));
    }
}

/* Whether the rows are few enough for tile instructions to take several panels in step, as they lie in memory. */
static bool takes_few_in_step(const call_t *y)
{
    return y->dot == DOT_AMX && y->kernels->few_amx_panels != NULL && y->unpacked == NULL &&
           !y->rows->k_blocked && y->rows->n > 1 && y->rows->n < KERNEL_MANY_ROWS &&
           y->leaf_rows == MATRIX_ONE_LEAF;
}

/* Panels of the same width. */
static void multiply_few(const call_t *y, const panel_t *panels, size_t n, float *c)
{
    const void *weights[KERNEL_TILE_PANELS];
    for (size_t i = 0; i < n; i++)
        weights[i] = matrix_panel(panels[i].matrix, panels[i].p, 0);
    y->kernels->few_amx_panels(y->rows->n, y->rows->x, y->rows->stride, n, weights,
        matrix_panel_width(panels[0].matrix, panels[0].p), y->inputs, c, panel_elements(y),
        KERNEL_PANEL, TILE_SET);
}

/* A block of inputs of some panels with the rows of one class. */
static void multiply_class(const call_t *y, const panel_t *panels, size_t n, size_t k0,
    size_t block, rows_class_t class, char *c)
{
    size_t panel_bytes = panel_elements(y) * y->kernels->accumulator_bytes;
    bool together = class.n >= KERNEL_MANY_ROWS && !y->rows->k_blocked &&
                    tile_panels(y->kernels, y->dot) != NULL;
    for (size_t i = 0, m; i<n &&class.n> 0; i += m) {
        m = together ? panels_of_a_width(panels + i, size_min(n - i, KERNEL_MANY_PANELS)) : 1;
        if (together)
            multiply_together(
                y, panels + i, m, k0, block, class, (float *)(void *)(c + i * panel_bytes));
        else
            multiply_rows(y, panels, k0, block, class, i, n, c + i * panel_bytes);
    }
}

size_t matrix_panels_in_step(size_t n_rows)
{
    if (n_rows >= KERNEL_MANY_ROWS)
        return 1;
    return n_rows > KERNEL_TILE_ROWS ? KERNEL_TILE_PANELS / 2 : KERNEL_TILE_PANELS;
}

size_t matrix_panels_together(const kernels_t *kernels, dot_t dot)
{
    /* Rows come from L3, which would delay tile instructions and wide elements, or are widened; a
     * block of rows serves several panels. */
    if (tile_panels(kernels, dot) != NULL)
        return KERNEL_MANY_PANELS;
    return kernels->mode != DTYPE_BF16 || dot != DOT_CHAIN ? KERNEL_TILE_PANELS : 1;
}

/* Inputs of a block; whole groups of leaves. */
static size_t block_inputs(const call_t *y)
{
    bool wide = y->kernels->mode != DTYPE_BF16;
    if (y->unpacked != NULL && y->rows->n < KERNEL_MANY_ROWS)
        return y->leaf_single == MATRIX_ONE_LEAF ? UNPACKED_INPUTS
               : y->n_single_rows == y->rows->n  ? y->leaf_single
                                                 : BLOCK_INPUTS;
    /* Weights that only one row uses need not stay in a cache. */
    if (y->rows->n == 1 && y->leaf_single == MATRIX_ONE_LEAF)
        return y->inputs;
    if (y->rows->n < KERNEL_MANY_ROWS || (!wide && y->dot != DOT_AMX))
        return BLOCK_INPUTS;
    if (wide && y->kernels->tile_groups_panels != NULL) /* has blocks of its own */
        return y->inputs;
    size_t near = BLOCK_BYTES_NEAR / (KERNEL_PANEL * y->kernels->element_bytes);
    return wide ? size_max(near / KERNEL_GROUP * KERNEL_GROUP, KERNEL_GROUP) : near;
}

static void dense_product(const kernels_t *kernels, dot_t dot, const panel_t *panels,
    size_t n_panels, const matrix_rows_t *rows, size_t leaf_single, size_t leaf_rows,
    unpacked_t *unpacked, void *c)
{
    const call_t y = {.kernels = kernels,
        .dot = dot,
        .rows = rows,
        .n_single_rows = leaf_single == leaf_rows ? 0 : rows->n_single_rows, /* else one class */
        .leaf_single = leaf_single,
        .leaf_rows = leaf_rows,
        .inputs = kernel_padded_inputs(kernels->mode, panels[0].matrix->columns),
        .unpacked = unpacked};
    const rows_class_t single_row = {0, y.n_single_rows, leaf_single},
                       others = {y.n_single_rows, rows->n - y.n_single_rows, leaf_rows};
    size_t panel_bytes = panel_elements(&y) * kernels->accumulator_bytes;
    if (row_panels(&y) != NULL) {
        for (size_t first = 0, n; first < n_panels; first += n) {
            n = panels_of_a_width(panels + first, size_min(n_panels - first, panels_in_step()));
            multiply_row(&y, panels + first, n, single_row.n == 1 ? leaf_single : leaf_rows,
                (char *)c + first * panel_bytes);
        }
        return;
    }
    if (takes_few_in_step(&y)) {
        for (size_t first = 0, n; first < n_panels; first += n) {
            n = panels_of_a_width(
                panels + first, size_min(n_panels - first, matrix_panels_in_step(rows->n)));
            multiply_few(&y, panels + first, n, (float *)c + first * panel_elements(&y));
        }
        return;
    }
    /* Few rows: panel after panel, in the order of memory. */
    size_t together = rows->n < KERNEL_MANY_ROWS ? 1 : n_panels, block = block_inputs(&y);
    for (size_t first = 0; first < n_panels; first += together)
        for (size_t k0 = 0; k0 < y.inputs; k0 += block) {
            char *to = (char *)c + first * panel_bytes;
            size_t n = size_min(block, y.inputs - k0);
            multiply_class(&y, panels + first, together, k0, n, single_row, to);
            multiply_class(&y, panels + first, together, k0, n, others, to);
        }
}

/* Panels whose weights are dequantised or unpacked a block at a time. */
static void unpacked_product(const kernels_t *kernels, dot_t dot, const panel_t *panels,
    size_t n_panels, const matrix_rows_t *rows, size_t leaf_single, size_t leaf_rows, float *c)
{
    unpacked_t unpacked;
    if (rows->n_single_rows == rows->n || rows->n_single_rows == 0 || leaf_single == leaf_rows) {
        size_t done = rows_product(kernels, dot, panels, n_panels, rows,
            rows->n_single_rows > 0 ? leaf_single : leaf_rows, c);
        panels += done;
        n_panels -= done;
        c += done * rows->n * KERNEL_PANEL;
    }
    if (n_panels == 0)
        return;
    for (size_t i = 0; i < KERNEL_MANY_PANELS; i++)
        unpacked.of[i].matrix = NULL;
    dense_product(kernels, dot, panels, n_panels, rows, leaf_single, leaf_rows, &unpacked, c);
}

void matrix_product(const kernels_t *kernels, dot_t dot, const panel_t *panels, size_t n_panels,
    const matrix_rows_t *rows, size_t leaf_single, size_t leaf_rows, void *scratch, void *c)
{
    size_t panel_bytes = rows->n * KERNEL_PANEL * kernels->accumulator_bytes;
    for (size_t p = 0, n; p < n_panels; p += n) {
        format_kind_t kind = panels[p].matrix->format->kind;
        void *to = (char *)c + p * panel_bytes;
        for (n = 1; p + n < n_panels && panels[p + n].matrix->format->kind == kind;)
            n++;
        if (kind == FORMAT_INT4)
            int4_product(kernels, panels + p, n, rows, to);
        else if (dot == DOT_FOLD)
            fold_product(kernels, panels + p, n, rows, scratch, to);
        else if (kind != FORMAT_DENSE)
            unpacked_product(kernels, dot, panels + p, n, rows, leaf_single, leaf_rows, to);
        else
            dense_product(kernels, dot, panels + p, n, rows, leaf_single, leaf_rows, NULL, to);
    }
}
