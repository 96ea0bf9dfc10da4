#include "engine/verify/verify_report.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/printable.h"
#include "engine/model/arch/arch.h"

/* ---- Filling --------------------------------------------------------------------------------- */

int report_open(report_t **out, double tolerance, fail_t *fail)
{
    report_t *report = calloc(1, sizeof *report);
    *out = NULL;
    if (report == NULL)
        return fail_set(fail, FAIL_MEMORY, "report: out of memory");
    report->tolerance = tolerance;
    report->header = json_object();
    report->notes = json_array();
    report->checks = json_array();
    report->missing = json_array();
    report->shapes_differ = json_array();
    report->unfed = json_array();
    if (report->header == NULL || report->notes == NULL || report->checks == NULL ||
        report->missing == NULL || report->shapes_differ == NULL || report->unfed == NULL) {
        report_close(report);
        return fail_set(fail, FAIL_MEMORY, "report: out of memory");
    }
    *out = report;
    return 0;
}

void report_close(report_t *report)
{
    if (report == NULL)
        return;
    json_decref(report->header);
    json_decref(report->notes);
    json_decref(report->checks);
    json_decref(report->missing);
    json_decref(report->shapes_differ);
    json_decref(report->unfed);
    free(report);
}

static json_t *format_text(const char *format, va_list args)
{
    char text[2048];
    vsnprintf(text, sizeof text, format, args);
    return json_string(printable_name(text).text);
}

void report_note(report_t *report, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    json_array_append_new(report->notes, format_text(format, args));
    va_end(args);
}

void report_check(
    report_t *report, const char *check, report_status_t status, const char *format, ...)
{
    static const char *const names[] = {"PASS", "FAIL", "SKIP"};
    va_list args;
    va_start(args, format);
    json_array_append_new(report->checks, json_pack("{s:s, s:s, s:o}", "check", check, "status",
                                              names[status], "detail", format_text(format, args)));
    va_end(args);
}

void report_add_shape(
    report_t *report, report_table_t table, size_t row, size_t n_dims, const size_t *dims)
{
    report_shape_t *shape = &report->shapes[table][row];
    if (shape->n_tensors++ == 0) {
        shape->n_dims = n_dims;
        memcpy(shape->dims, dims, n_dims * sizeof *dims);
    }
    for (size_t d = 0; d < shape->n_dims; d++)
        if (d >= n_dims || shape->dims[d] != dims[d])
            shape->varies[d] = true;
}

static bool earlier(const report_divergence_t *a, const report_divergence_t *b)
{
    return a->order != b->order ? a->order < b->order : a->index < b->index;
}

/* Keeps the earlier one of *kept and the new one. */
static void report_keep_first(report_divergence_t *kept, const report_divergence_t *divergence)
{
    if (divergence->found && (!kept->found || earlier(divergence, kept)))
        *kept = *divergence;
}

static void keep_place(
    report_divergence_t *kept, const report_divergence_t *where, const compare_place_t *place)
{
    report_divergence_t found = *where;
    found.found = place->found;
    found.index = place->index;
    found.got = place->got;
    found.expected = place->expected;
    report_keep_first(kept, &found);
}

void report_add(report_t *report, report_table_t table, const compare_t *compare,
    const report_divergence_t *where)
{
    report_totals_t *totals = &report->totals;
    compare_merge(&totals->cells[table][where->place.kind], compare);
    keep_place(&totals->first[table], where, &compare->difference);
    keep_place(&totals->nonfinite[table], where, &compare->nonfinite);
    keep_place(&totals->nonfinite[table], where, &compare->expected_nonfinite);
}

void report_gather(report_t *report, comm_t *comm, fail_t *fail)
{
    size_t n_ranks = (size_t)comm_size(comm);
    bool root = comm_rank(comm) == 0;
    report_totals_t *all = malloc((root ? n_ranks : 1) * sizeof *all);
    if (all == NULL)
        fail_set(fail, FAIL_MEMORY, "report: out of memory for %zu ranks", n_ranks);
    if (comm_agree(comm, fail) == 0) {
        comm_gather_root(comm, &report->totals, sizeof report->totals, all);
        for (size_t r = 1; root && r < n_ranks; r++)
            for (size_t table = 0; table < REPORT_TABLES; table++) {
                for (size_t row = 0; row < REPORT_ROWS; row++)
                    compare_merge(&report->totals.cells[table][row], &all[r].cells[table][row]);
                report_keep_first(&report->totals.first[table], &all[r].first[table]);
                report_keep_first(&report->totals.nonfinite[table], &all[r].nonfinite[table]);
            }
    }
    free(all);
}

