/* A plan as a table, for people. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "sharding/plan.h"

typedef struct quantity {
    char text[24];
} quantity_t;

static quantity_t human_bytes(size_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024) {
        value /= 1024;
        unit++;
    }
    quantity_t quantity;
    snprintf(
        quantity.text, sizeof quantity.text, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
    return quantity;
}

typedef enum measure {
    MEASURE_HEADS,
    MEASURE_KV_HEADS,
    MEASURE_HIDDEN,
    MEASURE_COLUMNS,
    MEASURE_VOCAB,
    MEASURE_WEIGHTS,
    MEASURE_COUNT
} measure_t;

static size_t measure(const plan_t *plan, size_t rank, measure_t what)
{
    const plan_share_t *share = &plan->shares[rank];
    switch (what) {
    case MEASURE_HEADS:
        return plan_count(share->heads);
    case MEASURE_KV_HEADS:
        return plan_count(share->kv_heads);
    case MEASURE_HIDDEN:
        return plan_count(share->hidden);
    case MEASURE_COLUMNS:
        return plan_count(plan->model.n_sparse_layers > 0 ? share->expert_columns : share->columns);
    case MEASURE_VOCAB:
        return plan_count(share->vocab);
    default:
        return plan_weight_bytes(plan, rank);
    }
}

/* What MEASURE_COLUMNS counts: a mixture's experts hold nearly all of its weights. */
static const char *columns_name(const plan_t *plan)
{
    return plan->model.n_sparse_layers > 0 ? "expert cols" : "MLP columns";
}

static double largest_to_mean(const plan_t *plan, measure_t what)
{
    double largest = 0, sum = 0;
    for (size_t r = 0; r < plan->n_ranks; r++) {
        double value = (double)measure(plan, r, what);
        largest = value > largest ? value : largest;
        sum += value;
    }
    return largest * (double)plan->n_ranks / sum;
}

/* A rank's percentage of all ranks'. */
static double percent(const plan_t *plan, size_t rank, measure_t what)
{
    size_t total = 0;
    for (size_t r = 0; r < plan->n_ranks; r++)
        total += measure(plan, r, what);
    return 100 * (double)measure(plan, rank, what) / (double)total;
}

/* The requested shares against those that whole heads and granules allow. */
static void print_rank_shares(const plan_t *plan, FILE *out)
{
    static const struct {
        measure_t what;
        int width;
    } columns[] = {
        {MEASURE_HEADS, 9}, {MEASURE_COLUMNS, 13}, {MEASURE_VOCAB, 12}, {MEASURE_WEIGHTS, 13}};
    const double far = 5; /* percent of the whole, from which a difference is reported */
    bool heads_are_far = false;
    double total = 0;
    for (size_t r = 0; r < plan->n_ranks; r++)
        total += (double)plan->rank_shares[r];
    fprintf(out, "\nshares in %%\n%5s  %7s  %7s  %11s  %10s  %11s\n", "rank", "asked", "q heads",
        columns_name(plan), "vocabulary", "weights");
    for (size_t r = 0; r < plan->n_ranks; r++) {
        double asked = 100 * (double)plan->rank_shares[r] / total;
        double heads = percent(plan, r, MEASURE_HEADS);
        heads_are_far = heads_are_far || heads > asked + far || heads < asked - far;
        fprintf(out, "%5zu  %7.1f", r, asked);
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
            fprintf(out, "%*.1f", columns[c].width, percent(plan, r, columns[c].what));
        fprintf(out, "\n");
    }
    if (heads_are_far)
        fprintf(out,
            "%zu query heads on %zu KV heads do not divide as asked; these are the nearest shares "
            "of attention\n",
            plan->model.n_heads, plan->model.n_kv_heads);
}

/* The name of a matrix's format. */
static const char *format_of(const plan_model_t *model, const plan_weight_t *weight)
{
    return weight->format != NULL ? weight->format : model->format;
}

/* Whether no weight before the i-th has its format. */
static bool is_first_of_format(const plan_model_t *model, size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (strcmp(format_of(model, &model->weights[j]), format_of(model, &model->weights[i])) == 0)
            return false;
    return true;
}

static size_t format_bytes(const plan_t *plan, const char *format)
{
    size_t bytes = 0;
    for (size_t r = 0; r < plan->n_ranks; r++)
        for (size_t i = 0; i < plan->model.n_weights; i++) {
            const plan_weight_t *weight = &plan->model.weights[i];
            if (strcmp(format_of(&plan->model, weight), format) == 0)
                bytes += plan_weight_count(&plan->model, weight) *
                         plan_part_bytes(&plan->model, weight, plan_weight_part(plan, r, weight));
        }
    return bytes;
}

/* Bytes by format, where there are several. */
static void print_formats(const plan_t *plan, FILE *out)
{
    const plan_model_t *model = &plan->model;
    size_t n = 0, printed = 0;
    for (size_t i = 0; i < model->n_weights; i++)
        n += is_first_of_format(model, i);
    for (size_t i = 0; i < model->n_weights && n > 1; i++)
        if (is_first_of_format(model, i)) {
            const char *format = format_of(model, &model->weights[i]);
            fprintf(out, "%s%s in %s", printed++ == 0 ? "weights by format: " : ", ",
                human_bytes(format_bytes(plan, format)).text, format);
        }
    fprintf(out, "%s", n > 1 ? "\n" : "");
}

