#include "sharding/plan.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "sharding/plan_heads.h"
#include "sharding/rank_shares.h"

#define PLAN_MAX_RANKS ((size_t)1 << 16)
/* Far above any model; keeps every product below within 64 bits. */
#define PLAN_MAX_WEIGHT_BYTES 0x1p60
#define MAX_WEIGHT_BYTES sizeof(double) /* of one element in any format */

/* ---- Granules -------------------------------------------------------------------------------- */

typedef enum dealt { DEALT_HIDDEN, DEALT_COLUMNS, DEALT_EXPERTS, DEALT_VOCAB } dealt_t;

static plan_range_t *part_of(plan_share_t *share, dealt_t part)
{
    return part == DEALT_HIDDEN    ? &share->hidden
           : part == DEALT_COLUMNS ? &share->columns
           : part == DEALT_EXPERTS ? &share->expert_columns
                                   : &share->vocab;
}

static plan_range_t scaled(plan_range_t range, size_t factor)
{
    return (plan_range_t){range.begin * factor, range.end * factor};
}

static plan_range_t dim_share(const plan_model_t *model, const plan_share_t *share, plan_dim_t dim)
{
    switch (dim) {
    case PLAN_DIM_HIDDEN:
        return share->hidden;
    case PLAN_DIM_HEADS:
        return scaled(share->heads, model->head_dim);
    case PLAN_DIM_KV_HEADS:
        return scaled(share->kv_heads, model->head_dim);
    case PLAN_DIM_MLP:
        return share->columns;
    case PLAN_DIM_EXPERT_MLP:
        return share->expert_columns;
    case PLAN_DIM_VOCAB:
        return share->vocab;
    default:
        return (plan_range_t){0, plan_dim(model, dim)};
    }
}

static plan_part_t weight_part(const plan_model_t *model, plan_combine_t combine,
    const plan_share_t *share, const plan_weight_t *weight)
{
    plan_part_t part = {{0, plan_dim(model, weight->rows)}, {0, plan_dim(model, weight->columns)}};
    if (weight->split == PLAN_ROWS_OR_COLUMNS && combine == PLAN_REDUCE)
        part.columns = dim_share(model, share, weight->columns);
    else if (weight->split != PLAN_WHOLE)
        part.rows = dim_share(model, share, weight->rows);
    return part;
}

static size_t layers_of(const plan_model_t *model, const plan_weight_t *weight)
{
    if (!weight->per_layer)
        return 1;
    return weight->layers == PLAN_ALL_LAYERS     ? model->n_layers
           : weight->layers == PLAN_DENSE_LAYERS ? model->n_layers - model->n_sparse_layers
                                                 : model->n_sparse_layers;
}

/* experts: of each layer, that count */
static size_t share_weight_bytes(
    const plan_model_t *model, plan_combine_t combine, const plan_share_t *share, size_t experts)
{
    size_t bytes = 0;
    for (size_t i = 0; i < model->n_weights; i++) {
        const plan_weight_t *weight = &model->weights[i];
        plan_part_t part = weight_part(model, combine, share, weight);
        bytes += layers_of(model, weight) * (weight->per_expert ? experts : 1) *
                 plan_part_bytes(model, weight, part);
    }
    return bytes;
}

/* A rank in the queue for remaining granules, when all have their whole ones. */
typedef struct rank_load {
    size_t granules, share, rank; /* granules: so far */
    double bytes;                 /* of matrices so far, by the rank's share */
} rank_load_t;

/* First those who would then have the least for their share. */
static int compare_loads(const void *a, const void *b)
{
    const rank_load_t *x = a, *y = b;
    size_t mine = (x->granules + 1) * y->share, theirs = (y->granules + 1) * x->share;
    if (mine != theirs)
        return mine < theirs ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return x->rank < y->rank ? -1 : 1;
}

static size_t share_of(const plan_t *plan, size_t rank)
{
    return plan->rank_shares == NULL ? 1 : plan->rank_shares[rank];
}

