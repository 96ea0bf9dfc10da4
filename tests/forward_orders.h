/* Forward passes in the orders of order_cases.h. For cmocka tests. */
#ifndef CHOIR_TESTS_FORWARD_ORDERS_H
#define CHOIR_TESTS_FORWARD_ORDERS_H

#include "tests/forward_fixture.h"
#include "tests/order_cases.h"

/* One thread, this host's instruction set. order: CASE_... */
forward_case_t forward_order_case(size_t order);

/* Fails the test unless all prompts have the same logits, bit for bit. how: what differed, for the message. */
void forward_check_bits(
    const forward_fixture_t *f, const forward_fixture_t *expected, size_t order, const char *how);

#endif
