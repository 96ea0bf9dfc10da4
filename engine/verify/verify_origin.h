/* Where a dump was made, and in which order PyTorch adds there: its metadata name the CPU, PyTorch's
 * instruction set and the limits that oneDNN had. Local. */
#ifndef CHOIR_VERIFY_VERIFY_ORIGIN_H
#define CHOIR_VERIFY_VERIFY_ORIGIN_H

#include <stdbool.h>

#include "engine/model/order.h"
#include "engine/verify/reference.h"
#include "engine/verify/verify_report.h"

/* The order of bf16 sums on the host that wrote the reference; torch where it is not known. */
order_t origin_order(const reference_t *reference);

/* Notes about versions and CPUs. The first one says which order this run has and why, and what a
 * difference means. by_flag: whether the caller chose the order. */
void check_origin(const reference_t *reference, order_t order, bool by_flag, report_t *report);

/* The same for two dumps: whether PyTorch adds alike on both hosts. */
void check_origins(const reference_t *reference, const checkpoint_t *candidate, report_t *report);

#endif
