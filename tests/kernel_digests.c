/* Prints a digest of what every scalar kernel computes on odd shapes and data: a line each, the
 * same on every CPU (tests/aarch64). */
#include <stdio.h>
#include <xxhash.h>

#include "engine/kernels/kernel_list.h"

enum { SHAPES = 24 };

static uint64_t digest_call(const kernel_entry_t *entry, const kernels_t *kernels, size_t i,
    kernel_fill_t fill, uint64_t seed, fail_t *fail)
{
    kernel_data_t data;
    kernel_shape_t shape = kernel_odd_shape(entry, kernels, i);
    if (kernel_data_open(&data, entry, kernels, &shape, fill, i, fail) != 0)
        return 0;
    entry->call(kernels, &shape, data.data);
    for (size_t b = 0; b < KERNEL_BUFFERS; b++)
        if (data.buffers[b].written)
            seed = XXH3_64bits_withSeed(
                data.data[b], data.buffers[b].count * dtype_bytes(data.buffers[b].type), seed);
    kernel_data_close(&data);
    return seed;
}

int main(void)
{
    static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
    static const char *const fills[] = {"unit", "cancel", "wide"};
    fail_t fail = {0};
    for (size_t m = 0; m < sizeof modes / sizeof *modes; m++) {
        kernels_t kernels;
        kernels_get(&kernels, ISA_SCALAR, modes[m]);
        for (size_t e = 0; e < kernel_list_count; e++)
            for (int fill = 0; fill < (kernel_list[e].narrow ? FILL_WIDE : FILL_COUNT); fill++) {
                uint64_t digest = 0;
                if (!kernel_exists(&kernel_list[e], &kernels))
                    continue;
                for (size_t i = 0; i < SHAPES; i++)
                    digest = digest_call(
                        &kernel_list[e], &kernels, i, (kernel_fill_t)fill, digest, &fail);
                printf("%s %s %s %016llx\n", dtype_name(modes[m]), kernel_list[e].name, fills[fill],
                    (unsigned long long)digest);
            }
    }
    if (fail.status != 0)
        fprintf(stderr, "%s\n", fail.message);
    return fail.status != 0;
}
