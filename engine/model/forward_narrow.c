/* The last layer computes what is wanted of it: keys and values of all rows, and the rest of the
 * rows that logits are wanted of, of a prompt the last one. No row's bits depend on the others. */
#include <string.h>

#include "engine/model/forward_internal.h"

/* Batches come with the rows of one class first, and so do the kept rows, which ascend. */
void forward_choose_kept(forward_t *f)
{
    const forward_batch_t *batch = f->batch;
    const size_t absent = SIZE_MAX;
    for (size_t row = 0; row < batch->n_rows; row++)
        f->kept_places[row] = absent;
    for (size_t i = 0; i < batch->n_logits; i++)
        f->kept_places[batch->logits_rows[i].row] = 0;
    f->n_kept = 0;
    for (size_t row = 0; row < batch->n_rows; row++) {
        if (f->kept_places[row] == absent)
            continue;
        f->kept_places[row] = f->n_kept;
        f->kept[f->n_kept++] = row;
    }
    f->narrowed = false;
    /* A tap sees every row of every layer. With sums a step of one layer ends with one, so that no
     * rank gets a step ahead. */
    bool ends = f->model->plan.combine == PLAN_GATHER || f->n_kept > 0;
    f->narrows = f->tap == NULL && f->n_kept < batch->n_rows && ends;
}

bool forward_keeps_any(const forward_t *f, size_t begin, size_t end)
{
    size_t low = 0, high = f->n_kept;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (f->kept[middle] < begin)
            low = middle + 1;
        else
            high = middle;
    }
    return low < f->n_kept && f->kept[low] < end;
}

void forward_narrow(forward_t *f, size_t thread)
{
    const plan_share_t *share = model_share(f->model);
    size_t head_bytes = f->model->config.head_dim * element(f);
    size_t offset = share->heads.begin * head_bytes, bytes = plan_count(share->heads) * head_bytes;
    forward_book(f, thread, &f->times.attention_ns);
    team_arrive(f->team, thread);
    if (thread != 0) {
        team_await(f->team, thread);
        return;
    }
    forward_book(f, thread, &f->times.waiting_ns);
    f->n_rows = f->n_kept;
    size_t n_lone = 0;
    for (size_t i = 0; i < f->n_kept; i++) {
        n_lone += f->kept[i] < f->n_lone;
        if (f->kept[i] != i)
            memcpy(shared_row(f, SHARED_ATTENTION, i) + offset,
                shared_row(f, SHARED_ATTENTION, f->kept[i]) + offset, bytes);
    }
    f->n_lone = n_lone;
    f->narrowed = true;
    forward_book(f, thread, &f->times.attention_ns);
    team_release(f->team);
}