/* ---- Questions ------------------------------------------------------------------------------- */

static const char *report_row_name(report_table_t table, size_t row)
{
    if (table == REPORT_WEIGHTS)
        return arch_role_label((weight_role_t)row);
    return reference_kind_name(row);
}

static const char *report_table_title(report_table_t table)
{
    static const char *const titles[REPORT_TABLES] = {
        "weights, as packed in memory",
        "eager attention, isolated: each component fed with the reference's inputs",
        "sdpa attention, isolated: fed with the reference's inputs",
        "eager attention, chained: the whole forward",
        "sdpa attention, chained: the whole forward",
        "eager attention, logits of the unobserved forward",
        "sdpa attention, logits of the unobserved forward",
        "candidate, eager attention",
        "candidate, sdpa attention",
    };
    return titles[table];
}

bool report_row_used(const report_t *report, report_table_t table, size_t row)
{
    return report->totals.cells[table][row].n_values > 0;
}

static bool row_fails(const report_t *report, size_t table, size_t row)
{
    return !compare_passes(&report->totals.cells[table][row], report->tolerance);
}

static const char *check_field(const json_t *check, const char *key)
{
    const char *text = json_string_value(json_object_get(check, key));
    return text != NULL ? text : "";
}

static bool check_fails(const json_t *check)
{
    return strcmp(check_field(check, "status"), "FAIL") == 0;
}

bool report_passes(const report_t *report)
{
    size_t i, n_used = 0;
    json_t *check;
    json_array_foreach (report->checks, i, check) {
        if (check_fails(check))
            return false;
    }
    for (size_t table = 0; table < REPORT_TABLES; table++)
        for (size_t row = 0; row < REPORT_ROWS; row++) {
            n_used +=
                table != REPORT_WEIGHTS && report_row_used(report, (report_table_t)table, row);
            if (row_fails(report, table, row))
                return false;
        }
    return n_used > 0 && json_array_size(report->shapes_differ) == 0 &&
           (report->partial || json_array_size(report->missing) == 0);
}

static size_t count_compared(const report_t *report)
{
    size_t n = report->n_bytes_equal;
    for (size_t table = 0; table < REPORT_TABLES; table++)
        for (size_t row = 0; row < REPORT_ROWS; row++)
            if (report_row_used(report, (report_table_t)table, row))
                n += report->shapes[table][row].n_tensors;
    return n;
}

/* Of the reference: values without a table. */
static size_t count_unfed(const report_t *report)
{
    return report->isolated ? json_array_size(report->unfed) : 0;
}

/* Compared values, and those that should have been compared. */
static size_t count_expected(const report_t *report)
{
    return count_compared(report) + json_array_size(report->missing) +
           json_array_size(report->shapes_differ) + count_unfed(report);
}

/* ---- Text ------------------------------------------------------------------------------------ */

#define TEXT_BYTES 256

