#include <string.h>

#include "launch/bench_report.h"

#define DIGEST_BYTES 17

static void set_digest(json_t *object, const char *key, uint64_t digest)
{
    char text[DIGEST_BYTES];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)digest);
    json_object_set_new(object, key, json_string(text));
}

static void set_size(json_t *object, const char *key, size_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void set_string(json_t *object, const char *key, const char *value)
{
    json_object_set_new(object, key, json_string(value));
}

/* A rate that this CPU has no instructions for is null. */
static json_t *number(double value)
{
    return value > 0 ? json_real(value) : json_null();
}

static void set_about(json_t *object, const bench_about_t *about)
{
    set_size(object, "schema", 1);
    set_string(object, "version", CHOIR_VERSION);
    set_string(object, "time_utc", about->time_utc);
    set_string(object, "cpu", about->cpu);
    set_string(object, "model", about->model);
    set_digest(object, "config_digest", about->config_digest);
    set_size(object, "layers", about->n_layers);
    set_size(object, "model_layers", about->model_layers);
    set_string(object, "dtype", about->dtype);
    set_string(object, "isa", about->isa);
    set_string(object, "dot", about->dot);
    set_size(object, "ranks", about->ranks);
    set_size(object, "threads", about->threads);
    set_size(object, "repeat", about->options.repeat);
}

static void set_run(json_t *object, const bench_about_t *about)
{
    if (about->format != NULL)
        set_string(object, "format", about->format);
    set_string(object, "weights", about->random_weights ? "random" : "checkpoint");
    set_string(object, "order", about->order);
    set_string(object, "attention", about->attention);
    set_string(object, "combine", about->combine);
    set_string(object, "comm", about->comm);
    set_size(object, "nodes", about->nodes);
    set_size(object, "replicas", about->replicas);
    set_size(object, "prompt_tokens", about->options.prompt_tokens);
    set_size(object, "gen_tokens", about->options.gen_tokens);
    set_size(object, "batch", about->options.batch);
    set_size(object, "context", about->options.context);
    set_size(object, "warmup", about->options.warmup);
    set_size(object, "read_bytes_per_rank", about->options.read_bytes);
}

static void set_metrics(json_t *object, const bench_report_t *report)
{
    json_t *least = json_object(), *most = json_object(), *samples = json_object();
    for (int m = 0; m < BENCH_METRICS; m++) {
        const char *name = bench_metric_name((bench_metric_t)m);
        bench_spread_t spread = bench_spread(report, (bench_metric_t)m);
        json_t *values = json_array();
        for (size_t i = 0; i < report->repeat; i++)
            json_array_append_new(values, number(report->values[(size_t)m * report->repeat + i]));
        json_object_set_new(object, name, number(spread.median));
        json_object_set_new(least, name, number(spread.min));
        json_object_set_new(most, name, number(spread.max));
        json_object_set_new(samples, name, values);
    }
    json_object_set_new(object, "min", least);
    json_object_set_new(object, "max", most);
    json_object_set_new(object, "samples", samples);
}

static json_t *splits(const bench_report_t *report, bench_phase_t phase)
{
    json_t *array = json_array();
    for (size_t r = 0; r < report->n_ranks; r++) {
        const bench_split_t *split = &report->splits[(size_t)phase * report->n_ranks + r];
        json_array_append_new(array,
            json_pack("{sI sf sf sf sf sf sf}", "rank", (json_int_t)r, "matrix_s", split->matrix,
                "attention_s", split->attention, "elementwise_s", split->elementwise, "exchange_s",
                split->exchange, "waiting_s", split->waiting, "sampling_s", split->sampling));
    }
    return array;
}

json_t *bench_json(const bench_about_t *about, const bench_report_t *report)
{
    json_t *object = json_object();
    if (object == NULL)
        return NULL;
    set_about(object, about);
    set_run(object, about);
    set_digest(object, "logits_digest", report->logits_digest);
    json_object_set_new(object, "prefill_weight_bytes", json_real(report->prefill_bytes));
    json_object_set_new(object, "decode_weight_bytes", json_real(report->weight_bytes));
    json_object_set_new(object, "decode_kv_bytes", json_real(report->kv_bytes));
    json_object_set_new(object, "prefill_flop", json_real(report->prefill_flop));
    json_object_set_new(object, "prefill_attention_flop", json_real(report->attention_flop));
    json_object_set_new(object, "decode_flop", json_real(report->decode_flop));
    set_metrics(object, report);
    json_object_set_new(object, "prefill_split", splits(report, BENCH_PREFILL));
    json_object_set_new(object, "decode_split", splits(report, BENCH_DECODE));
    return object;
}

json_t *bench_about_json(const bench_about_t *about)
{
    json_t *object = json_object();
    if (object != NULL)
        set_about(object, about);
    return object;
}

/* What was measured where, and an array of rows; NULL when out of memory. */
static json_t *rows_json(const bench_about_t *about, const char *name, const void *rows,
    size_t n_rows, json_t *(*row_json)(const void *rows, size_t i))
{
    json_t *object = json_object(), *array = json_array();
    if (object == NULL || array == NULL) {
        json_decref(object);
        json_decref(array);
        return NULL;
    }
    set_about(object, about);
    for (size_t i = 0; i < n_rows; i++)
        json_array_append_new(array, row_json(rows, i));
    json_object_set_new(object, name, array);
    return object;
}

static json_t *gemm_row(const void *rows, size_t i)
{
    const bench_gemm_row_t *row = (const bench_gemm_row_t *)rows + i;
    return json_pack("{ss sI sI sI sI sI so so so so so so}", "matrix", row->name, "rows",
        (json_int_t)row->rows, "outputs", (json_int_t)row->outputs, "inputs",
        (json_int_t)row->inputs, "threads", (json_int_t)row->threads, "samples",
        (json_int_t)row->samples, "seconds", number(row->seconds), "flop_per_s",
        number(row->flop / row->seconds), "weight_bytes_per_s",
        number(row->weight_bytes / row->seconds), "blas_seconds", number(row->blas_seconds),
        "blas_flop_per_s", number(row->blas_seconds > 0 ? row->flop / row->blas_seconds : 0),
        "speedup", number(row->blas_seconds > 0 ? row->blas_seconds / row->seconds : 0));
}

json_t *bench_gemm_json(const bench_about_t *about, const bench_gemm_t *gemm)
{
    json_t *object = rows_json(about, "gemm", gemm->rows, gemm->n_rows, gemm_row);
    if (object != NULL) {
        set_string(object, "library", gemm->library);
        set_string(object, "library_function", gemm->function);
    }
    return object;
}

static json_t *kernel_row(const void *rows, size_t i)
{
    const bench_kernel_row_t *row = (const bench_kernel_row_t *)rows + i;
    return json_pack("{ss sI sI sI sI so so so so so so}", "kernel", row->name, "rows",
        (json_int_t)row->shape.rows, "n", (json_int_t)row->shape.n, "k", (json_int_t)row->shape.k,
        "variant", (json_int_t)row->shape.variant, "seconds", number(row->seconds), "flop",
        number(row->flop), "bytes", number(row->bytes), "roof_seconds", number(row->roof_seconds),
        "share_of_roof", number(row->roof_seconds / row->seconds), "scalar_seconds",
        number(row->scalar_seconds));
}

json_t *bench_kernels_json(const bench_about_t *about, const bench_kernels_t *kernels)
{
    return rows_json(about, "kernels", kernels->rows, kernels->n_rows, kernel_row);
}

/* ---- CSV ------------------------------------------------------------------------------------- */

static void write_quoted(const char *text, FILE *out)
{
    fputc('"', out);
    for (; *text != 0; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void write_value(const json_t *value, FILE *out)
{
    if (json_is_string(value))
        write_quoted(json_string_value(value), out);
    else if (json_is_integer(value))
        fprintf(out, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        fprintf(out, "%.9g", json_real_value(value));
}

void bench_write_csv(const json_t *object, bool with_names, FILE *out)
{
    const char *key;
    json_t *value;
    for (int line = with_names ? 0 : 1; line < 2; line++) {
        bool first = true;
        json_object_foreach ((json_t *)(uintptr_t)object, key, value) {
            if (json_is_object(value) || json_is_array(value))
                continue;
            if (!first)
                fputc(',', out);
            first = false;
            if (line == 0)
                fputs(key, out);
            else
                write_value(value, out);
        }
        fputc('\n', out);
    }
}

/* ---- Files ----------------------------------------------------------------------------------- */

int bench_sink_open(bench_sink_t *sink, const char *path, fail_t *fail)
{
    *sink = (bench_sink_t){.is_empty = true};
    if (path == NULL || out_file_open(&sink->out, path, OUT_APPEND, fail) != 0)
        return fail->status;
    sink->file = out_file_stream(sink->out);
    sink->is_empty = out_file_is_new(sink->out);
    return 0;
}

int bench_sink_close(bench_sink_t *sink, fail_t *fail)
{
    out_file_close(sink->out, fail);
    *sink = (bench_sink_t){0};
    return fail->status;
}
