#include "engine/quantise/hessian.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"

#define BAND 256 /* rows */

static size_t band_rows(const hessian_t *h, size_t band)
{
    return size_min(BAND, h->factor.n - band * BAND);
}

static float *band_data(const hessian_t *h, size_t band)
{
    return h->factor.matrix + band * BAND * h->factor.n;
}

/* Later bands have more columns: from the last one on, each goes to the rank with the least. */
static void deal_bands(hessian_t *h)
{
    size_t *loads = h->counts;
    for (size_t band = h->n_bands; band-- > 0;) {
        int least = 0;
        for (int r = 1; r < comm_size(h->comm); r++)
            if (loads[r] < loads[least])
                least = r;
        h->owners[band] = least;
        loads[least] += 2 * band + 1;
    }
    memset(loads, 0, (size_t)comm_size(h->comm) * sizeof *loads);
}

int hessian_open(hessian_t *h, comm_t *comm, size_t n, fail_t *fail)
{
    fail_t refused = {0};
    size_t matrix_bytes = n * n * sizeof(float);
    *h = (hessian_t){.comm = comm, .factor.n = n, .n_bands = (n + BAND - 1) / BAND};
    h->bytes = size_round_up(matrix_bytes, 64) + size_round_up(sizeof(gptq_state_t), 64) +
               n * sizeof(uint32_t);
    h->owners = calloc(h->n_bands, sizeof *h->owners);
    h->counts = calloc((size_t)comm_size(comm), sizeof *h->counts);
    if (h->owners == NULL || h->counts == NULL)
        fail_set(fail, FAIL_MEMORY, "quantize: out of memory");
    if (comm_agree(comm, fail) == 0) {
        deal_bands(h);
        if (comm_shared_open(&h->shared, comm, h->bytes, &refused) != 0)
            h->own = memory_alloc(h->bytes, "sums of squares", fail);
    }
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    char *data = h->shared != NULL ? comm_shared_data(h->shared) : h->own;
    h->factor.matrix = (float *)(void *)data;
    data += size_round_up(matrix_bytes, 64);
    h->factor.state = (gptq_state_t *)(void *)data;
    h->factor.order = (uint32_t *)(void *)(data + size_round_up(sizeof(gptq_state_t), 64));
    return 0;
}

void hessian_close(hessian_t *h)
{
    comm_shared_close(h->shared);
    memory_free(h->own, h->bytes);
    free(h->owners);
    free(h->counts);
    *h = (hessian_t){0};
}

void hessian_clear(const hessian_t *h)
{
    for (size_t band = 0; band < h->n_bands; band++)
        if (h->owners[band] == comm_rank(h->comm))
            memset(band_data(h, band), 0, band_rows(h, band) * h->factor.n * sizeof(float));
}

typedef struct addition {
    const hessian_t *hessian;
    const blas_t *blas;
    size_t n_rows;
    const float *x;
    atomic_size_t done; /* bands that a thread has taken, from the last one on */
} addition_t;

static void add_bands(void *context, size_t thread)
{
    addition_t *a = context;
    const hessian_t *h = a->hessian;
    size_t n = h->factor.n, taken;
    (void)thread;
    while ((taken = atomic_fetch_add(&a->done, 1)) < h->n_bands) {
        size_t band = h->n_bands - 1 - taken;
        if (h->owners[band] == comm_rank(h->comm))
            blas_add_squares(
                a->blas, a->n_rows, band * BAND, band_rows(h, band), a->x, n, h->factor.matrix, n);
    }
}

void hessian_add(
    const hessian_t *hessian, const blas_t *blas, team_t *team, size_t n_rows, const float *x)
{
    addition_t addition = {.hessian = hessian, .blas = blas, .n_rows = n_rows, .x = x};
    team_run(team, add_bands, &addition);
}

/* Ranks of a node that share memory receive the same bytes in the same place. */
void hessian_exchange(const hessian_t *h)
{
    comm_barrier(h->comm);
    if (h->shared != NULL && comm_n_nodes(h->comm) == 1)
        return;
    for (size_t band = 0; band < h->n_bands; band++) {
        size_t bytes = band_rows(h, band) * h->factor.n * sizeof(float);
        if (h->owners[band] != 0) {
            h->counts[h->owners[band]] = bytes;
            comm_gatherv_root(h->comm, band_data(h, band), h->counts, band_data(h, band));
            h->counts[h->owners[band]] = 0;
        }
        comm_bcast(h->comm, band_data(h, band), bytes);
    }
}

gptq_team_t hessian_team(const hessian_t *h, void (*wait)(void *context), void *context)
{
    gptq_team_t team = {.n = 1, .wait = wait, .context = context};
    if (h->shared != NULL) {
        team.n = (size_t)comm_node_size(h->comm);
        team.i = (size_t)comm_node_rank(h->comm);
    }
    return team;
}
