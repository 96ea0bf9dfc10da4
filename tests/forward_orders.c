#include "tests/forward_orders.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

forward_case_t forward_order_case(size_t order)
{
    return (forward_case_t){.mode = orders[order].mode,
        .order = orders[order].order,
        .attention = orders[order].attention,
        .dot = orders[order].dot,
        .isa = isa_detect(),
        .threads = 1};
}

void forward_check_bits(
    const forward_fixture_t *f, const forward_fixture_t *expected, size_t order, const char *how)
{
    for (size_t i = 0; i < f->n_prompts; i++)
        if (memcmp(f->prompts[i].logits, expected->prompts[i].logits,
                forward_fixture_bytes(f, i)) != 0)
            fail_msg("%s, prompt of %zu tokens: other bits %s", orders[order].name,
                f->prompts[i].n_prompt, how);
}
