#include "engine/kernels/format.h"

#include "engine/kernels/kernels.h"

#define DENSE(name, mode)                                                                          \
    static size_t name##_matrix_bytes(size_t rows, size_t columns)                                 \
    {                                                                                              \
        return matrix_panel_bytes(mode, rows, columns);                                            \
    }                                                                                              \
    static size_t name##_vector_bytes(size_t elements)                                             \
    {                                                                                              \
        return kernel_padded_outputs(elements) * dtype_bytes(mode);                                \
    }                                                                                              \
    static const format_t name = {#name, name##_matrix_bytes, name##_vector_bytes};

DENSE(bf16, DTYPE_BF16)
DENSE(f32, DTYPE_F32)
DENSE(f64, DTYPE_F64)

const format_t *format_dense(dtype_t mode)
{
    return mode == DTYPE_F64 ? &f64 : mode == DTYPE_F32 ? &f32 : &bf16;
}
