#include "engine/measure/predict_rows.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/array.h"
#include "engine/base/json.h"

#define MOST_ROWS_BYTES ((size_t)1 << 28)

typedef struct error_list {
    size_t n;
    double *values; /* [n] |predicted / measured - 1| */
} error_list_t;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int add_error(error_list_t *errors, double predicted, double measured, fail_t *fail)
{
    if (array_extend(&errors->values, errors->n, sizeof *errors->values, "rows", fail) == 0)
        errors->values[errors->n++] = fabs(predicted / measured - 1);
    return fail->status;
}

static int read_row(json_t *object, const char *path, predict_row_t *row, fail_t *fail)
{
    const struct {
        const char *name;
        size_t *value;
    } sizes[] = {{"layers", &row->layers}, {"ranks", &row->ranks}, {"nodes", &row->nodes},
        {"threads", &row->threads}, {"replicas", &row->replicas}, {"batch", &row->batch},
        {"prompt_tokens", &row->prompt_tokens}, {"context", &row->context},
        {"gen_tokens", &row->gen_tokens}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (json_get_size(object, path, sizes[i].name, 1, 1 << 24, sizes[i].value, fail) != 0)
            return fail->status;
    row->prefill = row->decode = 0;
    json_opt_double(object, path, "prefill_tokens_per_s", 0, 1e18, &row->prefill, fail);
    json_opt_double(object, path, "decode_tokens_per_s", 0, 1e18, &row->decode, fail);
    if (fail->status == 0 && (row->prefill <= 0 || row->decode <= 0))
        fail_set(fail, FAIL_FORMAT, "%s: expected tokens/s above 0, found none", path);
    return fail->status;
}

typedef struct job {
    const predict_query_t *query;
    const config_t *config;
    const char *path;
    predict_row_fn tell;
    void *context;
    error_list_t errors;
} job_t;

static int take_row(job_t *job, const predict_row_t *row, fail_t *fail)
{
    plan_model_t model = *job->query->model;
    predict_query_t query = *job->query;
    predict_mesh_t mesh;
    model.n_layers = row->layers;
    query.model = &model;
    query.ranks_per_node = (row->ranks + row->nodes - 1) / row->nodes;
    query.threads = row->threads;
    query.work.batch = row->batch * row->replicas;
    query.work.prompt_tokens = row->prompt_tokens;
    query.work.context = row->context;
    query.work.gen_tokens = row->gen_tokens;
    if (predict_mesh(&query, row->ranks, row->replicas, &mesh, fail) != 0)
        return fail->status;
    job->tell(job->context, row, &mesh);
    if (add_error(&job->errors, mesh.prefill_tokens_per_s, row->prefill, fail) == 0)
        add_error(&job->errors, mesh.decode_tokens_per_s, row->decode, fail);
    return fail->status;
}

static int take_line(job_t *job, size_t number, const char *text, size_t bytes, fail_t *fail)
{
    const char *digest = "";
    char mine[17], path[4096];
    json_t *object = NULL;
    predict_row_t row;
    snprintf(path, sizeof path, "%s: line %zu", job->path, number);
    snprintf(mine, sizeof mine, "%016llx", (unsigned long long)config_digest(job->config));
    if (json_line_read(text, bytes, path, &object, fail) == 0 &&
        json_opt_string(object, path, "config_digest", &digest, fail) == 0 &&
        strcmp(digest, mine) == 0 && read_row(object, path, &row, fail) == 0)
        take_row(job, &row, fail);
    json_decref(object);
    return fail->status;
}

static predict_errors_t summarise(error_list_t *errors)
{
    size_t n = errors->n;
    qsort(errors->values, n, sizeof *errors->values, by_value);
    return (predict_errors_t){.n = n,
        .median = (errors->values[(n - 1) / 2] + errors->values[n / 2]) / 2,
        .largest = errors->values[n - 1]};
}

int predict_rows(const predict_query_t *query, const config_t *config, const char *path,
    predict_row_fn tell, void *context, predict_errors_t *errors, fail_t *fail)
{
    char *text = NULL;
    size_t bytes, number = 1;
    job_t job = {.query = query, .config = config, .path = path, .tell = tell, .context = context};
    if (text_file_read(path, MOST_ROWS_BYTES, &text, &bytes, fail) != 0)
        return fail->status;
    for (char *line = text; *line != 0 && fail->status == 0; number++) {
        size_t length = strcspn(line, "\n");
        if (length > 0)
            take_line(&job, number, line, length, fail);
        line += length + (line[length] == '\n');
    }
    if (fail->status == 0 && job.errors.n == 0)
        fail_set(fail, FAIL_FORMAT, "%s: expected rows of this model, found none", path);
    if (fail->status == 0)
        *errors = summarise(&job.errors);
    free(job.errors.values);
    free(text);
    return fail->status;
}
