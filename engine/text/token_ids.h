/* A growing array of token ids. Belongs to one thread. */
#ifndef CHOIR_TEXT_TOKEN_IDS_H
#define CHOIR_TEXT_TOKEN_IDS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"

/* Zero-initialise, release with tokenizer_ids_clear. */
typedef struct tokenizer_ids {
    int32_t *ids;
    size_t count, capacity;
} tokenizer_ids_t;
void tokenizer_ids_clear(tokenizer_ids_t *ids);
/* Makes room for n more. */
int tokenizer_ids_reserve(tokenizer_ids_t *ids, size_t n, fail_t *fail);
int tokenizer_ids_append(tokenizer_ids_t *ids, int32_t id, fail_t *fail);

#endif
