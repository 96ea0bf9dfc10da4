/* `choir verify`: whether a model computes what a reference says, component by component; or
 * whether another dump says the same as the reference.
 *
 * Collective functions end with the same status on all ranks. The report is rank 0's to print. */
#ifndef CHOIR_VERIFY_VERIFY_H
#define CHOIR_VERIFY_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "engine/kernels/kernels.h"
#include "engine/verify/verify_report.h"

/* what: "digest", "loading", "eager attention", ... */
typedef void (*verify_progress_fn)(void *context, const char *what, uint64_t done, uint64_t total);

typedef struct verify_options {
    const char *model_dir, *reference;
    bool has_mode; /* else the mode is the reference's */
    dtype_t mode;
    bool attentions[REFERENCE_ATTENTIONS];
    bool has_order; /* else the order is that of the reference's host */
    order_t order;
    dot_t dot; /* of bf16 linear layers */
    quantised_order_t quantised_order;
    bool isolated, chained;
    bool skip_digest;
    bool partial;       /* absent tensors of the reference pass */
    const char *layers; /* "0,5-7", whose components are compared; NULL: all */
    double tolerance;
    const char *shares;          /* as share_choice's text (share_choice.h) */
    size_t threads;              /* 0: choose from the binding */
    verify_progress_fn progress; /* called on rank 0; may be NULL */
    void *progress_context;
} verify_options_t;

/* Collective. *report: to be closed by the caller, on every rank; NULL on failure. A comparison
 * that does not pass is in the report and no failure. */
int verify_run(report_t **report, comm_t *comm, const verify_options_t *options, fail_t *fail);

/* Local. Compares a dump with the reference, tensor by tensor; both are files of the reference's
 * scheme of names. layers and partial as above: of the candidate. */
int verify_dumps(report_t **report, const char *candidate, const char *reference,
    const char *layers, double tolerance, bool partial, fail_t *fail);

#endif
