/* Kernels with a mistake each, for tests that have to notice it. Mode bf16. */
#ifndef CHOIR_TESTS_WRONG_KERNELS_H
#define CHOIR_TESTS_WRONG_KERNELS_H

#include "engine/kernels/kernels.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"

/* What they stand on: right kernels, copied, and the cache that tile_of_the_next_head knows keys by,
 * borrowed. */
void wrong_kernels_begin(
    const kernels_t *right, const kernels_t *right_router, const kv_cache_t *cache);

void rope_of_neighbours(size_t heads, size_t half, const void *cosines, const void *sines, void *x);
void rope_of_swapped_halves(
    size_t heads, size_t half, const void *cosines, const void *sines, void *x);
void norm_rounded_once(size_t rows, size_t n, const void *x, size_t x_stride, const void *w,
    double eps, void *y, size_t y_stride);
void norm_without_eps(size_t rows, size_t n, const void *x, size_t x_stride, const void *w,
    double eps, void *y, size_t y_stride);
void scores_without_scale(size_t n, const void *c, double scale, void *s);
/* Everything in bf16, where it should be f32. */
void softmax_in_bf16(size_t n, size_t n_lanes, void *s, void *scratch);
/* Of equal probabilities (f32) that of the lower index is larger. */
void softmax_of_lower_index(size_t n, size_t n_lanes, void *s, void *scratch);
/* The sum is rounded at each element. */
void add_rounded_each(size_t n, const void *x, void *sum);
/* The mask hides a row's own key. */
void softmax_of_one_key_less(size_t n, size_t n_lanes, void *s, void *scratch);
void swiglu_rounded_once(size_t rows, size_t width, const void *gate, const void *up,
    size_t c_stride, void *y, size_t y_stride);
void swiglu_of_the_other(size_t rows, size_t width, const void *gate, const void *up,
    size_t c_stride, void *y, size_t y_stride);
void residual_dropped(size_t rows, size_t width, const void *c, size_t c_stride, const void *x,
    void *y, size_t stride);
/* The product is added before it is rounded. */
void residual_rounded_once(size_t rows, size_t width, const void *c, size_t c_stride, const void *x,
    void *y, size_t stride);
void logits_unrounded(
    size_t rows, size_t width, const void *c, size_t c_stride, void *y, size_t y_stride);
/* Leaves of half the length, in products with 512 inputs. */
void tile_of_short_leaves(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);
/* Query heads read the keys of the next KV head. */
void tile_of_the_next_head(size_t rows, const void *a, size_t a_stride, const void *b, size_t width,
    size_t k, void *c, size_t c_stride, tile_mode_t mode);
void sdpa_without_scale(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block,
    size_t n_written, float scale, float *max, float *sum, float *scores, uint16_t *weights,
    size_t stride);
void sdpa_of_one_key_less(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block,
    size_t n_written, float scale, float *max, float *sum, float *scores, uint16_t *weights,
    size_t stride);
/* torch-avx2: the 64 chains are added one after another. */
void fold_left_to_right(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride);
/* Whole 16s that K leaves over 64 go on in the chains of vector 0, in place of a vector of their own. */
void fold_tail_in_chains(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride);
/* Denormal sums become zero. */
void fold_flushed(size_t rows, const uint16_t *a, size_t a_stride, size_t n_panels,
    const void *const *b, size_t width, size_t inputs, float *c, size_t c_panel, size_t c_stride);
/* The last keys after whole fours go to their own chains, in place of chain 0. */
void interleaved_tail(size_t rows, const uint16_t *a, size_t a_stride, const void *b, size_t width,
    size_t k, size_t n_interleaved, float *c, size_t c_stride);
/* Sums in 16 lanes where there should be 8. */
void softmax_of_16_lanes(size_t n, size_t n_lanes, void *s, void *scratch);
void sdpa_of_16_lanes(size_t n_lanes, size_t rows, size_t n_kept, size_t n_block, size_t n_written,
    float scale, float *max, float *sum, float *scores, uint16_t *weights, size_t stride);

/* Wrong weights. The router's of a layer, one panel of outputs, as if it read rows before the norm's
 * weight; and n experts in another order, but for the first. */
void divide_router_by_norm(model_weights_t *layer);
void rotate_experts(model_weights_t *layer, size_t n);

/* Weights are rounded to bf16 before the chain. */
void int4_of_rounded_weights(size_t rows, const uint16_t *a, size_t a_stride, const uint32_t *order,
    const format_t *format, const void *panel, size_t width, size_t columns, float *c,
    size_t c_stride);
/* The chain begins again in the middle, and both sums are added. */
void int4_in_two_halves(size_t rows, const uint16_t *a, size_t a_stride, const uint32_t *order,
    const format_t *format, const void *panel, size_t width, size_t columns, float *c,
    size_t c_stride);
/* Quantised rows of 64 inputs are scaled back as the row after them is. */
void tile_of_scales_of_the_next_row(size_t rows, const void *a, size_t a_stride, const void *b,
    size_t width, size_t k, void *c, size_t c_stride, tile_mode_t mode);

#endif
