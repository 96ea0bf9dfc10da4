#include "launch/wide_text.h"

#include <stdlib.h>

#define REPLACEMENT 0xfffd
/* What is shown of a paste. */
#define SHOWN_FIRST 3
#define SHOWN_LAST 2

wchar_t *wide_of_text(const char *text, size_t bytes, size_t *count)
{
    wchar_t *wide = malloc((bytes + 1) * sizeof *wide);
    mbstate_t state = {0};
    size_t n = 0;
    for (size_t i = 0; wide != NULL && i < bytes;) {
        size_t used = mbrtowc(&wide[n], text + i, bytes - i, &state);
        if (used == 0 || used > bytes - i) {
            wide[n] = REPLACEMENT;
            used = 1;
            state = (mbstate_t){0};
        }
        i += used;
        n++;
    }
    if (wide != NULL)
        wide[n] = 0;
    *count = n;
    return wide;
}

int wide_append(text_buffer_t *out, const wchar_t *wide, size_t count, fail_t *fail)
{
    for (size_t i = 0; i < count && fail->status == 0; i++) {
        char bytes[16];
        mbstate_t state = {0};
        size_t n = wcrtomb(bytes, wide[i], &state);
        if (n != (size_t)-1)
            text_buffer_append(out, bytes, n, fail);
    }
    return fail->status;
}

size_t wide_rows_above(const wchar_t *text, size_t count, size_t columns, size_t *column)
{
    size_t rows = 0;
    for (size_t i = 0; i < count; i++) {
        int width = wcwidth(text[i]);
        size_t cells = text[i] == '\t' ? 8 - *column % 8 : width < 0 ? 2 : (size_t)width;
        if (text[i] == '\n' || *column + cells > columns) {
            rows++;
            *column = 0;
        }
        if (text[i] != '\n')
            *column += cells;
    }
    return rows;
}

/* At most a row of a line, without what would move the cursor. */
static void show_row(FILE *out, size_t columns, const wchar_t *line, size_t count)
{
    size_t column = 2;
    text_buffer_t row = {0};
    fail_t ignored = {0};
    for (size_t i = 0; i < count; i++) {
        wchar_t c = line[i] == '\t' ? L' ' : line[i];
        int width = wcwidth(c);
        column += width < 0 ? 1 : (size_t)width;
        if (column + 4 > columns) {
            text_buffer_append(&row, " ...", 4, &ignored);
            break;
        }
        wide_append(&row, width < 0 ? L"?" : &c, 1, &ignored);
    }
    fprintf(out, ". %s\n", row.bytes > 0 ? row.text : "");
    text_buffer_clear(&row);
}

void wide_show_paste(FILE *out, size_t columns, const wchar_t *text, size_t count)
{
    size_t lines = 1, line = 0;
    for (size_t i = 0; i < count; i++)
        lines += text[i] == '\n' && i + 1 < count;
    for (size_t begin = 0; begin < count; line++) {
        const wchar_t *newline = wmemchr(text + begin, '\n', count - begin);
        size_t n = newline != NULL ? (size_t)(newline - text) - begin : count - begin;
        if (line < SHOWN_FIRST || line + SHOWN_LAST >= lines)
            show_row(out, columns, text + begin, n);
        else if (line == SHOWN_FIRST)
            fprintf(out, "  (%zu more lines)\n", lines - SHOWN_FIRST - SHOWN_LAST);
        begin += n + 1;
    }
    fprintf(out, "  (pasted: %zu line%s, %zu characters)\n", lines, lines == 1 ? "" : "s", count);
    fflush(out);
}
