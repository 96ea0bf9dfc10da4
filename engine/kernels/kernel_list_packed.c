/* The list's functions for packed bf16: k inputs of a whole panel. Mode bf16. */
#include <string.h>

#include "engine/kernels/kernel_list_internal.h"
#include "engine/kernels/packed.h"

/* As much again for what does not fit. */
LAYOUT(kernel_packed_layout)
{
    (void)kernels;
    b[0] = (kernel_buffer_t){DTYPE_BF16, s->k * s->n, false, false};
    b[1] = (kernel_buffer_t){DTYPE_BF16, packed_blocks_bytes(s->k) / sizeof(uint16_t), false, true};
    b[2] = (kernel_buffer_t){DTYPE_BF16, s->k * s->n / 2, false, true};
    b[3] = (kernel_buffer_t){DTYPE_BF16, s->k * s->n, true, true};
}

CALL(kernel_call_unpack_packed)
{
    fail_t fail = {0};
    spill_t spill = {.at = d[2], .bytes = s->k * s->n};
    const format_t *format = format_packed(format_dense(DTYPE_BF16));
    if (s->variant == 0)
        format->pack_panel(format, s->k, d[0], d[1], &spill, &fail);
    for (size_t k = 0; s->variant != 0 && k < s->k; k += PACKED_INPUTS)
        ((packed_block_t *)(uintptr_t)packed_block_of(d[1], k))->n_exceptions = 0;
    kernels->unpack_packed(d[1], 0, s->k, d[3]);
}
