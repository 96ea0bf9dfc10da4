#include "engine/text/token_ids.h"

#include <stdlib.h>

#include "engine/base/array.h"

void tokenizer_ids_clear(tokenizer_ids_t *ids)
{
    free(ids->ids);
    *ids = (tokenizer_ids_t){0};
}

int tokenizer_ids_reserve(tokenizer_ids_t *ids, size_t n, fail_t *fail)
{
    return array_reserve(
        &ids->ids, &ids->capacity, ids->count + n, sizeof *ids->ids, "token ids", fail);
}

int tokenizer_ids_append(tokenizer_ids_t *ids, int32_t id, fail_t *fail)
{
    if (tokenizer_ids_reserve(ids, 1, fail) != 0)
        return fail->status;
    ids->ids[ids->count++] = id;
    return 0;
}
