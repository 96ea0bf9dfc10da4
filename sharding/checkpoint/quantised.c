#include "sharding/checkpoint/quantised.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/size.h"

#define NAME_BYTES 256
#define MIN_GROUP 8

/* What messages say of a matrix: its place in the file. */
typedef struct subject {
    const checkpoint_t *checkpoint;
    char module[NAME_BYTES]; /* "model.layers.0.self_attn.q_proj" */
    const quantised_scheme_t *scheme;
} subject_t;

void quantised_scheme_text(const quantised_scheme_t *scheme, char *text)
{
    static const char *const names[] = {"GPTQ int", "AWQ int", "compressed-tensors int",
        "compressed-tensors int", "compressed-tensors fp", "fp"};
    int used = snprintf(text, QUANTISED_SCHEME_BYTES, "%s%u", names[scheme->layout], scheme->bits);
    if (scheme->group != 0)
        snprintf(text + used, QUANTISED_SCHEME_BYTES - (size_t)used, ", group %zu", scheme->group);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

static const checkpoint_tensor_t *find(const subject_t *subject, const char *suffix)
{
    char name[NAME_BYTES + 32];
    snprintf(name, sizeof name, "%s.%s", subject->module, suffix);
    return checkpoint_find_weight(subject->checkpoint, name);
}

static bool is_type(const checkpoint_tensor_t *tensor, const char *types)
{
    /* types: "F16 BF16"; names have no spaces and none is a part of another with a space. */
    size_t n = strlen(tensor->dtype_name);
    for (const char *at = types; (at = strstr(at, tensor->dtype_name)) != NULL; at += n)
        if ((at == types || at[-1] == ' ') && (at[n] == 0 || at[n] == ' '))
            return true;
    return false;
}

static void shape_text(const size_t *shape, size_t n_dims, char *text, size_t bytes)
{
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (size_t d = 0; d < n_dims && used < bytes; d++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%zu", d > 0 ? ", " : "", shape[d]);
    if (used < bytes)
        snprintf(text + used, bytes - used, "]");
}

/* The tensor, which must be there with one of these types. */
static int need(const subject_t *subject, const char *suffix, const char *types,
    const checkpoint_tensor_t **tensor, fail_t *fail)
{
    char what[QUANTISED_SCHEME_BYTES];
    quantised_scheme_text(subject->scheme, what);
    *tensor = find(subject, suffix);
    if (*tensor == NULL)
        return fail_set(fail, FAIL_MODEL,
            "tensor %s.%s: expected one, as quantization_config says %s, found %s", subject->module,
            suffix, what,
            strcmp(suffix, "weight") != 0 && find(subject, "weight") != NULL
                ? "the tensor weight without it"
                : "no such tensor");
    if (!is_type(*tensor, types))
        return fail_set(fail, FAIL_MODEL, "%s: tensor %s: dtype: expected %s (%s), found %s",
            (*tensor)->file, (*tensor)->name, types, what, (*tensor)->dtype_name);
    return 0;
}

/* Whether a matrix of [rows, columns] is what the tensor is; columns 0: a vector. */
static int check_shape(const subject_t *subject, const checkpoint_tensor_t *tensor, size_t rows,
    size_t columns, fail_t *fail)
{
    size_t shape[] = {rows, columns}, n_dims = columns == 0 ? 1 : 2;
    char expected[64], found[256], what[QUANTISED_SCHEME_BYTES];
    if (tensor->n_dims == n_dims && memcmp(tensor->shape, shape, n_dims * sizeof *shape) == 0)
        return 0;
    shape_text(shape, n_dims, expected, sizeof expected);
    shape_text(tensor->shape, tensor->n_dims, found, sizeof found);
    quantised_scheme_text(subject->scheme, what);
    return fail_set(fail, FAIL_MODEL, "%s: tensor %s: expected shape %s (%s), found %s",
        tensor->file, tensor->name, expected, what, found);
}

static int get(const subject_t *subject, const char *suffix, const char *types, size_t rows,
    size_t columns, const checkpoint_tensor_t **tensor, fail_t *fail)
{
    if (need(subject, suffix, types, tensor, fail) == 0)
        check_shape(subject, *tensor, rows, columns, fail);
    return fail->status;
}

static int check_multiple(
    const subject_t *subject, const char *what, size_t size, size_t unit, fail_t *fail)
{
    char scheme[QUANTISED_SCHEME_BYTES];
    quantised_scheme_text(subject->scheme, scheme);
    if (size % unit != 0)
        fail_set(fail, FAIL_MODEL,
            "%s: %s: expected a multiple of %zu, as %s packs them, found %zu", subject->module,
            what, unit, scheme, size);
    return fail->status;
}

/* ---- Layouts --------------------------------------------------------------------------------- */

#define FLOATS "F16 BF16 F32"

static size_t divide_up(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static int find_gptq(const subject_t *subject, quantised_t *m, fail_t *fail)
{
    size_t per_word = 32 / m->scheme.bits;
    if (check_multiple(subject, "inputs", m->columns, per_word, fail) != 0 ||
        check_multiple(subject, "outputs", m->rows, per_word, fail) != 0 ||
        get(subject, "qweight", "I32", m->columns / per_word, m->rows, &m->codes, fail) != 0 ||
        get(subject, "qzeros", "I32", m->n_groups, m->rows / per_word, &m->zeros, fail) != 0 ||
        get(subject, "scales", FLOATS, m->n_groups, m->rows, &m->scales, fail) != 0)
        return fail->status;
    /* auto-round's files have none. */
    m->groups = find(subject, "g_idx");
    if (m->groups != NULL || m->scheme.act_order)
        get(subject, "g_idx", "I32", m->columns, 0, &m->groups, fail);
    return fail->status;
}

static int find_awq(const subject_t *subject, quantised_t *m, fail_t *fail)
{
    enum { PER_WORD = 8 };
    if (check_multiple(subject, "outputs", m->rows, PER_WORD, fail) == 0 &&
        get(subject, "qweight", "I32", m->columns, m->rows / PER_WORD, &m->codes, fail) == 0 &&
        get(subject, "qzeros", "I32", m->n_groups, m->rows / PER_WORD, &m->zeros, fail) == 0)
        get(subject, "scales", FLOATS, m->n_groups, m->rows, &m->scales, fail);
    return fail->status;
}

/* weight_shape is [N, K], as numbers in the file. */
static int check_weight_shape(
    const subject_t *subject, checkpoint_t *checkpoint, const quantised_t *m, fail_t *fail)
{
    const checkpoint_tensor_t *tensor;
    int64_t shape[2];
    if (get(subject, "weight_shape", "I64", 2, 0, &tensor, fail) == 0 &&
        checkpoint_read_bytes(checkpoint, tensor, 0, sizeof shape, shape, fail) == 0 &&
        (shape[0] != (int64_t)m->rows || shape[1] != (int64_t)m->columns))
        fail_set(fail, FAIL_MODEL, "%s: tensor %s: expected %zu, %zu, found %lld, %lld",
            tensor->file, tensor->name, m->rows, m->columns, (long long)shape[0],
            (long long)shape[1]);
    return fail->status;
}

static int find_packed(
    const subject_t *subject, checkpoint_t *checkpoint, quantised_t *m, fail_t *fail)
{
    size_t words = divide_up(m->columns * m->scheme.bits, 32);
    if (check_weight_shape(subject, checkpoint, m, fail) != 0 ||
        get(subject, "weight_packed", "I32", m->rows, words, &m->codes, fail) != 0 ||
        get(subject, "weight_scale", FLOATS, m->rows, m->n_groups, &m->scales, fail) != 0)
        return fail->status;
    if (m->scheme.zeros &&
        get(subject, "weight_zero_point", "I32", divide_up(m->rows * m->scheme.bits, 32),
            m->n_groups, &m->zeros, fail) != 0)
        return fail->status;
    m->groups = find(subject, "weight_g_idx");
    if (m->groups != NULL)
        get(subject, "weight_g_idx", "I32", m->columns, 0, &m->groups, fail);
    return fail->status;
}

static int find_int8(const subject_t *subject, quantised_t *m, fail_t *fail)
{
    if (get(subject, "weight", "I8", m->rows, m->columns, &m->codes, fail) != 0 ||
        need(subject, "weight_scale", FLOATS, &m->scales, fail) != 0)
        return fail->status;
    /* One for all, [1], one for each output, or groups. */
    if (m->scales->size_bytes == dtype_bytes(m->scales->dtype))
        m->block_rows = m->rows;
    else if (check_shape(subject, m->scales, m->rows, m->n_groups, fail) != 0)
        return fail->status;
    if (m->scheme.zeros)
        get(subject, "weight_zero_point", "I8", divide_up(m->rows, m->block_rows), m->n_groups,
            &m->zeros, fail);
    return fail->status;
}

/* The grid of scales decides what a block is: rows and columns are cut evenly, or, where compressed-tensors has a
 * block of 128, the last ones are short. */
static int find_grid(const subject_t *subject, quantised_t *m, fail_t *fail)
{
    const checkpoint_tensor_t *scales = m->scales;
    size_t rows = scales->n_dims == 2 ? scales->shape[0] : 1, columns = 1;
    if (scales->n_dims == 2)
        columns = scales->shape[1];
    bool one = scales->n_dims < 2 && (scales->n_dims == 0 || scales->shape[0] == 1);
    bool cut = m->scheme.layout == QUANTISED_FP8 && m->scheme.group != 0;
    if (cut)
        return check_shape(subject, scales, divide_up(m->rows, m->block_rows), m->n_groups, fail);
    if ((!one && scales->n_dims != 2) || rows == 0 || columns == 0 || m->rows % rows != 0 ||
        m->columns % columns != 0) {
        char found[256];
        shape_text(scales->shape, scales->n_dims, found, sizeof found);
        return fail_set(fail, FAIL_MODEL,
            "%s: tensor %s: expected a grid that divides [%zu, %zu] evenly, found %s", scales->file,
            scales->name, m->rows, m->columns, found);
    }
    m->block_rows = m->rows / rows;
    m->group = m->columns / columns;
    m->n_groups = columns;
    return 0;
}

static int find_fp8(const subject_t *subject, quantised_t *m, fail_t *fail)
{
    static const char *const names[] = {"weight_scale_inv", "scale", "qscale_weight"};
    enum { BLOCK = 128 };
    if (get(subject, "weight", "F8_E4M3", m->rows, m->columns, &m->codes, fail) != 0)
        return fail->status;
    if (m->scheme.layout == QUANTISED_FP8) {
        m->block_rows = m->scheme.group != 0 ? BLOCK : 1;
        return need(subject, "weight_scale", FLOATS, &m->scales, fail) == 0
                   ? find_grid(subject, m, fail)
                   : fail->status;
    }
    size_t i = 0;
    while (i < 2 && find(subject, names[i]) == NULL)
        i++;
    if (find(subject, names[i]) == NULL)
        i = 0;
    return need(subject, names[i], FLOATS " U8 F8_E8M0", &m->scales, fail) == 0
               ? find_grid(subject, m, fail)
               : fail->status;
}

int quantised_find(checkpoint_t *checkpoint, const char *name, const quantised_scheme_t *scheme,
    size_t rows, size_t columns, quantised_t *matrix, fail_t *fail)
{
    subject_t subject = {.checkpoint = checkpoint, .scheme = scheme};
    static const char ending[] = ".weight";
    size_t n = strlen(name);
    if (n >= sizeof ending && strcmp(name + n - (sizeof ending - 1), ending) == 0)
        n -= sizeof ending - 1;
    snprintf(subject.module, sizeof subject.module, "%.*s", (int)n, name);
    *matrix = (quantised_t){
        .scheme = *scheme, .rows = rows, .columns = columns, .block_rows = 1, .group = columns};
    if (scheme->group != 0)
        matrix->group = scheme->group;
    matrix->n_groups = divide_up(columns, matrix->group);
    switch (scheme->layout) {
    case QUANTISED_GPTQ:
        return find_gptq(&subject, matrix, fail);
    case QUANTISED_AWQ:
        return find_awq(&subject, matrix, fail);
    case QUANTISED_PACKED:
        return find_packed(&subject, checkpoint, matrix, fail);
    case QUANTISED_INT8:
        return find_int8(&subject, matrix, fail);
    default:
        return find_fp8(&subject, matrix, fail);
    }
}