void report_format_dims(char *text, size_t bytes, size_t n_dims, const size_t *dims)
{
    size_t used = (size_t)snprintf(text, bytes, "[");
    for (size_t d = 0; d < n_dims; d++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%zu", d > 0 ? ", " : "", dims[d]);
    snprintf(text + used, bytes - used, "]");
}

static void format_shape(char *text, const report_shape_t *shape)
{
    size_t used = (size_t)snprintf(text, TEXT_BYTES, "[");
    for (size_t d = 0; d < shape->n_dims; d++) {
        const char *comma = d > 0 ? ", " : "";
        if (shape->varies[d])
            used += (size_t)snprintf(text + used, TEXT_BYTES - used, "%s*", comma);
        else
            used +=
                (size_t)snprintf(text + used, TEXT_BYTES - used, "%s%zu", comma, shape->dims[d]);
    }
    snprintf(text + used, TEXT_BYTES - used, "]");
}

/* "prompt 2, decode step, layer 3, q_proj" */
static void format_place(char *text, report_table_t table, const reference_place_t *place)
{
    const char *name = report_row_name(table, place->kind);
    char layer[48] = "";
    bool weights = table == REPORT_WEIGHTS;
    bool layered = weights ? place->kind > WEIGHT_EMBEDDING && place->kind < WEIGHT_FINAL_NORM
                           : reference_kind_has_layer(place->kind);
    if (layered)
        snprintf(layer, sizeof layer, ", layer %zu", place->layer);
    if (weights)
        snprintf(text, TEXT_BYTES, "%s%s", name, layer);
    else
        snprintf(text, TEXT_BYTES, "%s%s, prompt %zu%s", name, layer, place->prompt,
            place->decode ? ", decode step" : "");
}

/* A flat index as one of each dimension. */
static void format_index(char *text, uint64_t index, size_t n_dims, const size_t *dims)
{
    size_t parts[3] = {0};
    for (size_t d = n_dims; d-- > 0;) {
        parts[d] = (size_t)(d == 0 || dims[d] == 0 ? index : index % dims[d]);
        index = dims[d] == 0 ? 0 : index / dims[d];
    }
    report_format_dims(text, TEXT_BYTES, n_dims, parts);
}

static void format_divergence(
    char *text, size_t bytes, report_table_t table, const report_divergence_t *d)
{
    char place[TEXT_BYTES], index[TEXT_BYTES], ranks[64] = "";
    format_place(place, table, &d->place);
    format_index(index, d->index, d->n_dims, d->dims);
    if (table < REPORT_DUMPS) {
        int used = snprintf(ranks, sizeof ranks, ", rank %zu", d->rank);
        if (d->seen_by != d->rank)
            snprintf(ranks + used, sizeof ranks - (size_t)used, " (seen on rank %zu)", d->seen_by);
    }
    snprintf(text, bytes, "%s%s, index %s: got %.9g, expected %.9g", place, ranks, index, d->got,
        d->expected);
}

/* Never 100 when anything differs. */
static void format_share(char *text, const compare_t *c)
{
    double share = 100.0 * (double)c->n_equal / (double)c->n_values;
    if (c->n_equal == c->n_values)
        snprintf(text, TEXT_BYTES, "100 %%");
    else
        snprintf(text, TEXT_BYTES, "%.4f %%", share > 99.9999 ? 99.9999 : share);
}

static size_t name_width(const report_t *report)
{
    size_t width = 9;
    for (size_t table = 0; table < REPORT_TABLES; table++)
        for (size_t row = 0; row < REPORT_ROWS; row++) {
            size_t n = strlen(report_row_name((report_table_t)table, row));
            if (report_row_used(report, (report_table_t)table, row) && n > width)
                width = n;
        }
    return width;
}

static void print_nonfinite(const compare_t *c, FILE *out)
{
    if (c->n_nan + c->n_infinite > 0)
        fprintf(out, "    %llu NaN and %llu infinite values\n", (unsigned long long)c->n_nan,
            (unsigned long long)c->n_infinite);
    if (c->n_expected_nan + c->n_expected_infinite > 0)
        fprintf(out, "    %llu NaN and %llu infinite values in the reference\n",
            (unsigned long long)c->n_expected_nan, (unsigned long long)c->n_expected_infinite);
}

static void print_row(
    const report_t *report, report_table_t table, size_t row, int width, FILE *out)
{
    const compare_t *c = &report->totals.cells[table][row];
    const report_shape_t *shape = &report->shapes[table][row];
    char shape_text[TEXT_BYTES], share[TEXT_BYTES];
    format_shape(shape_text, shape);
    format_share(share, c);
    fprintf(out, "%-*s  %-16s %7zu  %10s  %9.2e  %9.2e", width, report_row_name(table, row),
        shape_text, shape->n_tensors, share, c->max_abs, compare_rms(c));
    if (report->relative)
        fprintf(out, "  %9.2e", c->max_relative);
    fprintf(out, "  %6llu  %s\n", (unsigned long long)c->max_ulps,
        row_fails(report, table, row) ? "FAIL" : "PASS");
    print_nonfinite(c, out);
}

static bool table_used(const report_t *report, size_t table)
{
    for (size_t row = 0; row < REPORT_ROWS; row++)
        if (report_row_used(report, (report_table_t)table, row))
            return true;
    return false;
}

static void print_first(
    const char *title, report_table_t table, const report_divergence_t *first, FILE *out)
{
    char text[4 * TEXT_BYTES];
    if (!first->found)
        return;
    format_divergence(text, sizeof text, table, first);
    fprintf(out, "%s: %s\n", title, printable_name(text).text);
}

static void print_table(const report_t *report, report_table_t table, int width, FILE *out)
{
    fprintf(out, "\n%s\n%-*s  %-16s %7s  %10s  %9s  %9s%s  %6s  status\n",
        report_table_title(table), width, table == REPORT_WEIGHTS ? "weights" : "component",
        "shape", "tensors", "equal", "max diff", "rms diff", report->relative ? "  of row's" : "",
        "ulps");
    for (size_t row = 0; row < REPORT_ROWS; row++)
        if (report_row_used(report, table, row))
            print_row(report, table, row, width, out);
    print_first("first divergence", table, &report->totals.first[table], out);
    print_first("first NaN or infinity", table, &report->totals.nonfinite[table], out);
}

static void print_list(const json_t *list, const char *title, FILE *out)
{
    const size_t most = 12, n = json_array_size(list);
    if (n == 0)
        return;
    fprintf(out, "\n%s (%zu)\n", title, n);
    for (size_t i = 0; i < n && i < most; i++)
        fprintf(out, "  %s\n", printable_name(json_string_value(json_array_get(list, i))).text);
    if (n > most)
        fprintf(out, "  and %zu more (all of them with --json)\n", n - most);
}

void report_print(const report_t *report, FILE *out)
{
    size_t i;
    json_t *item;
    char last[2 * TEXT_BYTES];
    int width = (int)name_width(report);
    json_array_foreach (report->notes, i, item) {
        fprintf(out, "note: %s\n", json_string_value(item));
    }
    json_array_foreach (report->checks, i, item) {
        fprintf(out, "%-13s  %s  %s\n", check_field(item, "check"), check_field(item, "status"),
            check_field(item, "detail"));
    }
    for (size_t table = 0; table < REPORT_TABLES; table++)
        if (table_used(report, table))
            print_table(report, (report_table_t)table, width, out);
    print_list(report->missing, "missing, not compared", out);
    print_list(report->shapes_differ, "other shapes, not compared", out);
    if (json_array_size(report->unfed) > 0)
        fprintf(out, "\n%zu tensors are %s: the reference lacks their inputs\n",
            json_array_size(report->unfed),
            report->isolated ? "not compared" : "compared in the chained table alone");
    if (report_passes(report)) {
        report_summary(report, last, sizeof last);
        fprintf(out, "\npassed: %s\n", last);
    }
}

/* How much was compared, and how equal it is. */
static void summarize_pass(const report_t *report, char *text, size_t text_bytes)
{
    const size_t n = count_compared(report), n_expected = count_expected(report);
    double largest = 0;
    char difference[96] = "equal";
    for (size_t table = 0; table < REPORT_TABLES; table++)
        for (size_t row = 0; row < REPORT_ROWS; row++)
            if (report->totals.cells[table][row].max_abs > largest)
                largest = report->totals.cells[table][row].max_abs;
    if (largest > 0)
        snprintf(difference, sizeof difference,
            "differences of at most %.3g, within --tolerance %g", largest, report->tolerance);
    int used = snprintf(text, text_bytes, "%s%zu tensor%s of %zu compared: %s",
        n == n_expected ? "all " : "", n, plural(n), n_expected, difference);
    const size_t n_unfed = count_unfed(report), n_missing = json_array_size(report->missing);
    if (n_missing > 0)
        used += snprintf(text + used, text_bytes - (size_t)used,
            "; %zu missing, which --partial allows", n_missing);
    if (n_unfed > 0)
        snprintf(text + used, text_bytes - (size_t)used,
            "; %zu without their inputs in the reference", n_unfed);
}

static bool summarize_values(const report_t *report, char *text, size_t text_bytes)
{
    char divergence[4 * TEXT_BYTES];
    for (size_t table = 0; table < REPORT_TABLES; table++)
        for (size_t row = 0; row < REPORT_ROWS; row++) {
            if (!row_fails(report, table, row))
                continue;
            format_divergence(
                divergence, sizeof divergence, (report_table_t)table, &report->totals.first[table]);
            snprintf(
                text, text_bytes, "%s: %s", report_table_title((report_table_t)table), divergence);
            return true;
        }
    return false;
}

/* The earliest: tables are in the order of causes. */
void report_summary(const report_t *report, char *text, size_t text_bytes)
{
    size_t i, n_missing = json_array_size(report->missing);
    json_t *check;
    json_array_foreach (report->checks, i, check) {
        if (check_fails(check)) {
            snprintf(text, text_bytes, "%s: %s", check_field(check, "check"),
                check_field(check, "detail"));
            return;
        }
    }
    if (summarize_values(report, text, text_bytes))
        return;
    if (json_array_size(report->shapes_differ) > 0)
        snprintf(
            text, text_bytes, "%s", json_string_value(json_array_get(report->shapes_differ, 0)));
    else if (n_missing > 0 && !report->partial)
        snprintf(text, text_bytes, "%zu of %zu tensors are missing, the first %s", n_missing,
            count_expected(report), json_string_value(json_array_get(report->missing, 0)));
    else if (!report_passes(report))
        snprintf(text, text_bytes, "nothing was compared with the reference");
    else
        summarize_pass(report, text, text_bytes);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* JSON has no infinities. */
static json_t *real(double value)
{
    json_t *number = json_real(value);
    return number != NULL ? number : json_sprintf("%g", value);
}

static json_t *place_json(const compare_place_t *place)
{
    if (!place->found)
        return json_null();
    return json_pack("{s:I, s:o, s:o}", "index", (json_int_t)place->index, "got", real(place->got),
        "expected", real(place->expected));
}

static json_t *shape_json(const report_shape_t *shape)
{
    json_t *list = json_array();
    for (size_t d = 0; d < shape->n_dims; d++)
        json_array_append_new(
            list, shape->varies[d] ? json_null() : json_integer((json_int_t)shape->dims[d]));
    return list;
}

static json_t *row_json(const report_t *report, report_table_t table, size_t row)
{
    const compare_t *c = &report->totals.cells[table][row];
    const report_shape_t *shape = &report->shapes[table][row];
    return json_pack(
        "{s:s, s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:s}",
        "component", report_row_name(table, row), "shape", shape_json(shape), "tensors",
        (json_int_t)shape->n_tensors, "elements", (json_int_t)c->n_values, "equal",
        (json_int_t)c->n_equal, "max_abs", real(c->max_abs), "rms", real(compare_rms(c)),
        "max_of_row", report->relative ? real(c->max_relative) : json_null(), "max_ulps",
        (json_int_t)c->max_ulps, "nan", (json_int_t)c->n_nan, "infinite", (json_int_t)c->n_infinite,
        "reference_nan", (json_int_t)c->n_expected_nan, "reference_infinite",
        (json_int_t)c->n_expected_infinite, "first_difference", place_json(&c->difference),
        "first_nonfinite", place_json(&c->nonfinite), "reference_first_nonfinite",
        place_json(&c->expected_nonfinite), "status",
        row_fails(report, table, row) ? "FAIL" : "PASS");
}

static json_t *divergence_json(report_table_t table, const report_divergence_t *d)
{
    char index[TEXT_BYTES];
    if (!d->found)
        return json_null();
    format_index(index, d->index, d->n_dims, d->dims);
    return json_pack("{s:s, s:I, s:I, s:b, s:I, s:I, s:s, s:o, s:o}", "component",
        report_row_name(table, d->place.kind), "layer", (json_int_t)d->place.layer, "prompt",
        (json_int_t)d->place.prompt, "decode", d->place.decode, "rank", (json_int_t)d->rank,
        "seen_by", (json_int_t)d->seen_by, "index", index, "got", real(d->got), "expected",
        real(d->expected));
}

static json_t *table_json(const report_t *report, report_table_t table)
{
    json_t *rows = json_array();
    for (size_t row = 0; row < REPORT_ROWS; row++)
        if (report_row_used(report, table, row))
            json_array_append_new(rows, row_json(report, table, row));
    return json_pack("{s:s, s:o, s:o, s:o}", "title", report_table_title(table), "rows", rows,
        "first_divergence", divergence_json(table, &report->totals.first[table]), "first_nonfinite",
        divergence_json(table, &report->totals.nonfinite[table]));
}

json_t *report_json(const report_t *report)
{
    json_t *tables = json_array(), *root = json_copy(report->header);
    for (size_t table = 0; table < REPORT_TABLES; table++)
        if (table_used(report, table))
            json_array_append_new(tables, table_json(report, (report_table_t)table));
    json_t *rest =
        json_pack("{s:O, s:O, s:o, s:O, s:O, s:O, s:f, s:b, s:I, s:I, s:b}", "notes", report->notes,
            "checks", report->checks, "tables", tables, "missing", report->missing, "shapes_differ",
            report->shapes_differ, "unfed", report->unfed, "tolerance", report->tolerance,
            "partial", report->partial, "compared", (json_int_t)count_compared(report), "expected",
            (json_int_t)count_expected(report), "passed", report_passes(report));
    if (root == NULL || rest == NULL || json_object_update(root, rest) != 0) {
        json_decref(root);
        root = NULL;
    }
    json_decref(rest);
    return root;
}
