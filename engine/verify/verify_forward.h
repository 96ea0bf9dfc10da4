/* Runs a model on a reference's prompts and compares what it computes with the reference.
 *
 * Isolated: every component is compared, then replaced by the reference's values, so that the next
 * ones are fed the reference's own inputs. Chained: the forward as it is, observed; then once more
 * unobserved, for the logits of a prefill, of decoding, token by token and of generate(). Borrows
 * everything; the cache's contents are overwritten. */
#ifndef CHOIR_VERIFY_VERIFY_FORWARD_H
#define CHOIR_VERIFY_VERIFY_FORWARD_H

#include <stdbool.h>

#include "comm/comm.h"
#include "engine/base/progress.h"
#include "engine/base/team.h"
#include "engine/model/kv_cache.h"
#include "engine/model/model.h"
#include "engine/verify/reference.h"
#include "engine/verify/verify_report.h"

typedef struct verify_forward {
    comm_t *comm;
    team_t *team;
    const model_t *model;
    kv_cache_t *cache; /* blocks for verify_forward_positions() tokens */
    const reference_t *reference;
    attention_t attention;
    order_t order;
    dot_t dot;
    bool isolated, chained;
    const bool *layers;   /* [num_hidden_layers] whose components are compared; NULL: all */
    progress_fn progress; /* tokens; may be NULL */
    void *progress_context;
} verify_forward_t;

/* Positions of the longest sequence that is run. */
size_t verify_forward_positions(const reference_t *reference);

/* Bytes that the forward takes beside model and cache. */
size_t verify_forward_bytes(const model_t *model, const reference_t *reference, order_t order,
    dot_t dot, attention_t attention, size_t n_threads, int comm_size);

/* Collective. Fills tables of the report: every rank its own parts. FAIL_FILE, FAIL_MEMORY. */
int verify_forward(const verify_forward_t *verify, report_t *report, fail_t *fail);

#endif
