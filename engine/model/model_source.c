#include "engine/model/model_source.h"

#include <math.h>
#include <string.h>

#include "engine/kernels/kernels.h"
#include "sharding/store/store.h"

/* The scheme of a part; of files with FP8 the tensors say which matrices have it. */
static const quantised_scheme_t *scheme_of(checkpoint_t *checkpoint, const model_part_t *part)
{
    if (part->scheme == NULL || part->scheme->layout != QUANTISED_FP8_INV)
        return part->scheme;
    const checkpoint_tensor_t *tensor = checkpoint_find_weight(checkpoint, part->name);
    return tensor != NULL && tensor->readable ? NULL : part->scheme;
}

static int checkpoint_check(
    void *context, const model_part_t *part, dtype_t mode, int *converted, fail_t *fail)
{
    const checkpoint_tensor_t *tensor;
    quantised_t matrix;
    const quantised_scheme_t *scheme = scheme_of(context, part);
    if (scheme != NULL)
        return quantised_find(
            context, part->name, scheme, part->shape_rows, part->shape_columns, &matrix, fail);
    if (checkpoint_get(context, part->name, part->shape_rows, part->shape_columns, &tensor, fail) !=
        0)
        return fail->status;
    *converted = tensor->dtype != mode;
    /* Loading reads matrices panel by panel, and vectors at once. */
    store_t *store = checkpoint_store(context);
    if (store != NULL && store_is_shared(store) && part->col_begin < part->col_end)
        checkpoint_want(context, tensor, part->row_begin, part->row_end,
            part->shape_columns == 0 ? part->shape_rows : KERNEL_PANEL);
    return 0;
}

/* Whether the part is quantised, and its matrix, which a check has found before. */
static bool find_quantised(
    checkpoint_t *checkpoint, const model_part_t *part, quantised_t *matrix, fail_t *fail)
{
    const quantised_scheme_t *scheme = scheme_of(checkpoint, part);
    return scheme != NULL && quantised_find(checkpoint, part->name, scheme, part->shape_rows,
                                 part->shape_columns, matrix, fail) == 0;
}

static size_t checkpoint_stage_bytes(void *context, const model_part_t *part)
{
    quantised_t matrix;
    fail_t unused = {0};
    return find_quantised(context, part, &matrix, &unused)
               ? quantised_stage_bytes(
                     &matrix, part->row_end - part->row_begin, part->col_end - part->col_begin)
               : 0;
}

static int checkpoint_stage(void *context, model_part_t *part, void *memory, fail_t *fail)
{
    quantised_t matrix;
    const quantised_stage_t *stage;
    const quantised_part_t rectangle = {
        part->row_begin, part->row_end, part->col_begin, part->col_end};
    if (find_quantised(context, part, &matrix, fail) &&
        quantised_stage(context, &matrix, rectangle, memory, &stage, fail) == 0)
        part->stage = stage;
    return fail->status;
}

static int checkpoint_codes(
    void *context, const model_part_t *part, coded_rows_t *rows, fail_t *fail)
{
    (void)context;
    quantised_rows_t unpacked;
    if (part->stage == NULL)
        return fail_set(fail, FAIL_MODEL,
            "tensor %s: expected it quantised, as quantization_config says, found it as it is (--quantised-order dequantize reads it)",
            part->name);
    quantised_unpack(part->stage, part->row_begin, part->row_end, &unpacked);
    *rows = (coded_rows_t){.n = unpacked.n,
        .columns = unpacked.columns,
        .n_groups = unpacked.n_groups,
        .codes = unpacked.codes,
        .codes_stride = unpacked.codes_stride,
        .scales = unpacked.scales,
        .in_order = unpacked.in_order,
        .zeros = unpacked.zeros};
    return 0;
}

static int checkpoint_order(void *context, const model_part_t *part, uint32_t *order, fail_t *fail)
{
    quantised_t matrix;
    if (find_quantised(context, part, &matrix, fail))
        quantised_order(context, &matrix, order, fail);
    return fail->status;
}

