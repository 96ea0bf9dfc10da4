#include "engine/text/text_buffer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/array.h"
#include "engine/base/size.h"

int text_buffer_reserve(text_buffer_t *buffer, size_t bytes, fail_t *fail)
{
    size_t need;
    if (!size_add(buffer->bytes, bytes, &need) || !size_add(need, 1, &need))
        return fail_set(fail, FAIL_MEMORY, "text: a size of more than %zu bytes", SIZE_MAX);
    return array_reserve(&buffer->text, &buffer->capacity, need, 1, "text", fail);
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