/* Divides `items` in granules: every rank gets its whole ones, and those with the least for their
 * share get the remaining ones. loads: [n_ranks] scratch */
static void deal(plan_t *plan, dealt_t part, plan_combine_t combine, size_t items, size_t granule,
    rank_load_t *loads)
{
    size_t n_granules = size_round_up(items, granule) / granule;
    size_t n_loads = 0, total = 0, dealt = 0;
    for (size_t r = 0; r < plan->n_ranks; r++)
        total += share_of(plan, r);
    for (size_t r = 0; r < plan->n_ranks; r++) {
        size_t share = share_of(plan, r);
        /* n_granules * share / total; the product may be too large. */
        size_t granules = n_granules / total * share + n_granules % total * share / total;
        size_t bytes =
            share_weight_bytes(&plan->model, combine, &plan->shares[r], plan->model.n_experts);
        part_of(&plan->shares[r], part)->end = granules;
        dealt += granules;
        if (share != 0)
            loads[n_loads++] = (rank_load_t){granules, share, r, (double)bytes / (double)share};
    }
    qsort(loads, n_loads, sizeof *loads, compare_loads);
    for (size_t i = 0; i < n_granules - dealt; i++)
        part_of(&plan->shares[loads[i].rank], part)->end++;
    size_t begin = 0;
    for (size_t r = 0; r < plan->n_ranks; r++) {
        plan_range_t *range = part_of(&plan->shares[r], part);
        size_t end = size_min(items, begin + range->end * granule);
        *range = (plan_range_t){begin, end};
        begin = end;
    }
}

/* ---- Opening --------------------------------------------------------------------------------- */

static int check_model(const plan_model_t *model, fail_t *fail)
{
    const struct {
        const char *name;
        size_t value;
    } sizes[] = {{"hidden size", model->hidden}, {"intermediate size", model->intermediate},
        {"number of layers", model->n_layers}, {"number of query heads", model->n_heads},
        {"number of KV heads", model->n_kv_heads}, {"head size", model->head_dim},
        {"vocabulary size", model->vocab_size}, {"number of weights", model->n_weights},
        {"bytes of a cache element", model->cache_bytes}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value == 0)
            return fail_set(
                fail, FAIL_MODEL, "plan: %s: expected at least 1, found 0", sizes[i].name);
    if (model->n_heads % model->n_kv_heads != 0)
        return fail_set(fail, FAIL_MODEL,
            "plan: query heads: expected a multiple of the %zu KV heads, found %zu",
            model->n_kv_heads, model->n_heads);
    double heads = (double)model->n_heads * (double)model->head_dim, bytes = 0;
    for (size_t i = 0; i < model->n_weights; i++) {
        const plan_weight_t *weight = &model->weights[i];
        double elements =
            (double)plan_dim(model, weight->rows) * (double)plan_dim(model, weight->columns);
        bytes += elements * (double)plan_weight_count(model, weight) * MAX_WEIGHT_BYTES;
    }
    double cache = (double)model->n_layers * heads * 2 * (double)model->cache_bytes;
    if (bytes > PLAN_MAX_WEIGHT_BYTES || cache > PLAN_MAX_WEIGHT_BYTES)
        return fail_set(fail, FAIL_MODEL, "plan: model: expected at most %g bytes, found %g",
            PLAN_MAX_WEIGHT_BYTES, bytes > cache ? bytes : cache);
    return 0;
}

static int fill_shares(plan_t *plan, fail_t *fail)
{
    const plan_model_t *model = &plan->model;
    rank_load_t *loads = malloc(plan->n_ranks * sizeof *loads);
    plan->shares = calloc(plan->n_ranks, sizeof *plan->shares);
    if (loads == NULL || plan->shares == NULL) {
        fail_set(fail, FAIL_MEMORY, "plan: no memory for the shares of %zu ranks", plan->n_ranks);
    } else if (plan_divide_heads(plan, fail) == 0) {
        /* The largest granules in bytes first, so that the later ones can even out. The rows of
         * o_proj and down_proj are those of PLAN_GATHER in either case. */
        deal(plan, DEALT_HIDDEN, PLAN_GATHER, model->hidden, PLAN_GRANULE, loads);
        deal(plan, DEALT_EXPERTS, plan->combine, model->expert_intermediate, PLAN_GRANULE, loads);
        deal(plan, DEALT_COLUMNS, plan->combine, model->intermediate, PLAN_GRANULE, loads);
        deal(plan, DEALT_VOCAB, plan->combine, model->vocab_size, PLAN_VOCAB_GRANULE, loads);
    }
    free(loads);
    return fail->status;
}

