/* Arrays that grow. */
#ifndef CHOIR_BASE_ARRAY_H
#define CHOIR_BASE_ARRAY_H

#include <stddef.h>

#include "engine/base/status.h"

/* Makes room for n_items in an array from malloc; it doubles, so that adding one at a time is cheap. array: where the
 * pointer to the items stands (NULL in it: none yet); *capacity: items that there is room for. FAIL_MEMORY: "WHAT: out
 * of memory for N items"; then all stays as it was. */
int array_reserve(void *array, size_t *capacity, size_t n_items, size_t item_bytes,
    const char *what, fail_t *fail);

/* The same for one item more than n_items, in an array of few, whose capacity is not kept. */
int array_extend(void *array, size_t n_items, size_t item_bytes, const char *what, fail_t *fail);

#endif
