/* Texts of earlier sessions: a file of JSON strings, one a line, to which each session adds. Only
 * the user can read it (mode 0600). It is in $XDG_STATE_HOME/choir/history or
 * ~/.local/state/choir/history. Nothing here fails: where it cannot be read or written there is no
 * history. */
#ifndef CHOIR_LAUNCH_HISTORY_H
#define CHOIR_LAUNCH_HISTORY_H

#include <stdbool.h>
#include <stddef.h>

#define HISTORY_PATH_BYTES 4096
#define HISTORY_MAX_TEXTS 1000
/* Longer texts are not kept: files that were pasted. */
#define HISTORY_MAX_TEXT_BYTES 4096

typedef struct history {
    char path[HISTORY_PATH_BYTES]; /* empty: none is kept */
} history_t;

/* Finds the file, makes its folders, and calls `take` with the last HISTORY_MAX_TEXTS texts, the
 * oldest first. A file that has grown to twice as many is cut to those. */
void history_open(history_t *history, void (*take)(void *context, const char *text), void *context);

/* Adds a text, unless it is too long or begins with a space. True if it is kept. */
bool history_add(const history_t *history, const char *text, size_t bytes);

#endif
