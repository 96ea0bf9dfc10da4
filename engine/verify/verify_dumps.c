#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/size.h"
#include "engine/verify/verify.h"
#include "engine/verify/verify_origin.h"

typedef struct dumps {
    reference_t reference;
    checkpoint_t *candidate;
    report_t *report;
    size_t n_layers;
    bool *layers; /* [n_layers]; NULL: all */
    size_t n_found;
} dumps_t;

static size_t row_length(const checkpoint_tensor_t *tensor)
{
    return tensor->n_dims == 0 ? 1 : tensor->shape[tensor->n_dims - 1];
}

static size_t n_elements(const checkpoint_tensor_t *tensor)
{
    size_t n = 1;
    for (size_t d = 0; d < tensor->n_dims; d++)
        n *= tensor->shape[d];
    return n;
}

static bool same_shape(const checkpoint_tensor_t *a, const checkpoint_tensor_t *b)
{
    return a->n_dims == b->n_dims && memcmp(a->shape, b->shape, a->n_dims * sizeof *a->shape) == 0;
}

static report_table_t table_of(const reference_place_t *place)
{
    return (report_table_t)(REPORT_DUMPS + place->attention);
}

/* Rows of both, one by one. */
static int compare_rows(dumps_t *d, const checkpoint_tensor_t *theirs,
    const checkpoint_tensor_t *ours, compare_t *compare, fail_t *fail)
{
    size_t length = row_length(ours), n = n_elements(ours);
    char *got = malloc(length * dtype_bytes(theirs->dtype) + 1);
    char *expected = malloc(length * dtype_bytes(ours->dtype) + 1);
    if (got == NULL || expected == NULL)
        fail_set(fail, FAIL_MEMORY, "verify: out of memory for rows of %zu values", length);
    for (size_t at = 0; at < n && fail->status == 0; at += length) {
        uint64_t g = (uint64_t)at * dtype_bytes(theirs->dtype);
        uint64_t e = (uint64_t)at * dtype_bytes(ours->dtype);
        if (checkpoint_read_bytes(
                d->candidate, theirs, g, g + length * dtype_bytes(theirs->dtype), got, fail) == 0 &&
            checkpoint_read_bytes(d->reference.file, ours, e, e + length * dtype_bytes(ours->dtype),
                expected, fail) == 0)
            compare_values(compare, got, theirs->dtype, expected, ours->dtype, length, at,
                compare_largest(expected, ours->dtype, length));
    }
    free(got);
    free(expected);
    return fail->status;
}

static void note_shape(
    dumps_t *d, const checkpoint_tensor_t *theirs, const checkpoint_tensor_t *ours)
{
    char expected[256], found[256];
    report_format_dims(expected, sizeof expected, ours->n_dims, ours->shape);
    report_format_dims(found, sizeof found, theirs->n_dims, theirs->shape);
    json_array_append_new(d->report->shapes_differ,
        json_sprintf("%s: the reference has shape %s of %s, the candidate %s of %s", ours->name,
            expected, ours->dtype_name, found, theirs->dtype_name));
}

static int compare_tensor(
    dumps_t *d, const reference_place_t *place, const checkpoint_tensor_t *ours, fail_t *fail)
{
    const checkpoint_tensor_t *theirs = checkpoint_find(d->candidate, ours->name);
    compare_t compare = {0};
    if (theirs == NULL) {
        json_array_append_new(d->report->missing, json_string(ours->name));
        return 0;
    }
    d->n_found++;
    if (!same_shape(theirs, ours) || !theirs->readable) {
        note_shape(d, theirs, ours);
        return 0;
    }
    if (compare_rows(d, theirs, ours, &compare, fail) != 0)
        return fail->status;
    size_t n_dims = size_min(ours->n_dims, 3);
    uint64_t step = (uint64_t)place->prompt * 2 + place->decode;
    report_divergence_t where = {.order = step << 24 | reference_order(place, d->n_layers),
        .place = *place,
        .n_dims = n_dims};
    memcpy(where.dims, ours->shape, n_dims * sizeof *ours->shape);
    report_add_shape(d->report, table_of(place), place->kind, ours->n_dims, ours->shape);
    report_add(d->report, table_of(place), &compare, &where);
    return 0;
}

/* Ids and texts are compared as they are. */
static int compare_bytes(dumps_t *d, const checkpoint_tensor_t *ours, fail_t *fail)
{
    const checkpoint_tensor_t *theirs = checkpoint_find(d->candidate, ours->name);
    if (theirs == NULL) {
        json_array_append_new(d->report->missing, json_string(ours->name));
        return 0;
    }
    size_t bytes = (size_t)ours->size_bytes;
    char *got = malloc(bytes + 1), *expected = malloc(bytes + 1);
    if (strcmp(theirs->dtype_name, ours->dtype_name) != 0 || !same_shape(theirs, ours))
        note_shape(d, theirs, ours);
    else if (got == NULL || expected == NULL)
        fail_set(fail, FAIL_MEMORY, "verify: out of memory for %zu bytes", bytes);
    else if (checkpoint_read_bytes(d->candidate, theirs, 0, bytes, got, fail) == 0 &&
             checkpoint_read_bytes(d->reference.file, ours, 0, bytes, expected, fail) == 0 &&
             memcmp(got, expected, bytes) != 0)
        report_check(d->report, "ids and texts", REPORT_FAIL, "%s: other values", ours->name);
    else if (fail->status == 0)
        d->report->n_bytes_equal++;
    free(got);
    free(expected);
    return fail->status;
}

