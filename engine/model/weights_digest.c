#include "engine/model/weights_digest.h"

#include <string.h>
#include <xxhash.h>

#include "engine/base/size.h"

size_t weights_digest_first_row(const plan_t *plan, size_t rank, const plan_weight_t *weight)
{
    size_t first = 0;
    for (size_t r = 0; r < rank; r++) {
        const plan_range_t rows = plan_weight_part(plan, r, weight).rows;
        if (plan_count(rows) > 0)
            first = size_max(first, rows.end);
    }
    return first;
}

uint64_t weights_digest_rows(
    const model_part_t *part, size_t first_row, dtype_t mode, const void *rows)
{
    size_t row_bytes = size_max(part->shape_columns, 1) * dtype_bytes(mode);
    uint64_t key[3] = {XXH3_64bits(part->name, strlen(part->name))}, sum = 0;
    for (size_t row = size_max(first_row, part->row_begin); row < part->row_end; row++) {
        key[1] = row;
        key[2] = XXH3_64bits(
            (const unsigned char *)rows + (row - part->row_begin) * row_bytes, row_bytes);
        sum += XXH3_64bits(key, sizeof key);
    }
    return sum;
}
