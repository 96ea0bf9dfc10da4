#include "engine/model/quantization.h"

#include "engine/kernels/kernels.h"

/* What aten's operator takes is multiplied as it multiplies it; everything else is dequantised. */
static const format_t *int4_format(const quantised_scheme_t *scheme, size_t rows, size_t columns)
{
    bool chain = scheme->layout == QUANTISED_GPTQ || scheme->layout == QUANTISED_AWQ;
    size_t group = scheme->group == 0 ? columns : scheme->group;
    if (!chain || scheme->bits != 4 || rows % KERNEL_LANES != 0 || columns % group != 0)
        return NULL;
    return format_int4(group, scheme->zeros);
}

const format_t *quantization_format(const quantization_t *quantization,
    const quantised_scheme_t *scheme, dtype_t mode, size_t rows, size_t columns)
{
    if (scheme == NULL || mode != DTYPE_BF16 || quantization->order != QUANTISED_ORDER_TORCH)
        return NULL;
    return int4_format(scheme, rows, columns);
}

bool quantization_packs(const quantization_t *quantization, dtype_t mode)
{
    for (size_t s = 0; s < quantization->n_schemes; s++) {
        const quantised_scheme_t *scheme = &quantization->schemes[s];
        size_t inputs = scheme->group == 0 ? 256 : scheme->group;
        if (quantization_format(quantization, scheme, mode, KERNEL_LANES, inputs) != NULL)
            return true;
    }
    return false;
}

const format_t *quantization_role_format(const quantization_t *quantization, dtype_t mode, int role,
    int per_layer, size_t n_layers, size_t rows, size_t columns)
{
    const format_t *common = NULL;
    for (size_t l = 0; l < (per_layer ? n_layers : 1); l++) {
        const format_t *format = quantization_format(quantization,
            quantization_scheme(quantization, role, per_layer, l), mode, rows, columns);
        if (format == NULL || (common != NULL && common != format))
            return NULL;
        common = format;
    }
    return common;
}