static int compare_all(dumps_t *d, fail_t *fail)
{
    for (size_t i = 0; i < checkpoint_count(d->reference.file) && fail->status == 0; i++) {
        const checkpoint_tensor_t *ours = checkpoint_at(d->reference.file, i);
        reference_place_t place;
        if (!ours->readable)
            compare_bytes(d, ours, fail);
        else if (!reference_parse_name(ours->name, &place))
            report_note(
                d->report, "%s: an unknown name in the reference, not compared", ours->name);
        else if (d->layers == NULL || !reference_kind_has_layer(place.kind) ||
                 d->layers[place.layer])
            compare_tensor(d, &place, ours, fail);
    }
    if (fail->status == 0 && d->n_found == 0)
        fail_set(fail, FAIL_FORMAT,
            "%s: expected tensors named as in the reference, such as prompt.0.embedding_output, found none of them among %zu",
            checkpoint_at(d->candidate, 0)->file, checkpoint_count(d->candidate));
    return fail->status;
}

static void note_extra(dumps_t *d)
{
    size_t n = 0;
    const char *first = NULL;
    for (size_t i = 0; i < checkpoint_count(d->candidate); i++) {
        const char *name = checkpoint_at(d->candidate, i)->name;
        if (checkpoint_find(d->reference.file, name) == NULL && n++ == 0)
            first = name;
    }
    if (n > 0)
        report_note(d->report,
            "%zu tensor%s of the candidate %s not in the reference, not compared; the first: %s", n,
            plural(n), n == 1 ? "is" : "are", first);
}

/* Metadata that differs between dumps. */
static void note_metadata(dumps_t *d)
{
    static const char *const keys[] = {"format", "dtype", "model_digest", "torch", "transformers",
        "torch_capability", "cpu_model"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *ours = checkpoint_metadata(d->reference.file, keys[i]);
        const char *theirs = checkpoint_metadata(d->candidate, keys[i]);
        if (ours != NULL && theirs != NULL && strcmp(ours, theirs) != 0)
            report_note(d->report, "%s: the reference has %.100s, the candidate %.100s", keys[i],
                ours, theirs);
    }
}

static size_t count_layers(const checkpoint_t *file)
{
    size_t n = 0;
    reference_place_t place;
    for (size_t i = 0; i < checkpoint_count(file); i++)
        if (reference_parse_name(checkpoint_at(file, i)->name, &place))
            n = size_max(n, place.layer + 1);
    return n;
}

static int open_dumps(
    dumps_t *d, const char *candidate, const char *reference, const char *layers, fail_t *fail)
{
    if (reference_open(&d->reference, reference, fail) != 0 ||
        checkpoint_open_file(&d->candidate, candidate, fail) != 0)
        return fail->status;
    if (checkpoint_count(d->candidate) == 0)
        return fail_set(
            fail, FAIL_FORMAT, "%s: expected tensors to compare, found none", candidate);
    d->n_layers = count_layers(d->reference.file);
    if (layers == NULL || d->n_layers == 0)
        return 0;
    d->layers = calloc(d->n_layers, sizeof *d->layers);
    if (d->layers == NULL)
        return fail_set(fail, FAIL_MEMORY, "verify: out of memory for %zu layers", d->n_layers);
    return reference_parse_layers(layers, "--layers", d->n_layers, d->layers, fail);
}

int verify_dumps(report_t **report, const char *candidate, const char *reference,
    const char *layers, double tolerance, bool partial, fail_t *fail)
{
    dumps_t d = {0};
    if (report_open(&d.report, tolerance, fail) == 0 &&
        open_dumps(&d, candidate, reference, layers, fail) == 0) {
        json_object_set_new(d.report->header, "reference", json_string(reference));
        json_object_set_new(d.report->header, "candidate", json_string(candidate));
        d.report->partial = partial;
        d.report->relative = d.reference.dtype != DTYPE_BF16;
        check_origins(&d.reference, d.candidate, d.report);
        note_metadata(&d);
        note_extra(&d);
        compare_all(&d, fail);
    }
    free(d.layers);
    checkpoint_close(d.candidate);
    reference_close(&d.reference);
    if (fail->status != 0) {
        report_close(d.report);
        d.report = NULL;
    }
    *report = d.report;
    return fail->status;
}
