/* One line, or several, that a person edits on a terminal: arrows, history, search, pastes.
 *
 * By libedit, where the build has it (line_editor.c); otherwise line_editor_open says so by NULL
 * (line_editor_none.c) and the terminal's own line discipline has to do. The editor writes to the
 * terminal, but reads from its owner, since under mpirun the keys come through a pipe. */
#ifndef CHOIR_LAUNCH_LINE_EDITOR_H
#define CHOIR_LAUNCH_LINE_EDITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <termios.h>

#include "engine/base/status.h"

typedef struct line_editor line_editor_t;

typedef enum line_input {
    LINE_BYTE,
    LINE_RESIZED,   /* the terminal has another size */
    LINE_REDRAW,    /* it showed other text for a while */
    LINE_INTERRUPT, /* Ctrl-C */
    LINE_END        /* of the input */
} line_input_t;

/* Waits for the next byte that was typed. */
typedef line_input_t (*line_read_t)(void *context, unsigned char *byte);

typedef enum line_event {
    LINE_TEXT,
    LINE_INTERRUPTED, /* the typed text is dropped */
    LINE_ENDED        /* Ctrl-D at an empty prompt, or the end of the input */
} line_event_t;

/* terminal: descriptor of a terminal that is not canonical and does not echo; borrowed. typed:
 * its settings before, which say what the keys for erasing are. NULL when there is no editor for
 * it: TERM is not set, or dumb, or not known. */
line_editor_t *line_editor_open(
    int terminal, const struct termios *typed, line_read_t read, void *context);
void line_editor_close(line_editor_t *editor);

/* Waits for a text. *text: freshly allocated, ends in zero; only with LINE_TEXT. A failure is
 * FAIL_MEMORY, with LINE_ENDED. */
line_event_t line_editor_read(
    line_editor_t *editor, const char *prompt, char **text, size_t *bytes, fail_t *fail);

/* Adds a text to those that the arrow up brings back. */
void line_editor_remember(line_editor_t *editor, const char *text);

#endif