static int checkpoint_part(
    void *context, const model_part_t *part, dtype_t mode, void *dst, void *scratch, fail_t *fail)
{
    const checkpoint_tensor_t *tensor;
    if (part->stage != NULL) {
        quantised_rows_t rows;
        quantised_unpack(part->stage, part->row_begin, part->row_end, &rows);
        quantised_weights(part->stage, &rows, mode, dst);
        return 0;
    }
    if (checkpoint_get(context, part->name, part->shape_rows, part->shape_columns, &tensor, fail) !=
        0)
        return fail->status;
    return checkpoint_read(context, tensor, part->row_begin, part->row_end, part->col_begin,
        part->col_end, dst, mode, scratch, fail);
}

model_source_t model_source_checkpoint(checkpoint_t *checkpoint)
{
    return (model_source_t){.context = checkpoint,
        .check = checkpoint_check,
        .stage_bytes = checkpoint_stage_bytes,
        .stage = checkpoint_stage,
        .codes = checkpoint_codes,
        .order = checkpoint_order,
        .read = checkpoint_part};
}

/* SplitMix64 (Steele, Lea & Flood 2014). */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int random_check(
    void *context, const model_part_t *part, dtype_t mode, int *converted, fail_t *fail)
{
    (void)context, (void)part, (void)mode, (void)fail;
    *converted = 0;
    return 0;
}

/* A stage of random codes: the arrays of coded_rows_t for rows of at most a panel. */
typedef struct random_stage {
    size_t columns, n_groups;
    float *scales;
    uint8_t *codes, *zeros;
} random_stage_t;

static size_t random_groups(const model_part_t *part)
{
    size_t group = part->scheme->group;
    return group == 0 ? 1 : (part->shape_columns + group - 1) / group;
}

static size_t random_stage_bytes(void *context, const model_part_t *part)
{
    (void)context;
    size_t groups = part->scheme == NULL ? 0 : random_groups(part);
    return part->scheme == NULL
               ? 0
               : sizeof(random_stage_t) +
                     KERNEL_PANEL * (groups * (sizeof(float) + 1) + part->shape_columns);
}

static int random_stage(void *context, model_part_t *part, void *memory, fail_t *fail)
{
    (void)context, (void)fail;
    random_stage_t *stage = memory;
    stage->columns = part->shape_columns;
    stage->n_groups = random_groups(part);
    stage->scales = (float *)(stage + 1);
    stage->codes = (uint8_t *)(stage->scales + KERNEL_PANEL * stage->n_groups);
    stage->zeros = stage->codes + KERNEL_PANEL * stage->columns;
    part->stage = stage;
    return 0;
}

static uint64_t key_of(void *context, const model_part_t *part)
{
    uint64_t key = *(const uint64_t *)context;
    for (const char *c = part->name; *c != 0; c++)
        key = mix(key ^ (unsigned char)*c);
    return key;
}

static bool is_f8(const quantised_scheme_t *scheme)
{
    return scheme->layout == QUANTISED_FP8 || scheme->layout == QUANTISED_FP8_INV;
}

/* Nearly normally distributed, of standard deviation 1 and at most 3.5: the sum of four uniform numbers of 16 bits. */
static float normal(uint64_t bits)
{
    int32_t sum = (int32_t)(bits & 0xffff) + (int32_t)(bits >> 16 & 0xffff) +
                  (int32_t)(bits >> 32 & 0xffff) + (int32_t)(bits >> 48) - 2 * 65535;
    return (float)sum * (1.0f / 37837.0f);
}

#define F8_DEVIATION 112.0f /* a block's largest number is near 448 */

static uint8_t random_code(const quantised_scheme_t *scheme, uint64_t bits)
{
    if (is_f8(scheme))
        return e4m3_from_f32(F8_DEVIATION * normal(bits));
    return (uint8_t)(bits % ((uint64_t)1 << scheme->bits));
}

