/* The test at start: the chosen kernels against scalar, so that a miscompiled or misdetected
 * instruction set is found before it gives an answer. Data cancels, because rounding to bf16 hides
 * a wrong order in nearly all random results. */
#include "engine/base/size.h"
#include "engine/kernels/kernel_list.h"

/* Scalar code takes most of the time, so shapes are cut: those of many rows, and most of a kernel's with many variants, to one
 * step of outputs; and of the latter the inputs. */
enum { FIRST_SHAPE = 9, FEW_ROWS = 14, MOST_INPUTS = 128, FEW_INPUTS = 64, MANY_VARIANTS = 12 };

static kernel_shape_t small_shape(const kernel_entry_t *entry, const kernels_t *kernels, size_t i)
{
    kernel_shape_t shape = kernel_odd_shape(entry, kernels, i);
    bool one_of_many = entry->n_variants > MANY_VARIANTS && i % 4 != 1;
    size_t most_inputs = one_of_many ? FEW_INPUTS : MOST_INPUTS;
    if (entry->k_step > 0 && shape.k > most_inputs)
        shape.k = size_max(most_inputs / entry->k_step, 1) * entry->k_step;
    if (shape.rows > FEW_ROWS || one_of_many)
        shape.n = entry->n_step;
    return shape;
}

/* Whether a run that uses `uses` calls a kernel of this table. */
static bool is_called(const kernel_entry_t *entry, const kernels_t *kernels, unsigned uses)
{
    return kernel_exists(entry, kernels) && (entry->uses & ~uses) == 0;
}

int kernels_self_test(const kernels_t *kernels, unsigned uses, fail_t *fail)
{
    kernels_t scalar;
    kernels_get(&scalar, ISA_SCALAR, kernels->mode);
    for (size_t i = 0; i < kernel_list_count; i++) {
        const kernel_entry_t *entry = &kernel_list[i];
        for (size_t v = 0; is_called(entry, kernels, uses) && v < entry->n_variants; v++) {
            kernel_shape_t shape = small_shape(entry, kernels, FIRST_SHAPE + v);
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
