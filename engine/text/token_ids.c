#include "engine/text/token_ids.h"

#include <stdlib.h>

#include "engine/base/size.h"

void tokenizer_ids_clear(tokenizer_ids_t *ids)
{
    free(ids->ids);
    *ids = (tokenizer_ids_t){0};
}

int tokenizer_ids_append(tokenizer_ids_t *ids, int32_t id, fail_t *fail)
{
    if (ids->count == ids->capacity) {
        size_t capacity = size_max(64, 2 * ids->capacity);
        int32_t *larger = realloc(ids->ids, capacity * sizeof *larger);
        if (larger == NULL)
            return fail_set(fail, FAIL_MEMORY, "prompt: out of memory for %zu ids", capacity);
        ids->ids = larger;
        ids->capacity = capacity;
    }
    ids->ids[ids->count++] = id;
    return 0;
}
