/* Shapes and data on which the kernels of the list are tested and timed. */
#include <math.h>
#include <string.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/kernels/kernel_list.h"

/* The next of a sequence that `state` begins (Knuth's MMIX constants). */
static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

static size_t random_multiple(uint64_t *state, size_t step, size_t most)
{
    return step == 0 ? 0 : step * (1 + next_random(state) % (most / step));
}

kernel_shape_t kernel_odd_shape(const kernel_entry_t *entry, const kernels_t *kernels, size_t i)
{
    uint64_t state = i + 1;
    next_random(&state);
    bool few = i % 4 != 0; /* many rows, small n and k */
    size_t most_rows = few ? size_min(entry->most_rows, 14) : entry->most_rows;
    size_t most_n = few && entry->most_n > 512 ? 40 : entry->most_n;
    size_t k_step = entry->k_step == 2 && kernels->mode != DTYPE_BF16 ? 1 : entry->k_step;
    kernel_shape_t shape = {.rows = 1 + next_random(&state) % most_rows};
    shape.n = random_multiple(&state, entry->n_step, most_n);
    shape.k = random_multiple(&state, k_step, entry->most_k);
    shape.pad = next_random(&state) % 5;
    shape.variant = i % entry->n_variants;
    return shape;
}

/* The value after `last`. */
static double random_value(kernel_fill_t fill, bool odd, double last, uint64_t *state)
{
    if (fill == FILL_CANCEL && odd)
        return -last;
    double value = (double)next_random(state) / 4294967296.0 * 2 - 1;
    if (fill != FILL_WIDE)
        return value;
    int exponent = (int)(next_random(state) % 254) - 140;
    return exponent < -138 ? 0.0 : ldexp(value, exponent / 2);
}

void kernel_fill_buffer(const kernel_buffer_t *buffer, kernel_fill_t fill, uint64_t seed, void *out)
{
    enum { CHUNK = 256 };
    double values[CHUNK] = {0};
    uint64_t state = seed;
    char *to = out;
    if (fill == FILL_CANCEL && buffer->plain)
        fill = FILL_UNIT;
    for (size_t left = buffer->count, n; left > 0; left -= n) {
        n = size_min(left, CHUNK);
        for (size_t i = 0; i < n; i++)
            values[i] = random_value(fill, i % 2 == 1, values[i > 0 ? i - 1 : 0], &state);
        dtype_convert(to, buffer->type, values, DTYPE_F64, n);
        to += n * dtype_bytes(buffer->type);
    }
}

static size_t buffer_bytes(const kernel_buffer_t *buffer)
{
    return buffer->count * dtype_bytes(buffer->type);
}

/* Buffers that are not filled yet. */
static int open_buffers(kernel_data_t *data, const kernel_entry_t *entry, const kernels_t *kernels,
    const kernel_shape_t *shape, fail_t *fail)
{
    *data = (kernel_data_t){0};
    entry->layout(kernels, shape, data->buffers);
    for (size_t b = 0; b < KERNEL_BUFFERS && fail->status == 0; b++) {
        size_t bytes = buffer_bytes(&data->buffers[b]);
        data->data[b] = memory_alloc(bytes, "a kernel's data", fail);
        data->bytes += bytes;
    }
    if (fail->status != 0)
        kernel_data_close(data);
    return fail->status;
}

int kernel_data_open(kernel_data_t *data, const kernel_entry_t *entry, const kernels_t *kernels,
    const kernel_shape_t *shape, kernel_fill_t fill, uint64_t seed, fail_t *fail)
{
    if (open_buffers(data, entry, kernels, shape, fail) != 0)
        return fail->status;
    for (size_t b = 0; b < KERNEL_BUFFERS; b++)
        kernel_fill_buffer(&data->buffers[b], fill, seed + b, data->data[b]);
    return 0;
}

void kernel_data_close(kernel_data_t *data)
{
    for (size_t b = 0; b < KERNEL_BUFFERS; b++)
        memory_free(data->data[b], buffer_bytes(&data->buffers[b]));
    *data = (kernel_data_t){0};
}

int kernel_compare(const kernel_entry_t *entry, const kernels_t *tested, const kernels_t *expected,
    const kernel_shape_t *shape, kernel_fill_t fill, uint64_t seed, fail_t *fail)
{
    kernel_data_t a = {0}, b = {0};
    bool differs = false;
    if (kernel_data_open(&a, entry, tested, shape, fill, seed, fail) == 0 &&
        open_buffers(&b, entry, expected, shape, fail) == 0) {
        for (size_t i = 0; i < KERNEL_BUFFERS; i++)
            if (b.buffers[i].count > 0)
                memcpy(b.data[i], a.data[i], buffer_bytes(&b.buffers[i]));
        entry->call(tested, shape, a.data);
        entry->call(expected, shape, b.data);
        for (size_t i = 0; i < KERNEL_BUFFERS; i++)
            differs |= a.buffers[i].written &&
                       memcmp(a.data[i], b.data[i], buffer_bytes(&a.buffers[i])) != 0;
    }
    kernel_data_close(&a);
    kernel_data_close(&b);
    return fail->status != 0 ? fail->status : differs;
}
