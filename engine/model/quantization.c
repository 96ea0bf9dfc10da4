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

/* What is dequantised inside the product: inputs in their order, and groups that kernels have. */
static const format_t *coded_format(const quantised_scheme_t *scheme, size_t columns)
{
    size_t group = scheme->group;
    bool f8 = scheme->layout == QUANTISED_FP8 || scheme->layout == QUANTISED_FP8_INV;
    dtype_t scale = scheme->layout == QUANTISED_FP8_INV ? DTYPE_F32 : DTYPE_BF16;
    if (scheme->layout == QUANTISED_GPTQ || scheme->layout == QUANTISED_AWQ)
        scale = DTYPE_F16;
    /* There the grid of scales is cut evenly, here by the group. */
    bool uneven = scheme->layout == QUANTISED_FP8_INV && group != 0 && columns % group != 0;
    if (columns % 2 != 0 || scheme->act_order || uneven)
        return NULL;
    return format_coded(f8                  ? CODES_F8
                        : scheme->bits == 4 ? CODES_INT4
                                            : CODES_INT8,
        scale, group, scheme->zeros);
}

const format_t *quantization_format(const quantization_t *quantization,
    const quantised_scheme_t *scheme, dtype_t mode, int in_layer, size_t rows, size_t columns)
{
    if (scheme == NULL || mode != DTYPE_BF16 || quantization->order != QUANTISED_ORDER_TORCH)
        return NULL;
    const format_t *format = int4_format(scheme, rows, columns);
    /* Of FP8 files the tensors say whether lm_head is quantised. */
    bool unsure = !in_layer && scheme->layout == QUANTISED_FP8_INV;
    if (format != NULL || quantization->fold || unsure)
        return format;
    return coded_format(scheme, columns);
}

bool quantization_has_chain(const quantization_t *quantization, dtype_t mode)
{
    for (size_t s = 0; s < quantization->n_schemes; s++) {
        const quantised_scheme_t *scheme = &quantization->schemes[s];
        size_t inputs = scheme->group == 0 ? 256 : scheme->group;
        const format_t *format =
            quantization_format(quantization, scheme, mode, true, KERNEL_LANES, inputs);
        if (format != NULL && format->kind == FORMAT_INT4)
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
            quantization_scheme(quantization, role, per_layer, l), mode, per_layer, rows, columns);
        if (format == NULL || (common != NULL && common != format))
            return NULL;
        common = format;
    }
    return common;
}

static bool is_dynamic(quantised_activation_t kind)
{
    return kind == QUANTISED_INT8_TOKEN || kind == QUANTISED_INT8_TOKEN_ZERO ||
           kind == QUANTISED_FP8_TOKEN || kind == QUANTISED_FP8_GROUP;
}

quantised_activation_t quantization_activation(
    const quantization_t *quantization, dtype_t mode, int role, size_t layer)
{
    const quantised_scheme_t *scheme = quantization_scheme(quantization, role, true, layer);
    if (scheme == NULL || mode != DTYPE_BF16 || quantization->order != QUANTISED_ORDER_TORCH ||
        !is_dynamic(scheme->activation))
        return QUANTISED_AS_THEY_ARE;
    return scheme->activation;
}

bool quantization_has_activations(const quantization_t *quantization, dtype_t mode)
{
    if (mode != DTYPE_BF16 || quantization->order != QUANTISED_ORDER_TORCH)
        return false;
    for (size_t s = 0; s < quantization->n_schemes; s++)
        if (is_dynamic(quantization->schemes[s].activation))
            return true;
    return false;
}
