/* Packed bf16: every value in every place, sizes, and products of every instruction set against dense ones. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kernels/fold.h"
#include "engine/kernels/kernel_list.h"
#include "engine/kernels/kernels.h"
#include "sharding/checkpoint/checkpoint.h"

#define PAIR (2 * KERNEL_PANEL) /* weights of a pair of inputs of a panel */

static const isa_t isas[] = {ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_AVX512_BF16, ISA_AMX};

#define N_ISAS (sizeof isas / sizeof *isas)

static const format_t *plain(void)
{
    return format_packed(format_dense(DTYPE_BF16));
}

/* Normal numbers of Box and Muller. */
static void fill_normal(double scale, uint64_t seed, size_t n, uint16_t *x)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (size_t i = 0; i < n; i++) {
        double u[2];
        for (int j = 0; j < 2; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            u[j] = ((double)(state >> 11) + 0.5) / 9007199254740992.0;
        }
        x[i] = bf16_from_f32((float)(scale * sqrt(-2 * log(u[0])) * cos(6.283185307179586 * u[1])));
    }
}

typedef struct packed {
    matrix_t dense, packed;
    spill_t spill;
    char *of_spill, *scratch;
} packed_t;

/* The same rows in both formats. w: [rows, columns] */
static packed_t pack(const format_t *dense, size_t rows, size_t columns, const uint16_t *w)
{
    fail_t fail = {0};
    packed_t p = {.dense = {.format = dense, .rows = rows, .columns = columns},
        .packed = {.format = format_packed(dense), .rows = rows, .columns = columns}};
    matrix_t *both[] = {&p.dense, &p.packed};
    for (size_t i = 0; i < 2; i++) {
        both[i]->bytes = format_matrix_bytes(both[i]->format, rows, columns);
        both[i]->panels = aligned_alloc(64, (both[i]->bytes + 63) / 64 * 64);
        memset(both[i]->panels, 0, both[i]->bytes);
    }
    p.spill.bytes = p.dense.bytes;
    p.spill.at = p.of_spill = malloc(p.spill.bytes);
    p.scratch = aligned_alloc(64, (matrix_scratch_bytes(p.packed.format, columns) + 63) / 64 * 64);
    for (size_t i = 0; i < matrix_n_panels(&p.dense); i++) {
        size_t width = matrix_panel_width(&p.dense, i), first = i * KERNEL_PANEL;
        size_t n = rows - first < KERNEL_PANEL ? rows - first : KERNEL_PANEL;
        void *panel = (void *)(uintptr_t)matrix_panel(&p.dense, i, 0);
        void *to = (void *)(uintptr_t)matrix_panel(&p.packed, i, 0);
        dense->pack_rows(dense, n, columns, w + first * columns, panel, width, 0);
        if (format_packs(p.packed.format, width))
            assert_int_equal(
                p.packed.format->pack_panel(p.packed.format, columns, panel, to, &p.spill, &fail),
                0);
        else
            memcpy(to, panel, format_matrix_bytes(dense, width, columns));
    }
    return p;
}

