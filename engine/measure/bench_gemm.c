#include "engine/measure/bench_gemm.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/base/team.h"
#include "engine/kernels/blas.h"
#include "engine/kernels/fold.h"
#include "engine/model/arch/arch.h"

#define CACHES ((size_t)256 << 20) /* bytes of weights, more than any cache */
#define SAMPLE_S 0.01
#define CELL_S 2.0 /* no further sample of a shape after this time */
#define PAUSE_NS 40000000
#define MAX_SHAPES 8
#define GIB 1073741824.0

static const size_t row_counts[] = {1, 2, 8, 16, 64, 512};
enum { ROW_COUNTS = sizeof row_counts / sizeof *row_counts, MOST_ROWS = 512, MAX_SAMPLES = 1000 };

typedef struct shape {
    char name[16];
    size_t outputs, inputs;
} shape_t;

typedef struct gemm_bench {
    const bench_gemm_options_t *options;
    bench_gemm_t *result;
    kernels_t kernels;
    blas_t blas;
    dtype_t blas_type;
    team_t *team;
    topology_binding_t *binding, *anywhere; /* of the team; of the caller beside it */
    /* The current shape. */
    size_t outputs, inputs, rows, threads;
    matrix_t *ours; /* [copies], parts of weights */
    size_t copies, blas_copies, next;
    size_t weight_bytes, blas_bytes; /* of one copy */
    char *weights, *blas_weights;
    char *x, *y, *blas_x, *blas_y; /* rows in and out */
    size_t x_stride;
    char *products; /* [threads][MATRIX_MAX_PANELS][MOST_ROWS, KERNEL_PANEL] accumulators */
} gemm_bench_t;

/* ---- Shapes ---------------------------------------------------------------------------------- */

static size_t add_shape(shape_t *shapes, size_t n, const char *name, size_t outputs, size_t inputs)
{
    for (size_t i = 0; i < n; i++)
        if (shapes[i].outputs == outputs && shapes[i].inputs == inputs) {
            size_t used = strlen(shapes[i].name);
            snprintf(shapes[i].name + used, sizeof shapes[i].name - used, ",%s", name);
            return n;
        }
    shapes[n] = (shape_t){.outputs = outputs, .inputs = inputs};
    snprintf(shapes[n].name, sizeof shapes[n].name, "%s", name);
    return n + 1;
}

static size_t list_shapes(const config_t *c, shape_t shapes[MAX_SHAPES])
{
    const plan_model_t sizes = config_plan_model(c, DTYPE_BF16);
    const arch_weight_t *weight;
    size_t n = 0;
    for (size_t i = 0; (weight = arch_weight(c, i)) != NULL; i++) {
        char name[sizeof shapes->name];
        const plan_weight_t *w = &weight->shape;
        if (!w->per_layer || w->columns == PLAN_DIM_NONE)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(weight->label, "_"), weight->label);
        n = add_shape(shapes, n, name, plan_dim(&sizes, w->rows), plan_dim(&sizes, w->columns));
    }
    return add_shape(shapes, n, arch_role_label(WEIGHT_LM_HEAD), c->vocab_size, c->hidden_size);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static size_t copies_of(size_t bytes)
{
    return bytes == 0 ? 1 : (CACHES + bytes - 1) / bytes;
}

static void set_shape(gemm_bench_t *g, const shape_t *shape)
{
    dtype_t mode = g->options->mode;
    g->outputs = shape->outputs;
    g->inputs = shape->inputs;
    bool fold = g->options->dot == DOT_FOLD;
    g->weight_bytes = format_matrix_bytes(
        matrix_format(mode, g->options->dot, false), shape->outputs, shape->inputs);
    g->blas_bytes = shape->outputs * shape->inputs * dtype_bytes(g->blas_type);
    g->copies = copies_of(g->weight_bytes);
    g->blas_copies = copies_of(g->blas_bytes);
    g->x_stride = size_round_up(fold ? fold_row_elements(shape->inputs) : shape->inputs, 64);
    g->next = 0;
}

typedef struct sizes {
    size_t x, y, blas_x, blas_y, products;
} sizes_t;

