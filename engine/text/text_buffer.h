/* A growing text. Belongs to one thread. */
#ifndef CHOIR_TEXT_TEXT_BUFFER_H
#define CHOIR_TEXT_TEXT_BUFFER_H

#include <stddef.h>

#include "engine/base/status.h"

/* Zero-initialise, release with text_buffer_clear. */
typedef struct text_buffer {
    char *text; /* zero-terminated once something was appended */
    size_t bytes, capacity;
} text_buffer_t;

/* Makes room for so many further bytes and the zero behind them. */
int text_buffer_reserve(text_buffer_t *buffer, size_t bytes, fail_t *fail);
int text_buffer_append(text_buffer_t *buffer, const char *text, size_t bytes, fail_t *fail);
void text_buffer_clear(text_buffer_t *buffer);

#endif
