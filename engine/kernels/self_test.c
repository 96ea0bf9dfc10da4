/* The test at start: the chosen kernels against scalar, so that a miscompiled or misdetected
 * instruction set is found before it gives an answer. Data cancels, because rounding to bf16 hides
 * a wrong order in nearly all random results. */
#include "engine/kernels/kernel_list.h"

enum { SMALL_SHAPE = 9 }; /* it and the next ones have few rows */

int kernels_self_test(const kernels_t *kernels, fail_t *fail)
{
    kernels_t scalar;
    kernels_get(&scalar, ISA_SCALAR, kernels->mode);
    for (size_t i = 0; i < kernel_list_count; i++) {
        const kernel_entry_t *entry = &kernel_list[i];
        for (size_t v = 0; kernel_exists(entry, kernels) && v < entry->n_variants; v++) {
            kernel_shape_t shape = kernel_odd_shape(entry, kernels, SMALL_SHAPE + v);
            int differs = kernel_compare(entry, kernels, &scalar, &shape, FILL_CANCEL, 1, fail);
            if (differs < 0)
                return differs;
            if (differs > 0)
                return fail_set(fail, FAIL_INTERNAL,
                    "self-test: kernel %s of %s in %s does not equal scalar; set CHOIR_ISA to a lower instruction set (scalar, avx2, avx512, avx512_bf16)",
                    entry->name, kernels->isa, dtype_name(kernels->mode));
        }
    }
    return 0;
}