static sizes_t sizes_of(const gemm_bench_t *g)
{
    return (sizes_t){.x = MOST_ROWS * g->x_stride * g->kernels.element_bytes,
        .y = MOST_ROWS * g->outputs * g->kernels.element_bytes,
        .blas_x = MOST_ROWS * g->inputs * dtype_bytes(g->blas_type),
        .blas_y = MOST_ROWS * g->outputs * g->kernels.accumulator_bytes,
        .products = g->options->threads * MATRIX_MAX_PANELS * MOST_ROWS * KERNEL_PANEL *
                    g->kernels.accumulator_bytes};
}

static size_t bytes_needed(const gemm_bench_t *g)
{
    sizes_t s = sizes_of(g);
    return g->copies * g->weight_bytes + g->blas_copies * g->blas_bytes + s.x + s.y + s.blas_x +
           s.blas_y + s.products;
}

static int check_memory(gemm_bench_t *g, const shape_t *shapes, size_t n_shapes, fail_t *fail)
{
    size_t available = memory_available_bytes();
    for (size_t i = 0; i < n_shapes; i++) {
        set_shape(g, &shapes[i]);
        if (available != 0 && bytes_needed(g) > available)
            return fail_set(fail, FAIL_MEMORY,
                "memory: %s of %zu outputs and %zu inputs needs %.2f GiB, its copy for %s included, and %.2f GiB are free",
                shapes[i].name, g->outputs, g->inputs, (double)bytes_needed(g) / GIB,
                g->result->function, (double)available / GIB);
    }
    return 0;
}

/* SplitMix64 (Steele, Lea & Flood 2014), to a number in (-1, 1). */
static float random_value(uint64_t i)
{
    uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (float)(int32_t)(x >> 32) * 0x1p-31f;
}

typedef struct fill {
    char *data;
    size_t bytes, n_threads;
    dtype_t type;
} fill_t;

static void fill_thread(void *context, size_t thread)
{
    enum { PIECE = 1024 };
    const fill_t *fill = context;
    float values[PIECE];
    size_t each = dtype_bytes(fill->type);
    team_part_t part = team_part(fill->bytes / each, thread, fill->n_threads);
    for (size_t i = part.begin; i < part.end; i += PIECE) {
        size_t n = size_min(PIECE, part.end - i);
        for (size_t j = 0; j < n; j++)
            values[j] = random_value(i + j);
        dtype_convert(fill->data + i * each, fill->type, values, DTYPE_F32, n);
    }
}

static char *random_memory(gemm_bench_t *g, size_t bytes, dtype_t type, fail_t *fail)
{
    fill_t fill = {.bytes = bytes, .type = type, .n_threads = g->options->threads};
    fill.data = memory_alloc(bytes, "matrices to multiply", fail);
    if (fill.data != NULL)
        team_run(g->team, fill_thread, &fill);
    return fill.data;
}

static void close_shape(gemm_bench_t *g)
{
    sizes_t s = sizes_of(g);
    memory_free(g->weights, g->copies * g->weight_bytes);
    memory_free(g->blas_weights, g->blas_copies * g->blas_bytes);
    memory_free(g->x, s.x);
    memory_free(g->y, s.y);
    memory_free(g->blas_x, s.blas_x);
    memory_free(g->blas_y, s.blas_y);
    memory_free(g->products, s.products);
    free(g->ours);
    g->weights = g->blas_weights = g->x = g->y = g->blas_x = g->blas_y = g->products = NULL;
    g->ours = NULL;
}

/* With DOT_FOLD rows and panels say how small their values are; random_value's are at least 2^-31. */
static void set_depths(gemm_bench_t *g)
{
    enum { DEEPEST = 256 - (127 - 31) };
    const uint32_t depth = DEEPEST;
    for (size_t r = 0; r < MOST_ROWS; r++)
        memcpy((uint16_t *)g->x + r * g->x_stride + fold_inputs(g->inputs), &depth, sizeof depth);
    for (size_t i = 0; i < g->copies; i++)
        for (size_t p = 0; p < matrix_n_panels(&g->ours[i]); p++)
            memcpy((char *)(uintptr_t)matrix_panel(&g->ours[i], p, fold_inputs(g->inputs)), &depth,
                sizeof depth);
}

