#include <stdlib.h>
#include <string.h>

#include "engine/base/size.h"
#include "engine/text/tokenizer.h"

int text_buffer_reserve(text_buffer_t *buffer, size_t bytes, fail_t *fail)
{
    size_t need;
    if (!size_add(buffer->bytes, bytes, &need) || !size_add(need, 1, &need))
        return fail_set(fail, FAIL_MEMORY, "text: a size of more than %zu bytes", SIZE_MAX);
    if (need <= buffer->capacity)
        return 0;
    size_t doubled;
    if (!size_mul(buffer->capacity, 2, &doubled))
        doubled = need;
    size_t capacity = size_max(size_max(need, doubled), 64);
    char *text = realloc(buffer->text, capacity);
    if (text == NULL)
        return fail_set(fail, FAIL_MEMORY, "text: no memory for %zu bytes", capacity);
    buffer->text = text;
    buffer->capacity = capacity;
    return 0;
}

int text_buffer_append(text_buffer_t *buffer, const char *text, size_t bytes, fail_t *fail)
{
    if (text_buffer_reserve(buffer, bytes, fail) != 0)
        return fail->status;
    if (bytes > 0)
        memcpy(buffer->text + buffer->bytes, text, bytes);
    buffer->bytes += bytes;
    buffer->text[buffer->bytes] = 0;
    return 0;
}

void text_buffer_clear(text_buffer_t *buffer)
{
    free(buffer->text);
    *buffer = (text_buffer_t){0};
}