/* Weights of standard deviation 1 / sqrt(columns), nearly: codes of integers are uniform, of f8 numbers normal. */
static int random_codes(void *context, const model_part_t *part, coded_rows_t *rows, fail_t *fail)
{
    (void)fail;
    const random_stage_t *stage = part->stage;
    const quantised_scheme_t *scheme = part->scheme;
    const uint64_t key = key_of(context, part);
    size_t n = part->row_end - part->row_begin, count = 0;
    const float root_12 = 3.4f;
    float deviation = is_f8(scheme) ? F8_DEVIATION : (float)((uint64_t)1 << scheme->bits) / root_12;
    for (size_t r = part->row_begin; r < part->row_end; r++)
        for (size_t c = 0; c < stage->columns; c++)
            stage->codes[count++] = random_code(scheme, mix(key + r * stage->columns + c));
    for (size_t i = 0; i < n * stage->n_groups; i++) {
        stage->scales[i] = 1.0f / sqrtf((float)stage->columns) / deviation;
        stage->zeros[i] = is_f8(scheme) ? 0 : (uint8_t)(1u << (scheme->bits - 1));
    }
    *rows = (coded_rows_t){.n = n,
        .columns = stage->columns,
        .n_groups = stage->n_groups,
        .codes = stage->codes,
        .codes_stride = stage->columns,
        .scales = stage->scales,
        .in_order = true,
        .zeros = stage->zeros};
    return 0;
}

static int random_order(void *context, const model_part_t *part, uint32_t *order, fail_t *fail)
{
    (void)context, (void)fail;
    for (size_t k = 0; k < part->shape_columns; k++)
        order[k] = (uint32_t)k;
    return 0;
}

/* The weights of random codes. */
static int random_dequantised(
    void *context, const model_part_t *part, dtype_t mode, void *dst, float *values, fail_t *fail)
{
    coded_rows_t rows;
    size_t group = part->scheme->group, count = 0, begin = part->col_begin, end = part->col_end;
    random_codes(context, part, &rows, fail);
    for (size_t r = 0; r < rows.n; r++)
        for (size_t k = begin; k < end; k++) {
            size_t g = r * rows.n_groups + (group == 0 ? 0 : k / group);
            values[count++] = quantised_weight(part->scheme->layout, mode,
                rows.codes[r * rows.codes_stride + k], rows.scales[g], rows.zeros[g]);
        }
    dtype_convert(dst, mode, values, DTYPE_F32, count);
    return 0;
}

static int random_part(
    void *context, const model_part_t *part, dtype_t mode, void *dst, void *scratch, fail_t *fail)
{
    if (part->stage != NULL)
        return random_dequantised(context, part, mode, dst, scratch, fail);
    const uint64_t key = key_of(context, part);
    bool is_norm = strstr(part->name, "norm") != NULL,
         is_bias = !is_norm && part->shape_columns == 0;
    float center = is_norm ? 1.0f : 0.0f;
    float spread = is_norm ? 0.1f : is_bias ? 0.5f : 1.0f / sqrtf((float)part->shape_columns);
    float *values = scratch;
    size_t columns = part->col_end - part->col_begin, count = 0;
    size_t pitch = part->shape_columns == 0 ? 1 : part->shape_columns;
    for (size_t r = part->row_begin; r < part->row_end; r++)
        for (size_t c = part->col_begin; c < part->col_end; c++)
            values[count++] = center + spread * normal(mix(key + r * pitch + c));
    dtype_convert(dst, mode, values, DTYPE_F32, (part->row_end - part->row_begin) * columns);
    return 0;
}

model_source_t model_source_random(const uint64_t *seed)
{
    /* The context is only read. */
    return (model_source_t){.context = (void *)(uintptr_t)seed,
        .check = random_check,
        .stage_bytes = random_stage_bytes,
        .stage = random_stage,
        .codes = random_codes,
        .order = random_order,
        .read = random_part};
}