/* Keeps the shares, unless they are even. */
static int keep_rank_shares(plan_t *plan, const size_t *shares, fail_t *fail)
{
    if (shares == NULL || rank_shares_check(shares, plan->n_ranks, fail) != 0 ||
        rank_shares_are_even(shares, plan->n_ranks))
        return fail->status;
    plan->rank_shares = malloc(plan->n_ranks * sizeof *plan->rank_shares);
    if (plan->rank_shares == NULL)
        return fail_set(
            fail, FAIL_MEMORY, "plan: no memory for the shares of %zu ranks", plan->n_ranks);
    memcpy(plan->rank_shares, shares, plan->n_ranks * sizeof *plan->rank_shares);
    return 0;
}

int plan_open(
    plan_t *plan, const plan_model_t *model, plan_combine_t combine, size_t n_ranks, fail_t *fail)
{
    return plan_open_shares(plan, model, combine, n_ranks, NULL, fail);
}

int plan_open_shares(plan_t *plan, const plan_model_t *model, plan_combine_t combine,
    size_t n_ranks, const size_t *rank_shares, fail_t *fail)
{
    *plan = (plan_t){.model = *model, .combine = combine, .n_ranks = n_ranks};
    if (n_ranks == 0 || n_ranks > PLAN_MAX_RANKS)
        return fail_set(fail, FAIL_USAGE, "plan: number of ranks: expected 1 to %zu, found %zu",
            PLAN_MAX_RANKS, n_ranks);
    if (check_model(model, fail) != 0)
        return fail->status;
    if (keep_rank_shares(plan, rank_shares, fail) != 0 || fill_shares(plan, fail) != 0)
        plan_close(plan);
    return fail->status;
}

void plan_close(plan_t *plan)
{
    free(plan->shares);
    free(plan->rank_shares);
    plan->shares = NULL;
    plan->rank_shares = NULL;
}

/* ---- Questions ------------------------------------------------------------------------------- */

size_t plan_dim(const plan_model_t *model, plan_dim_t dim)
{
    switch (dim) {
    case PLAN_DIM_HIDDEN:
        return model->hidden;
    case PLAN_DIM_HEADS:
        return model->n_heads * model->head_dim;
    case PLAN_DIM_KV_HEADS:
        return model->n_kv_heads * model->head_dim;
    case PLAN_DIM_HEAD:
        return model->head_dim;
    case PLAN_DIM_MLP:
        return model->intermediate;
    case PLAN_DIM_EXPERTS:
        return model->n_experts;
    case PLAN_DIM_CHOSEN:
        return model->n_chosen;
    case PLAN_DIM_EXPERT_MLP:
        return model->expert_intermediate;
    case PLAN_DIM_VOCAB:
        return model->vocab_size;
    default:
        return 1;
    }
}

plan_range_t plan_dim_share(const plan_t *plan, size_t rank, plan_dim_t dim)
{
    return dim_share(&plan->model, &plan->shares[rank], dim);
}

plan_part_t plan_weight_part(const plan_t *plan, size_t rank, const plan_weight_t *weight)
{
    return weight_part(&plan->model, plan->combine, &plan->shares[rank], weight);
}

size_t plan_weight_count(const plan_model_t *model, const plan_weight_t *weight)
{
    return layers_of(model, weight) * (weight->per_expert ? model->n_experts : 1);
}

