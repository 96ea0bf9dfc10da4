/* Final norm and lm_head of the rows that logits are wanted of. */
#include "engine/base/size.h"
#include "engine/forward/forward_internal.h"
#include "engine/forward/panels.h"
#include "engine/forward/show.h"

static void normalise_rows(forward_t *f, size_t thread, size_t n)
{
    const model_t *m = f->model;
    const kernels_t *k = &m->kernels;
    const activation_t *x = &f->shared[SHARED_X];
    size_t hidden = m->config.hidden_size;
    team_part_t rows = team_part(n, thread, active_threads(f));
    for (size_t i = rows.begin; i < rows.end; i++) {
        char *normed = f->places[PLACE_NORMED].data + i * x->stride * k->element_bytes;
        size_t row = f->batch->logits_rows[i].row;
        if (forward_has_narrowed(f))
            row = f->kept_before[row];
        k->rms_norm(1, hidden, activation_at(x, row, 0), x->stride,
            m->outside.of[WEIGHT_FINAL_NORM].vector, m->config.rms_norm_eps, normed, x->stride);
        show_replicated(f, COMPONENT_FINAL_NORM, 0, i, 1, hidden, normed, x->stride);
    }
    forward_barrier(f, thread, &f->times.elementwise_ns);
}

static void store_logits(forward_t *f, size_t thread, const panels_work_t *work, size_t m, size_t p,
    char *sums, size_t next)
{
    (void)thread, (void)m, (void)next;
    const kernels_t *k = &f->model->kernels;
    size_t vocab = work->matrices[0]->rows, n_rows = work->rows.n;
    size_t column = p * KERNEL_PANEL, n = size_min(KERNEL_PANEL, vocab - column);
    char *y = f->places[PLACE_LOGITS].data + column * k->accumulator_bytes;
    k->store_logits(n_rows, n, sums, KERNEL_PANEL, y, vocab);
    show(f, COMPONENT_LOGITS, 0, 0, n_rows, model_share(f->model)->vocab.begin + column, n, y,
        vocab);
}

void forward_compute_logits(forward_t *f, size_t thread)
{
    size_t n = f->batch->n_logits, n_single_rows = 0;
    while (n_single_rows < n && f->batch->logits_rows[n_single_rows].single_row)
        n_single_rows++;
    const panels_work_t work = {.rows = {.x = f->places[PLACE_NORMED].data,
                                    .stride = f->shared[SHARED_X].stride,
                                    .n = n,
                                    .n_single_rows = n_single_rows},
        .matrices = {model_lm_head(f->model)},
        .n_matrices = 1,
        .store = store_logits,
        .writes = NOT_SHARED};
    normalise_rows(f, thread, n);
    panels_run(f, thread, &work);
    forward_barrier(f, thread, &f->times.matrix_ns);
}
