/* The last layer computes keys and values of all rows, and the rest only for rows whose logits are
 * needed: the last row of a prompt. No row's bits depend on the others, but where experts' do
 * (routing.h). */
#include <string.h>

#include "engine/forward/forward_internal.h"

/* Kept rows ascend, and batches come with the rows of one class first, so they do too. */
void forward_choose_logit_rows(forward_t *f)
{
    const forward_batch_t *batch = f->batch;
    size_t *before = f->logit_rows_before;
    memset(before, 0, (batch->n_rows + 1) * sizeof *before);
    for (size_t i = 0; i < batch->n_logits; i++)
        before[batch->logits_rows[i].row + 1] = 1;
    for (size_t row = 0; row < batch->n_rows; row++) {
        if (before[row + 1] == 1)
            f->logit_rows[before[row]] = row;
        before[row + 1] += before[row];
    }
    size_t n_kept = before[batch->n_rows];
    /* A tap needs every row of every layer. With --combine reduce a step of one layer ends with a
     * sum, so that no rank gets a step ahead. */
    bool ends = f->model->plan.combine == PLAN_GATHER || n_kept > 0;
    /* Where a prompt's rows depend on each other's experts, all choose theirs. */
    bool prompts = batch->n_sequences > 0 && !batch->sequences[batch->n_sequences - 1].single_row;
    f->narrows =
        f->tap == NULL && n_kept < batch->n_rows && ends && !(f->routing.by_call && prompts);
}

void forward_narrow(forward_t *f, size_t thread)
{
    const plan_share_t *share = model_share(f->model);
    const activation_t *out = &f->shared[SHARED_ATTENTION];
    size_t d = f->model->config.head_dim, first = share->heads.begin * d;
    size_t bytes = plan_count(share->heads) * d * element(f);
    forward_charge(f, thread, &f->times.attention_ns);
    if (!forward_alone(f, thread))
        return;
    f->rows.n = f->logit_rows_before[f->rows.n];
    f->rows.n_single_rows = f->logit_rows_before[f->rows.n_single_rows];
    for (size_t i = 0; i < f->rows.n; i++)
        if (f->logit_rows[i] != i)
            memcpy(
                activation_at(out, i, first), activation_at(out, f->logit_rows[i], first), bytes);
    for (shared_t b = 0; b < SHARED_COUNT; b++)
        activation_lay(&f->shared[b], f->rows.n, f->tap != NULL);
    forward_go_on(f, &f->times.attention_ns);
}
