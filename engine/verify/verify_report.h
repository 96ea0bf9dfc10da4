/* Results of `choir verify`: remarks, checks, and tables of comparisons; as text or as JSON.
 *
 * Every rank fills its own report with its parts; report_gather adds them up on rank 0, which alone
 * has remarks and checks and prints. One thread at a time. */
#ifndef CHOIR_VERIFY_VERIFY_REPORT_H
#define CHOIR_VERIFY_VERIFY_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/verify/compare.h"
#include "engine/verify/reference.h"

typedef enum report_table {
    REPORT_WEIGHTS,
    /* Two of each kind, in the order of attention_t. */
    REPORT_ISOLATED,
    REPORT_CHAINED = REPORT_ISOLATED + REFERENCE_ATTENTIONS,
    REPORT_LOGITS = REPORT_CHAINED + REFERENCE_ATTENTIONS,
    REPORT_DUMPS = REPORT_LOGITS + REFERENCE_ATTENTIONS,
    REPORT_TABLES = REPORT_DUMPS + REFERENCE_ATTENTIONS
} report_table_t;

/* Rows of REPORT_WEIGHTS are those of arch_weight_t.role, of other tables kinds of values. */
#define REPORT_ROWS KIND_COUNT /* of any table */

/* The shape that all tensors of a row have; dimensions that vary are marked. */
typedef struct report_shape {
    size_t n_tensors, n_dims;
    size_t dims[CHECKPOINT_MAX_DIMS];
    bool varies[CHECKPOINT_MAX_DIMS];
} report_shape_t;

/* The first value of a table that differs, in the order of computation. */
typedef struct report_divergence {
    bool found;
    uint64_t order;          /* of the place; smaller is earlier */
    reference_place_t place; /* kind: of the table's rows */
    size_t rank;             /* that computed it */
    size_t seen_by;          /* rank that compared it */
    size_t n_dims, dims[3];  /* shape that the index counts in */
    uint64_t index;
    double got, expected;
} report_divergence_t;

typedef struct report_totals {
    compare_t cells[REPORT_TABLES][REPORT_ROWS];
    report_divergence_t first[REPORT_TABLES];
    report_divergence_t nonfinite[REPORT_TABLES]; /* first NaN or infinity, of either side */
} report_totals_t;

typedef struct report {
    double tolerance;
    bool relative; /* differences relative to a row's largest value were measured */
    bool partial;  /* absent tensors pass, and are counted */
    bool isolated; /* no chained comparison: components without inputs are not compared at all */
    report_totals_t totals;
    report_shape_t shapes[REPORT_TABLES][REPORT_ROWS];
    json_t *header;        /* object: model, reference, ranks, ...; for JSON alone */
    json_t *notes;         /* strings, printed at the top */
    json_t *checks;        /* objects: check, status, detail */
    json_t *missing;       /* names that a file should have */
    size_t n_bytes_equal;  /* tensors of ids and texts, which no table has */
    json_t *shapes_differ; /* strings */
    json_t *unfed; /* names of components whose inputs the reference lacks: not compared isolated */
} report_t;

int report_open(report_t **report, double tolerance, fail_t *fail);
void report_close(report_t *report);

void report_note(report_t *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

typedef enum report_status { REPORT_PASS, REPORT_FAIL, REPORT_SKIP } report_status_t;

void report_check(report_t *report, const char *check, report_status_t status, const char *format,
    ...) __attribute__((format(printf, 4, 5)));

/* Adds a tensor's shape to a row. */
void report_add_shape(
    report_t *report, report_table_t table, size_t row, size_t n_dims, const size_t *dims);

/* Adds the comparison of a tensor's part to a row, and its first difference. where: the place, rank
 * and shape; the rest of it is filled in. */
void report_add(report_t *report, report_table_t table, const compare_t *compare,
    const report_divergence_t *where);

/* Collective. Adds everything up on rank 0. */
void report_gather(report_t *report, comm_t *comm, fail_t *fail);

/* Rank 0. Whether every check and row passed, nothing was absent, and something was compared with
 * the reference; weights alone do not count. */
bool report_passes(const report_t *report);
bool report_row_used(const report_t *report, report_table_t table, size_t row);

/* "[7, 192]" */
void report_format_dims(char *text, size_t bytes, size_t n_dims, const size_t *dims);

/* The closing line: the first failure, or how much passed. */
void report_summary(const report_t *report, char *text, size_t text_bytes);

/* The table as text. */
void report_print(const report_t *report, FILE *out);
/* A new object; NULL when out of memory. */
json_t *report_json(const report_t *report);

#endif
