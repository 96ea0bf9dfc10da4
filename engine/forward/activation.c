#include "engine/forward/activation.h"

#include <stdlib.h>

#include "engine/base/memory.h"
#include "engine/base/size.h"

static plan_dim_t dim_of(shared_t which)
{
    return which == SHARED_ATTENTION ? PLAN_DIM_HEADS
           : which == SHARED_MLP     ? PLAN_DIM_MLP
           : which == SHARED_EXPERTS ? PLAN_DIM_EXPERT_MLP
                                     : PLAN_DIM_HIDDEN;
}

static comm_tiling_t tiling_of(const model_t *m, shared_t which)
{
    if (which == SHARED_ATTENTION || which == SHARED_EXPERTS)
        return (comm_tiling_t){SIZE_MAX, TILE_ROWS};
    return (comm_tiling_t){TILE_PANELS * KERNEL_PANEL * m->kernels.element_bytes, SIZE_MAX};
}

size_t activation_max_tiles(const model_t *m, size_t max_rows)
{
    size_t columns = size_max(m->config.intermediate_size, m->config.hidden_size);
    size_t rows = max_rows * size_max(activation_each(m, SHARED_EXPERTS), 1);
    return size_max(columns / (TILE_PANELS * KERNEL_PANEL), rows / TILE_ROWS) + 1;
}

size_t activation_each(const model_t *m, shared_t which)
{
    size_t n_sparse = config_sparse_layers(&m->config);
    if (which == SHARED_EXPERTS)
        return n_sparse > 0 ? m->config.n_experts_per_token : 0;
    return which != SHARED_MLP || n_sparse < m->config.num_hidden_layers;
}

/* An odd number of cache lines, so that rows do not all meet in the same few sets of a cache; an odd
 * number of inputs has its zero there. */
size_t activation_stride(const model_t *m, shared_t which)
{
    enum { LINE_BYTES = 64 };
    size_t bytes = plan_dim(&m->plan.model, dim_of(which)) * m->kernels.element_bytes;
    size_t lines = size_round_up(bytes, LINE_BYTES) / LINE_BYTES;
    return (lines | 1) * LINE_BYTES / m->kernels.element_bytes;
}

/* Whether the slices are whole K-blocks, and multiplied as such. */
static bool can_be_k_blocked(const activation_t *a, const model_t *m, shared_t which, dot_t dot)
{
    if (which != SHARED_MLP || m->plan.combine != PLAN_GATHER)
        return false;
    for (size_t r = 0; r <= m->plan.n_ranks; r++)
        if (activation_slice(a, r) % KERNEL_K_BLOCK != 0)
            return false;
    return matrix_wants_k_blocked(&m->kernels, dot, KERNEL_MANY_ROWS, a->width);
}

static int set_slices(activation_t *a, const model_t *m, shared_t which, fail_t *fail)
{
    size_t n = m->plan.n_ranks;
    a->begins = calloc(n + 1, sizeof *a->begins);
    if (a->begins == NULL)
        return fail_set(fail, FAIL_MEMORY, "activations: out of memory for %zu ranks", n);
    for (size_t r = 0; r < n; r++)
        a->begins[r] = plan_dim_share(&m->plan, r, dim_of(which)).begin * a->element_bytes;
    a->begins[n] = a->width * a->element_bytes;
    return 0;
}

int activation_open(activation_t *a, const model_t *m, comm_t *comm, shared_t which,
    size_t max_rows, dot_t dot, fail_t *fail)
{
    bool reduce = m->plan.combine == PLAN_REDUCE;
    *a = (activation_t){.each = activation_each(m, which),
        .width = plan_dim(&m->plan.model, dim_of(which)),
        .stride = activation_stride(m, which),
        .element_bytes = m->kernels.element_bytes};
    if (a->each == 0)
        return 0;
    max_rows *= a->each;
    size_t row_bytes = a->stride * a->element_bytes, bytes = max_rows * row_bytes;
    set_slices(a, m, which, fail);
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    /* With --combine reduce a window is for the embedding's exchange alone. */
    if ((!reduce || which == SHARED_X) &&
        comm_buffer_open(comm, bytes, "activations", &a->window, fail) != 0)
        return fail->status;
    if (!reduce && comm_stream_open(&a->stream, a->window, max_rows, row_bytes, a->begins,
                       tiling_of(m, which), fail) != 0)
        return fail->status;
    if (reduce || comm_buffer_has_small_pages(a->window)) {
        a->own_bytes = bytes;
        a->own = memory_alloc(bytes, "activations", fail);
    }
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    a->can_be_k_blocked = comm_min(comm, can_be_k_blocked(a, m, which, dot)) != 0;
    return 0;
}

void activation_close(activation_t *a)
{
    comm_stream_close(a->stream);
    comm_buffer_close(a->window);
    if (a->own_bytes != 0)
        memory_free(a->own, a->own_bytes);
    free(a->begins);
    *a = (activation_t){0};
}

void activation_place(activation_t *a, bool in_own)
{
    if (a->each == 0)
        return;
    a->data = a->own != NULL && in_own ? a->own : comm_buffer_data(a->window);
}

void activation_lay(activation_t *a, size_t n_rows, bool tapped)
{
    /* Columns of rows are gathered otherwise. */
    n_rows *= a->each;
    a->k_blocked = a->can_be_k_blocked && !tapped && n_rows >= KERNEL_MANY_ROWS &&
                   (comm_stream_pays(a->stream, n_rows) || comm_buffer_is_shared(a->window));
}