size_t plan_active_count(const plan_model_t *model, const plan_weight_t *weight)
{
    return layers_of(model, weight) * (weight->per_expert ? model->n_chosen : 1);
}

size_t plan_part_bytes(const plan_model_t *model, const plan_weight_t *weight, plan_part_t part)
{
    size_t rows = plan_count(part.rows), columns = plan_count(part.columns);
    if (rows == 0 || columns == 0)
        return 0;
    return weight->columns == PLAN_DIM_NONE ? model->vector_bytes(model->layout, rows)
           : weight->matrix_bytes != NULL   ? weight->matrix_bytes(weight->layout, rows, columns)
                                            : model->matrix_bytes(model->layout, rows, columns);
}

size_t plan_vocab_owner(const plan_t *plan, size_t row)
{
    /* The first rank whose share ends after the row; empty shares end where they begin, so they
     * never match. */
    size_t low = 0, high = plan->n_ranks - 1;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (plan->shares[middle].vocab.end > row)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

size_t plan_weight_bytes(const plan_t *plan, size_t rank)
{
    return share_weight_bytes(
        &plan->model, plan->combine, &plan->shares[rank], plan->model.n_experts);
}

size_t plan_active_bytes(const plan_t *plan, size_t rank)
{
    return share_weight_bytes(
        &plan->model, plan->combine, &plan->shares[rank], plan->model.n_chosen);
}

size_t plan_kv_bytes_per_token(const plan_t *plan, size_t rank)
{
    const plan_model_t *model = &plan->model;
    return model->n_layers * plan_count(plan->shares[rank].kv_heads) * model->head_dim * 2 *
           model->cache_bytes;
}

/* Columns between gate and down of all layers, for a token: of an MLP, or of its chosen experts. */
static size_t mlp_columns(const plan_model_t *model, size_t dense, size_t expert)
{
    return (model->n_layers - model->n_sparse_layers) * dense +
           model->n_sparse_layers * model->n_chosen * expert;
}

size_t plan_exchange_bytes_per_token(const plan_t *plan, size_t rank, size_t activation_bytes)
{
    const plan_model_t *model = &plan->model;
    const plan_share_t *share = &plan->shares[rank];
    if (plan->n_ranks == 1)
        return 0;
    size_t embedding = model->hidden * activation_bytes;
    if (plan->combine == PLAN_REDUCE) {
        /* A ring passes (n-1)/n of the vector twice: partial sums, then totals. */
        size_t sums = 2 * model->n_layers * model->hidden * size_max(4, activation_bytes);
        return embedding + 2 * (sums - sums / plan->n_ranks);
    }
    size_t heads = (model->n_heads - plan_count(share->heads)) * model->head_dim;
    size_t hidden = model->hidden - plan_count(share->hidden);
    size_t columns =
        mlp_columns(model, model->intermediate, model->expert_intermediate) -
        mlp_columns(model, plan_count(share->columns), plan_count(share->expert_columns));
    return embedding + (model->n_layers * (heads + 2 * hidden) + columns) * activation_bytes;
}

size_t plan_network_bytes_per_token(
    const plan_t *plan, size_t first, size_t n_ranks, size_t activation_bytes)
{
    const plan_model_t *m = &plan->model;
    size_t end = size_min(first + n_ranks, plan->n_ranks), own = 0, most = 0;
    size_t width = m->n_layers * (m->n_heads * m->head_dim + 2 * m->hidden) +
                   mlp_columns(m, m->intermediate, m->expert_intermediate);
    if (end - first == plan->n_ranks)
        return 0;
    for (size_t r = first; r < end; r++) {
        const plan_share_t *share = &plan->shares[r];
        own +=
            m->n_layers * (plan_count(share->heads) * m->head_dim + 2 * plan_count(share->hidden)) +
            mlp_columns(m, plan_count(share->columns), plan_count(share->expert_columns));
        most = size_max(most, plan_exchange_bytes_per_token(plan, r, activation_bytes));
    }
    if (plan->combine == PLAN_REDUCE)
        return most;
    return (m->hidden + width - own) * activation_bytes;
}
