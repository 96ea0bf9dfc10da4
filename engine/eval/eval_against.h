/* How far a model's predictions are from another's on the texts of a task: choir eval --against, for quantised models
 * beside the model that they were made from. Both models are in memory, and run in step, some rows at a time. */
#ifndef CHOIR_EVAL_EVAL_AGAINST_H
#define CHOIR_EVAL_EVAL_AGAINST_H

#include <stddef.h>

#include "engine/eval/eval_task.h"
#include "engine/run/engine_options.h"

typedef struct eval_against {
    size_t n_tokens; /* that were scored */
    double kl_mean,
        kl_p99; /* of the tokens: divergence of the model from the parent, KL(parent || model), in nats; the
                             * 99th percentile is the smallest value that 99% do not exceed */
    double same_top;                      /* share of tokens whose most likely one is the same */
    double perplexity, parent_perplexity; /* per token */
} eval_against_t;

/* Collective over comm, all ranks as one replica. model: how it runs, shares and replicas left out; parent: the other
 * model's directory, run the same way. task: read by rank 0, of texts that are scored; not looked at elsewhere.
 * Sums are taken over granules of PLAN_VOCAB_GRANULE rows of the vocabulary, in double, and these in order, so that no bit
 * depends on the number of ranks. progress: tokens, on rank 0; may be NULL. *result: written on rank 0.
 * FAIL_MODEL for vocabularies that differ, FAIL_USAGE for a text longer than a model's positions, and as load.h says. */
int eval_against(eval_against_t *result, comm_t *comm, const engine_options_t *model,
    const char *parent, const eval_task_t *task, progress_fn progress, void *progress_context,
    fail_t *fail);

#endif
