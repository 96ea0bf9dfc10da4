/* Texts of wide characters for the line editor: from and to UTF-8, and how they lie on a screen. The
 * locale decides about characters. */
#ifndef CHOIR_LAUNCH_WIDE_TEXT_H
#define CHOIR_LAUNCH_WIDE_TEXT_H

#include <stddef.h>
#include <stdio.h>
#include <wchar.h>

#include "engine/text/text_buffer.h"

/* Freshly allocated, ends in zero; NULL is out of memory. What is not UTF-8 becomes U+FFFD. */
wchar_t *wide_of_text(const char *text, size_t bytes, size_t *count);
/* Appends it as UTF-8. FAIL_MEMORY. */
int wide_append(text_buffer_t *out, const wchar_t *wide, size_t count, fail_t *fail);

/* The rows that end above the end of a text, and at *column the place where it ends. */
size_t wide_rows_above(const wchar_t *text, size_t count, size_t columns, size_t *column);

/* Prints the first and last lines of a paste, and how much there is in between. */
void wide_show_paste(FILE *out, size_t columns, const wchar_t *text, size_t count);

#endif
