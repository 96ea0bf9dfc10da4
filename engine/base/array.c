#include "engine/base/array.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"

#define FIRST_ITEMS 32

int array_reserve(void *array, size_t *capacity, size_t n_items, size_t item_bytes,
    const char *what, fail_t *fail)
{
    size_t larger, bytes;
    void *items;
    if (n_items <= *capacity)
        return 0;
    if (!size_mul(*capacity, 2, &larger) || larger < n_items)
        larger = n_items;
    larger = size_max(larger, FIRST_ITEMS);
    memcpy(&items, array, sizeof items);
    void *grown = size_mul(larger, item_bytes, &bytes) ? realloc(items, bytes) : NULL;
    if (grown == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory for %zu items", what, larger);
    memcpy(array, &grown, sizeof grown);
    *capacity = larger;
    return 0;
}

int array_extend(void *array, size_t n_items, size_t item_bytes, const char *what, fail_t *fail)
{
    size_t capacity = n_items;
    return array_reserve(array, &capacity, n_items + 1, item_bytes, what, fail);
}