static void print_summary(const plan_t *plan, FILE *out)
{
    const char *const names[MEASURE_COUNT] = {"attention, query heads", "attention, KV heads",
        "o/down rows", columns_name(plan), "vocabulary rows", "weight bytes"};
    fprintf(out, "\nlargest/mean\n");
    for (measure_t what = 0; what < MEASURE_COUNT; what++)
        if (what != MEASURE_HIDDEN || plan->combine == PLAN_GATHER)
            fprintf(out, "  %-22s  %7.3f\n", names[what], largest_to_mean(plan, what));
    size_t weights = 0, active = 0, kv = 0;
    for (size_t r = 0; r < plan->n_ranks; r++) {
        weights += plan_weight_bytes(plan, r);
        active += plan_active_bytes(plan, r);
        kv += plan_kv_bytes_per_token(plan, r);
    }
    fprintf(out, "all ranks together: weights %s, ", human_bytes(weights).text);
    if (plan->model.n_experts > 0)
        fprintf(out, "%s of them active for a token, ", human_bytes(active).text);
    fprintf(out, "KV cache %s a token\n", human_bytes(kv).text);
    print_formats(plan, out);
}

/* Whether one weight is embedding and lm_head. */
static bool is_tied(const plan_model_t *model)
{
    size_t n = 0;
    for (size_t i = 0; i < model->n_weights; i++)
        n += model->weights[i].rows == PLAN_DIM_VOCAB;
    return n < 2;
}

/* That of a layer's matrices: the first that is not the model's. */
static const char *main_format(const plan_model_t *model)
{
    for (size_t i = 0; i < model->n_weights; i++)
        if (model->weights[i].format != NULL)
            return model->weights[i].format;
    return model->format;
}

static void print_model(const plan_model_t *model, FILE *out)
{
    fprintf(out, "%zu layers, hidden %zu, ", model->n_layers, model->hidden);
    if (model->n_sparse_layers > 0)
        fprintf(out, "%zu experts of %zu (%zu for a token) in %zu layers, ", model->n_experts,
            model->expert_intermediate, model->n_chosen, model->n_sparse_layers);
    if (model->n_sparse_layers < model->n_layers)
        fprintf(out, "MLP %zu, ", model->intermediate);
    fprintf(out, "%zu query heads and %zu KV heads of %zu, vocabulary %zu (%s), weights in %s\n",
        model->n_heads, model->n_kv_heads, model->head_dim, model->vocab_size,
        is_tied(model) ? "tied" : "untied", main_format(model));
}

void plan_print(const plan_t *plan, FILE *out)
{
    const plan_model_t *model = &plan->model;
    bool gather = plan->combine == PLAN_GATHER;
    print_model(model, out);
    fprintf(out, "%zu %s, combined by %s\n\n", plan->n_ranks, plan->n_ranks == 1 ? "rank" : "ranks",
        gather ? "gather" : "reduce");
    fprintf(out, "%5s  %7s  %8s  %11s  %11s  %10s  %11s  %11s  %14s\n", "rank", "q heads",
        "KV heads", columns_name(plan), "o/down rows", "vocabulary", "weights", "KV/token",
        "received/token");
    for (size_t r = 0; r < plan->n_ranks; r++) {
        char rows[24] = "-"; /* with reduce, o_proj and down_proj are split by columns */
        if (gather)
            snprintf(rows, sizeof rows, "%zu", measure(plan, r, MEASURE_HIDDEN));
        fprintf(out, "%5zu  %7zu  %8zu  %11zu  %11s  %10zu  %11s  %11s  %14s\n", r,
            measure(plan, r, MEASURE_HEADS), measure(plan, r, MEASURE_KV_HEADS),
            measure(plan, r, MEASURE_COLUMNS), rows, measure(plan, r, MEASURE_VOCAB),
            human_bytes(plan_weight_bytes(plan, r)).text,
            human_bytes(plan_kv_bytes_per_token(plan, r)).text,
            human_bytes(plan_exchange_bytes_per_token(plan, r, model->cache_bytes)).text);
    }
    if (plan->rank_shares != NULL)
        print_rank_shares(plan, out);
    print_summary(plan, out);
}

void plan_print_nodes(const plan_t *plan, size_t ranks_per_node, FILE *out)
{
    size_t most = 0, n_nodes = 0;
    for (size_t first = 0; first < plan->n_ranks; first += ranks_per_node, n_nodes++)
        most = size_max(most,
            plan_network_bytes_per_token(plan, first, ranks_per_node, plan->model.cache_bytes));
    fprintf(out, "%zu %s of %zu %s: a node receives %s a token from others\n", n_nodes,
        n_nodes == 1 ? "node" : "nodes", ranks_per_node, ranks_per_node == 1 ? "rank" : "ranks",
        human_bytes(most).text);
}