static void release(packed_t *p)
{
    free(p->dense.panels);
    free(p->packed.panels);
    free(p->of_spill);
    free(p->scratch);
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* Sums of a row with a panel of two inputs, unpacked in registers, against the dense panel's. */
static void check_row(const kernels_t *k, const void *panel, const uint16_t dense[PAIR])
{
    static const uint16_t row[2] = {0x3f81, 0xc015};
    float sums[2][KERNEL_PANEL];
    for (int amx = 0; amx < 2 && k->packed_rows != NULL; amx++) {
        if (amx)
            k->packed_row_amx(row, 1, &panel, 0, 2, sums[0], KERNEL_PANEL, TILE_SET);
        else
            k->packed_rows(
                1, row, 2, 1, &panel, 0, 2, sums[0], KERNEL_PANEL, KERNEL_PANEL, TILE_SET);
        (amx ? k->tile_amx : k->tile)(
            1, row, 2, dense, KERNEL_PANEL, 2, sums[1], KERNEL_PANEL, TILE_SET);
        /* Every NaN is rounded to the same one. */
        for (size_t n = 0; n < KERNEL_PANEL; n++)
            if (f32_bits(sums[0][n]) != f32_bits(sums[1][n]) &&
                !(isnan(sums[0][n]) && isnan(sums[1][n])))
                fail_msg("%s, %s: a product with a pair differs", k->isa, amx ? "amx" : "chain");
    }
}

/* Packs and unpacks a panel of two inputs with every instruction set, and multiplies with it. */
static void check_pair(const uint16_t x[PAIR])
{
    static char panel[1024] __attribute__((aligned(64))), elsewhere[PAIR];
    uint16_t found[PAIR];
    fail_t fail = {0};
    spill_t spill = {.at = elsewhere, .bytes = sizeof elsewhere};
    assert_int_equal(plain()->pack_panel(plain(), 2, x, panel, &spill, &fail), 0);
    for (size_t i = 0; i < N_ISAS && i < 4; i++) {
        kernels_t k;
        if (!isa_has(isa_detect(), isas[i]))
            continue;
        kernels_get(&k, isas[i], DTYPE_BF16);
        check_row(&k, panel, x);
        memset(found, 0xa5, sizeof found);
        k.unpack_packed(panel, 0, 2, found);
        if (memcmp(found, x, sizeof found) != 0)
            fail_msg("%s: a weight of a pair does not survive", k.isa);
    }
}

/* In blocks that have too many different exponents, in blocks whose exponents are all in the palette, and in
 * blocks with exceptions. */
static void every_value_survives_in_every_place(void **state)
{
    (void)state;
    uint16_t x[PAIR];
    for (uint32_t v = 0; v < 0x10000; v++) {
        for (uint32_t i = 0; i < PAIR; i++)
            x[i] = (uint16_t)(v + i * 517);
        check_pair(x);
        for (uint32_t i = 0; i < PAIR; i++)
            x[i] = (uint16_t)((v & 0xf000) + ((v + i) & 0xfff));
        check_pair(x);
    }
    for (uint32_t high = 0; high < 0x100; high++)
        for (uint32_t first = 0; first < PAIR; first += 16) { /* 5 e takes every remainder */
            for (uint32_t i = 0; i < PAIR; i++)
                x[i] = (uint16_t)(((i % 16 + high / 2) & 0xff) << 8 | (i * high & 0xff));
            for (uint32_t e = 0; e < 20; e++)
                x[(first + e * 5) % PAIR] = (uint16_t)((high + e * 9) % 256 << 8 | first);
            check_pair(x);
        }
}

static void rows_and_parts_are_unpacked(void **state)
{
    (void)state;
    enum { ROWS = 100, COLUMNS = 701, INPUTS = 702 };
    uint16_t *w = malloc(ROWS * COLUMNS * sizeof *w), row[COLUMNS];
    uint16_t *part = malloc(INPUTS * KERNEL_PANEL * sizeof *part);
    fill_normal(0.02, 1, ROWS * COLUMNS, w);
    for (size_t i = 0; i < 300; i++)
        w[i * 7 + i * i % 601] = (uint16_t)(i * 40503);
    packed_t p = pack(format_dense(DTYPE_BF16), ROWS, COLUMNS, w);
    packed_t folded = pack(format_fold(), ROWS, COLUMNS, w);
    for (size_t r = 0; r < ROWS; r++)
        for (int f = 0; f < 2; f++) {
            const matrix_t *m = f == 0 ? &p.packed : &folded.packed;
            m->format->unpack_row(m->format, COLUMNS, matrix_panel(m, r / KERNEL_PANEL, 0),
                matrix_panel_width(m, r / KERNEL_PANEL), r % KERNEL_PANEL, row);
            assert_memory_equal(row, w + r * COLUMNS, sizeof row);
        }
    for (size_t i = 0; i < N_ISAS; i++) {
        kernels_t k;
        if (!isa_has(isa_detect(), isas[i]))
            continue;
        kernels_get(&k, isas[i], DTYPE_BF16);
        for (size_t first = 0; first < INPUTS; first += 62)
            for (size_t n = 2; first + n <= INPUTS; n += 88) {
                k.unpack_packed(p.packed.panels, first, n, part);
                assert_memory_equal(part, (const uint16_t *)p.dense.panels + first * KERNEL_PANEL,
                    n * KERNEL_PANEL * sizeof *part);
            }
    }
    release(&p);
    release(&folded);
    free(w);
    free(part);
}

static void a_full_spill_is_refused(void **state)
{
    (void)state;
    uint16_t x[PAIR];
    char panel[1024] __attribute__((aligned(64))), elsewhere[PAIR];
    spill_t spill = {.at = elsewhere, .bytes = sizeof elsewhere - 1};
    fail_t fail = {0};
    for (uint32_t i = 0; i < PAIR; i++)
        x[i] = (uint16_t)(i * 517);
    assert_int_equal(plain()->pack_panel(plain(), 2, x, panel, &spill, &fail), FAIL_MEMORY);
    assert_non_null(strstr(fail.message, "--weights dense"));
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static double bits_of(size_t rows, size_t columns, const uint16_t *w)
{
    packed_t p = pack(format_dense(DTYPE_BF16), rows, columns, w);
    double bytes = (double)(p.packed.bytes + atomic_load(&p.spill.used));
    release(&p);
    return 8 * bytes / (double)(rows * columns);
}

static void normal_weights_take_at_most_12_1_bits(void **state)
{
    (void)state;
    enum { ROWS = 128, MOST = 8960 };
    static const double scales[] = {1e-4, 0.005, 0.02, 1.0, 300.0};
    static const size_t columns[] = {192, 896, 1536, MOST};
    uint16_t *w = malloc(ROWS * MOST * sizeof *w);
    for (size_t s = 0; s < 5; s++) {
        size_t c = columns[s % 4];
        fill_normal(scales[s], s + 1, ROWS * c, w);
        double bits = bits_of(ROWS, c, w);
        if (bits > 12.1)
            fail_msg(
                "scale %g, %zu inputs: expected at most 12.1 bits, found %.3f", scales[s], c, bits);
    }
    for (size_t i = 0; i < ROWS * 896; i++)
        w[i] = 0x7fc1;
    assert_true(bits_of(ROWS, 896, w) <= 12.1);
    free(w);
}

static void the_demo_model_takes_at_most_12_1_bits(void **state)
{
    (void)state;
    checkpoint_t *demo;
    fail_t fail = {0};
    double bits = 0, weights = 0;
    assert_int_equal(checkpoint_open(&demo, CHOIR_SOURCE_DIR "/configs/demo", &fail), 0);
    for (size_t i = 0; i < checkpoint_count(demo); i++) {
        const checkpoint_tensor_t *tensor = checkpoint_at(demo, i);
        if (tensor->n_dims != 2)
            continue;
        size_t rows = tensor->shape[0], columns = tensor->shape[1], n = rows * columns;
        uint16_t *w = malloc(n * sizeof *w);
        assert_int_equal(
            checkpoint_read(demo, tensor, 0, rows, 0, columns, w, DTYPE_BF16, NULL, &fail), 0);
        bits += bits_of(rows, columns, w) * (double)n;
        weights += (double)n;
        free(w);
    }
    checkpoint_close(demo);
    assert_true(weights > 2e6);
    if (bits > 12.1 * weights)
        fail_msg("expected at most 12.1 bits, found %.3f", bits / weights);
}

/* ---- Products -------------------------------------------------------------------------------- */

enum { MOST_ROWS = 45, OUTPUTS = 150, N_PANELS = 3 };

typedef struct product_case {
    const char *name;
    dot_t dot;
    size_t columns, leaf_single, leaf_rows;
} product_case_t;

static const product_case_t cases[] = {
    {"chain", DOT_CHAIN, 1202, 512, 1024},
    {"chain of 512", DOT_CHAIN, 2305, 512, 512},
    {"amx", DOT_AMX, 1202, MATRIX_ONE_LEAF, MATRIX_ONE_LEAF},
    {"amx, many rows in K-blocks", DOT_AMX, 1184, MATRIX_ONE_LEAF, MATRIX_ONE_LEAF},
    {"fold", DOT_FOLD, 1203, MATRIX_ONE_LEAF, MATRIX_ONE_LEAF},
    {"short", DOT_CHAIN, 50, 512, 512},
};

/* The rows in K-blocks, where the kernels take so many so; else as they are. */
static matrix_rows_t in_k_blocks(
    const kernels_t *k, const product_case_t *c, const matrix_rows_t *rows)
{
    enum { MOST_COLUMNS = 1280 };
    static uint16_t x[MOST_ROWS * MOST_COLUMNS];
    if (!matrix_wants_k_blocked(k, c->dot, rows->n, c->columns))
        return *rows;
    assert_true(c->columns <= MOST_COLUMNS);
    size_t stride = rows->n * KERNEL_K_BLOCK;
    k_blocks_pack_rows(rows->n, c->columns, rows->x, rows->stride, x, stride, 0);
    return (matrix_rows_t){.x = x, .stride = stride, .k_blocked = true, .n = rows->n};
}

/* Both products of the same rows; 0 where their bits are equal. x: [rows, columns], as the dot product wants it */
static int multiply(
    const kernels_t *k, const product_case_t *c, const packed_t *p, const matrix_rows_t *rows)
{
    static float sums[2][N_PANELS * MOST_ROWS * KERNEL_PANEL];
    panel_t panels[2][N_PANELS];
    memset(sums, 0, sizeof sums);
    for (size_t i = 0; i < N_PANELS; i++) {
        panels[0][i] = (panel_t){&p->dense, i};
        panels[1][i] = (panel_t){&p->packed, i};
    }
    matrix_product(
        k, c->dot, panels[0], N_PANELS, rows, c->leaf_single, c->leaf_rows, NULL, sums[0]);
    const matrix_rows_t others = in_k_blocks(k, c, rows);
    matrix_product(
        k, c->dot, panels[1], N_PANELS, &others, c->leaf_single, c->leaf_rows, p->scratch, sums[1]);
    return memcmp(sums[0], sums[1], sizeof sums[0]) != 0;
}

/* Rows and outputs whose sums cancel, where another order or value shows. */
static void fill_cancelling(size_t rows, size_t columns, uint64_t seed, uint16_t *x)
{
    const kernel_buffer_t buffer = {DTYPE_BF16, rows * columns, false, false};
    kernel_fill_buffer(&buffer, FILL_CANCEL, seed, x);
}

static void for_each_product(const product_case_t *c, bool wide,
    void (*check)(
        const kernels_t *k, const product_case_t *c, const packed_t *p, const matrix_rows_t *rows))
{
    size_t stride = c->dot == DOT_FOLD ? fold_row_elements(c->columns) : (c->columns + 1) / 2 * 2;
    uint16_t *x = calloc(MOST_ROWS * stride, sizeof *x), *row = malloc(c->columns * sizeof *row);
    uint16_t *w = malloc(OUTPUTS * c->columns * sizeof *w);
    fill_cancelling(OUTPUTS, c->columns, 5, w);
    for (size_t i = 0; wide && i < OUTPUTS * c->columns; i++)
        w[i] = (uint16_t)(w[i] ^ (i % 89 == 0 ? 0x4000 : 0));
    for (size_t r = 0; r < MOST_ROWS; r++) {
        fill_cancelling(1, c->columns, 100 + r, row);
        if (c->dot == DOT_FOLD)
            fold_pack_row(c->columns, row, x + r * stride);
        else
            memcpy(x + r * stride, row, c->columns * sizeof *row);
    }
    packed_t p =
        pack(c->dot == DOT_FOLD ? format_fold() : format_dense(DTYPE_BF16), OUTPUTS, c->columns, w);
    for (size_t i = 0; i < N_ISAS; i++) {
        static const size_t counts[][2] = {{1, 1}, {1, 0}, {2, 0}, {7, 3}, {31, 1}, {45, 2}};
        kernels_t k;
        if (!isa_has(isa_detect(), isas[i]))
            continue;
        kernels_get(&k, isas[i], DTYPE_BF16);
        for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
            const matrix_rows_t rows = {
                .x = x, .stride = stride, .n = counts[n][0], .n_single_rows = counts[n][1]};
            if (isas[i] != ISA_SCALAR || rows.n < 4)
                check(&k, c, &p, &rows);
        }
    }
    release(&p);
    free(x);
    free(row);
    free(w);
}

static void check_product(
    const kernels_t *k, const product_case_t *c, const packed_t *p, const matrix_rows_t *rows)
{
    if (multiply(k, c, p, rows) != 0)
        fail_msg("%s, %s, %zu rows: products with packed weights differ from dense ones", k->isa,
            c->name, rows->n);
}

static void products_equal_dense_ones(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for_each_product(&cases[i], false, check_product);
        for_each_product(&cases[i], true, check_product);
    }
}

/* The high byte of an input near the end becomes another. */
static void check_defect(
    const kernels_t *k, const product_case_t *c, const packed_t *p, const matrix_rows_t *rows)
{
    uint8_t *palette = p->packed.panels;
    for (size_t i = 0; i < 16; i++)
        palette[i] ^= 1;
    if (multiply(k, c, p, rows) == 0)
        fail_msg("%s, %s, %zu rows: a wrong palette is not seen", k->isa, c->name, rows->n);
    for (size_t i = 0; i < 16; i++)
        palette[i] ^= 1;
}

static void a_wrong_palette_is_seen(void **state)
{
    (void)state;
    for_each_product(&cases[0], false, check_defect);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_survives_in_every_place),
        cmocka_unit_test(rows_and_parts_are_unpacked),
        cmocka_unit_test(a_full_spill_is_refused),
        cmocka_unit_test(normal_weights_take_at_most_12_1_bits),
        cmocka_unit_test(the_demo_model_takes_at_most_12_1_bits),
        cmocka_unit_test(products_equal_dense_ones),
        cmocka_unit_test(a_wrong_palette_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
