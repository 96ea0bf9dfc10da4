/* Text from outside (names in files, prompts, paths) made fit for one line of a terminal.
 *
 * Control characters would move the cursor, colour or clear the screen, or feign another line; so
 * they are written as escapes, and so is what is not UTF-8: \n \r \t, \x1b for a byte, \u202e for
 * controls beyond ASCII, line separators and marks that turn the direction of writing. A backslash
 * stays as it is: what is escaped already stays the same. Pure functions. */
#ifndef CHOIR_BASE_PRINTABLE_H
#define CHOIR_BASE_PRINTABLE_H

#include <stdbool.h>
#include <stddef.h>

/* Writes the text into out with a zero at its end, truncated between characters where it is longer
 * than out_bytes (at least 1). Returns the length written. */
size_t printable(char *out, size_t out_bytes, const char *text, size_t bytes);

/* Whether printable would change nothing. */
bool is_printable(const char *text, size_t bytes);

/* A name for a table or a line that is printed, where its length does not matter. */
typedef struct printable_name {
    char text[1024];
} printable_name_t;
printable_name_t printable_name(const char *name);

#endif