static int open_shape(gemm_bench_t *g, const shape_t *shape, fail_t *fail)
{
    dtype_t mode = g->options->mode;
    set_shape(g, shape);
    sizes_t s = sizes_of(g);
    g->weights = random_memory(g, g->copies * g->weight_bytes, mode, fail);
    g->blas_weights = random_memory(g, g->blas_copies * g->blas_bytes, g->blas_type, fail);
    g->x = random_memory(g, s.x, mode, fail);
    g->y = random_memory(g, s.y, mode, fail);
    g->blas_x = random_memory(g, s.blas_x, g->blas_type, fail);
    g->blas_y = memory_alloc(s.blas_y, "products", fail);
    g->products = memory_alloc(s.products, "products", fail);
    g->ours = calloc(g->copies, sizeof *g->ours);
    if (g->ours == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory for %zu matrices", g->copies);
    for (size_t i = 0; fail->status == 0 && i < g->copies; i++)
        g->ours[i] = (matrix_t){.format = matrix_format(mode, g->options->dot, false),
            .rows = g->outputs,
            .columns = g->inputs,
            .bytes = g->weight_bytes,
            .panels = g->weights + i * g->weight_bytes};
    if (g->options->dot == DOT_FOLD && fail->status == 0)
        set_depths(g);
    if (fail->status != 0)
        close_shape(g);
    return fail->status;
}

/* ---- Timing ---------------------------------------------------------------------------------- */

/* All rows as rows of a prompt, a single one as a decode step's. */
static void multiply_thread(void *context, size_t thread)
{
    gemm_bench_t *g = context;
    const bench_gemm_options_t *o = g->options;
    const kernels_t *k = &g->kernels;
    const matrix_t *w = &g->ours[g->next % g->copies];
    size_t n_single_rows = g->rows == 1;
    char *c =
        g->products + thread * MOST_ROWS * KERNEL_PANEL * k->accumulator_bytes * MATRIX_MAX_PANELS;
    team_part_t part = team_part(matrix_n_panels(w), thread, g->threads);
    size_t panel_bytes = g->rows * KERNEL_PANEL * k->accumulator_bytes;
    matrix_rows_t rows = {
        .x = g->x, .stride = g->x_stride, .n = g->rows, .n_single_rows = n_single_rows};
    if (matrix_wants_k_blocked(k, o->dot, g->rows, g->inputs)) {
        rows.k_blocked = true;
        rows.stride = g->rows * KERNEL_K_BLOCK;
    }
    for (size_t p = part.begin, n; p < part.end; p += n) {
        n = size_min(
            g->rows < KERNEL_MANY_ROWS ? MATRIX_MAX_PANELS : matrix_panels_together(k, o->dot),
            part.end - p);
        panel_t panels[MATRIX_MAX_PANELS];
        for (size_t i = 0; i < n; i++)
            panels[i] = (panel_t){w, p + i};
        matrix_product(k, o->dot, panels, n, &rows,
            order_linear_leaf(o->order, o->dot, o->mode, g->inputs, true),
            order_linear_leaf(o->order, o->dot, o->mode, g->inputs, false), NULL, c);
        for (size_t i = 0; i < n; i++) {
            size_t column = (p + i) * KERNEL_PANEL,
                   width = size_min(KERNEL_PANEL, g->outputs - column);
            k->store(g->rows, width, c + i * panel_bytes, KERNEL_PANEL, NULL,
                g->y + column * k->element_bytes, g->outputs);
        }
    }
}

static void call_ours(gemm_bench_t *g)
{
    if (g->threads == 1)
        multiply_thread(g, 0);
    else
        team_run(g->team, multiply_thread, g);
}

static void call_blas(gemm_bench_t *g)
{
    blas_product(&g->blas, g->blas_type, g->rows, g->outputs, g->inputs, g->blas_x,
        g->blas_weights + g->next % g->blas_copies * g->blas_bytes, g->blas_y);
}

static double seconds_of(gemm_bench_t *g, void (*call)(gemm_bench_t *), size_t calls)
{
    uint64_t begin = clock_ns();
    for (size_t i = 0; i < calls; i++, g->next++)
        call(g);
    return (double)(clock_ns() - begin) * 1e-9 / (double)calls;
}

/* Seconds of a call; *calls is how many make a sample, found by doubling when 0. */
static double sample(gemm_bench_t *g, void (*call)(gemm_bench_t *), size_t *calls)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    topology_binding_apply(call == call_ours ? g->binding : g->anywhere, 0);
    nanosleep(&pause, NULL);
    if (*calls != 0)
        return seconds_of(g, call, *calls);
    double seconds;
    *calls = 1;
    while ((seconds = seconds_of(g, call, *calls)) * (double)*calls < SAMPLE_S)
        *calls *= 2;
    return seconds;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

static void measure(gemm_bench_t *g, bench_gemm_row_t *row)
{
    double ours[MAX_SAMPLES], theirs[MAX_SAMPLES], spent = 0;
    size_t calls = 0, blas_calls = 0, n = 0;
    g->blas.set_threads((int)g->threads);
    sample(g, call_ours, &calls);
    sample(g, call_blas, &blas_calls);
    do {
        ours[n] = sample(g, call_ours, &calls);
        theirs[n] = sample(g, call_blas, &blas_calls);
        spent += ours[n] * (double)calls;
        n++;
    } while (n < g->options->repeat && n < MAX_SAMPLES && spent < CELL_S);
    row->samples = n;
    row->seconds = median(ours, n);
    row->blas_seconds = median(theirs, n);
}

static void measure_shape(gemm_bench_t *g, const shape_t *shape)
{
    for (size_t r = 0; r < ROW_COUNTS; r++)
        for (size_t threads = 1; threads <= g->options->threads;
             threads += size_max(g->options->threads - 1, 1)) {
            bench_gemm_row_t *row = &g->result->rows[g->result->n_rows++];
            g->rows = row_counts[r];
            g->threads = threads;
            *row = (bench_gemm_row_t){.outputs = shape->outputs,
                .inputs = shape->inputs,
                .rows = g->rows,
                .threads = threads,
                .flop = 2.0 * (double)g->rows * (double)shape->outputs * (double)shape->inputs,
                .weight_bytes = (double)g->weight_bytes,
                .blas_weight_bytes = (double)g->blas_bytes};
            memcpy(row->name, shape->name, sizeof row->name);
            measure(g, row);
        }
}

/* ---- The whole ------------------------------------------------------------------------------- */

static int open_gemm(gemm_bench_t *g, shape_t *shapes, size_t n_shapes, fail_t *fail)
{
    bench_gemm_t *result = g->result;
    if (blas_open(&g->blas, fail) != 0)
        return fail->status;
    kernels_get(&g->kernels, g->options->isa, g->options->mode);
    snprintf(result->library, sizeof result->library, "%s", g->blas.description);
    result->function = blas_function(&g->blas, g->options->mode, &g->blas_type);
    result->rows = calloc(n_shapes * ROW_COUNTS * 2, sizeof *result->rows);
    if (result->rows == NULL)
        return fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    if (check_memory(g, shapes, n_shapes, fail) != 0)
        return fail->status;
    if (topology_binding_open(&g->anywhere, TOPOLOGY_BIND_NONE, 1, 0, 1, fail) != 0 ||
        topology_binding_open(&g->binding, g->options->bind, g->options->threads, 0, 1, fail) !=
            0 ||
        team_open(&g->team, g->options->threads, false, fail) != 0)
        return fail->status;
    topology_binding_apply_team(g->binding, g->team);
    topology_binding_apply(g->anywhere, 0);
    return 0;
}

static void close_gemm(gemm_bench_t *g)
{
    team_close(g->team);
    if (g->anywhere != NULL)
        topology_binding_apply(g->anywhere, 0);
    topology_binding_close(g->anywhere);
    topology_binding_close(g->binding);
}

int bench_gemm_run(const bench_gemm_options_t *options, bench_gemm_t *result, fail_t *fail)
{
    gemm_bench_t g = {.options = options, .result = result};
    shape_t shapes[MAX_SHAPES];
    size_t n = list_shapes(options->config, shapes);
    *result = (bench_gemm_t){0};
    if (open_gemm(&g, shapes, n, fail) == 0)
        for (size_t i = 0; i < n && fail->status == 0; i++) {
            if (options->progress != NULL)
                options->progress(options->progress_context, i + 1, n, shapes[i].name);
            if (open_shape(&g, &shapes[i], fail) == 0) {
                measure_shape(&g, &shapes[i]);
                close_shape(&g);
            }
        }
    close_gemm(&g);
    return fail->status;
}

void bench_gemm_clear(bench_gemm_t *gemm)
{
    free(gemm->rows);
    *gemm = (bench_gemm_t){0};
}
