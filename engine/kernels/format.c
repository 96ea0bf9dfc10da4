#include "engine/kernels/format.h"

#include "engine/kernels/kernels.h"

/* clang-format off */
#define DENSE(name, mode)                                                                           \
    static size_t name##_matrix_bytes(size_t rows, size_t columns)                                  \
    {                                                                                               \
        return kernel_padded_outputs(rows) * kernel_padded_inputs(mode, columns) * dtype_bytes(mode); \
    }                                                                                               \
    static size_t name##_vector_bytes(size_t elements)                                              \
    {                                                                                               \
        return kernel_padded_outputs(elements) * dtype_bytes(mode);                                 \
    }                                                                                               \
    static size_t name##_offset(size_t columns, size_t width, size_t p, size_t k)                   \
    {                                                                                               \
        return (p * KERNEL_PANEL * kernel_padded_inputs(mode, columns) + k * width) *               \
               dtype_bytes(mode);                                                                   \
    }                                                                                               \
    static void name##_pack_rows(size_t rows, size_t columns, const void *src, void *panel,         \
        size_t width, size_t first_output)                                                          \
    {                                                                                               \
        panel_pack_rows(mode, rows, columns, src, panel, width, first_output);                      \
    }                                                                                               \
    static void name##_unpack_row(                                                                  \
        size_t columns, const void *panel, size_t width, size_t output, void *dst)                  \
    {                                                                                               \
        panel_unpack_row(mode, columns, panel, width, output, dst);                                 \
    }                                                                                               \
    static const format_t name = {#name, mode, name##_matrix_bytes, name##_vector_bytes,            \
        name##_offset, name##_pack_rows, name##_unpack_row};
/* clang-format on */

DENSE(bf16, DTYPE_BF16)
DENSE(f32, DTYPE_F32)
DENSE(f64, DTYPE_F64)

const format_t *format_dense(dtype_t mode)
{
    return mode == DTYPE_F64 ? &f64 : mode == DTYPE_F32 ? &f32 : &bf16;
}
