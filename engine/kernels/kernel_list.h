/* The list of all kernels: how each is called, and on what data it is tested and timed.
 *
 * The unit test, the self-test at start and `choir bench --kernels` iterate over it, so a new
 * kernel needs one more row (kernel_list.c). Functions are thread safe. */
#ifndef CHOIR_KERNELS_KERNEL_LIST_H
#define CHOIR_KERNELS_KERNEL_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/kernels/kernels.h"

#define KERNEL_BUFFERS 4

/* Values around 1; the same, each followed by its opposite, so that sums are their own rounding
 * errors; any exponent, with denormals and zeros. */
typedef enum kernel_fill { FILL_UNIT, FILL_CANCEL, FILL_WIDE, FILL_COUNT } kernel_fill_t;

/* The arguments of one call. rows, n and k are as in the kernel's row of the list. */
typedef struct kernel_shape {
    size_t rows, n, k;
    size_t pad;     /* padding elements between rows; 2 pad where inputs are paired */
    size_t variant; /* of a kernel with options: tile mode, lanes, bias */
} kernel_shape_t;

typedef struct kernel_buffer {
    dtype_t type;
    size_t count;
    bool written; /* compared; its first content is random too */
    bool plain;   /* FILL_UNIT where the fill is FILL_CANCEL: one factor of two */
} kernel_buffer_t;

typedef struct kernel_entry {
    const char *name;
    size_t slot;   /* offset in kernels_t of the pointer that a table may leave NULL */
    unsigned uses; /* KERNELS_...: what a run has to use for this kernel to be called */
    size_t n_variants;
    bool narrow; /* not for values of any exponent */
    /* Limits of shapes: n and k are multiples of their step. k_step 0: without k. */
    size_t most_rows, n_step, most_n, k_step, most_k;
    /* Timed: as a 1.5B model calls it, with a single row and with many. Of the same kind twice
     * where rows make no difference. */
    kernel_shape_t timed[2];
    /* Buffers of a call; unused ones have a count of 0. */
    void (*layout)(const kernels_t *kernels, const kernel_shape_t *shape,
        kernel_buffer_t buffers[KERNEL_BUFFERS]);
    void (*call)(
        const kernels_t *kernels, const kernel_shape_t *shape, void *const data[KERNEL_BUFFERS]);
    /* Multiply-adds of a call, counted as 2; NULL where bytes are what counts. */
    double (*flop)(const kernel_shape_t *shape);
} kernel_entry_t;

extern const kernel_entry_t kernel_list[];
extern const size_t kernel_list_count;

/* Whether a table has this kernel (in its mode). */
bool kernel_exists(const kernel_entry_t *entry, const kernels_t *kernels);

/* The i-th of many odd shapes within the entry's limits; variants alternate. */
kernel_shape_t kernel_odd_shape(const kernel_entry_t *entry, const kernels_t *kernels, size_t i);

/* Writes count values of a fill; the same seed gives the same values. */
void kernel_fill_buffer(
    const kernel_buffer_t *buffer, kernel_fill_t fill, uint64_t seed, void *out);

/* The data of one call. */
typedef struct kernel_data {
    kernel_buffer_t buffers[KERNEL_BUFFERS];
    void *data[KERNEL_BUFFERS];
    size_t bytes; /* of all */
} kernel_data_t;

/* Allocates and fills buffers; the same seed gives the same data. FAIL_MEMORY. */
int kernel_data_open(kernel_data_t *data, const kernel_entry_t *entry, const kernels_t *kernels,
    const kernel_shape_t *shape, kernel_fill_t fill, uint64_t seed, fail_t *fail);
void kernel_data_close(kernel_data_t *data);

/* Calls a kernel of both tables on the same data. 0 when the bits of all written buffers are equal,
 * 1 when they differ; negative status when there is no memory. */
int kernel_compare(const kernel_entry_t *entry, const kernels_t *tested, const kernels_t *expected,
    const kernel_shape_t *shape, kernel_fill_t fill, uint64_t seed, fail_t *fail);

#endif
