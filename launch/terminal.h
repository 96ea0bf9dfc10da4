/* Lines from a person: standard input, a line editor, and Ctrl-C as a key.
 *
 * Where standard input is a terminal, or a pipe from mpirun, whose own is one, that terminal is
 * told to pass keys on as they are typed, unseen and uncut, and a line editor (line_editor.h) shows
 * them. So keys that are typed during an answer are there at the next prompt. Without an editor for
 * the terminal, it passes on lines as it edits them itself.
 *
 * Ctrl-C would be SIGINT to mpirun, which ends the run. So the terminal is told to send no signal,
 * and byte 3, which Ctrl-C types, arrives like any other input, and in its order: what was typed
 * before it is dropped, and what is typed after it is not. (Without mpirun and without an editor,
 * Ctrl-C is SIGINT to this process, see signals.h.) Under mpirun, output goes from here to the
 * terminal that is edited on: mpirun would forward it some time later than the editor draws. And
 * Ctrl-Z, which would stop the ranks but not mpirun, stops mpirun, and the rank waits for fg.
 *
 * The terminal has its settings back after terminal_close, while the program is stopped (Ctrl-Z),
 * and after signals that end it. */
#ifndef CHOIR_LAUNCH_TERMINAL_H
#define CHOIR_LAUNCH_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#include "engine/base/status.h"
#include "launch/line_editor.h"

/* Bytes that Linux keeps of a line that the terminal edits itself. */
#define TERMINAL_LONGEST_LINE 4095

typedef struct terminal {
    bool interactive; /* a person types */
    bool shown;       /* and reads standard output as it comes */
    bool forwarded;   /* the terminal is mpirun's, which passes on what it reads */
    bool keys;        /* Ctrl-C arrives as a byte */
    bool at_end;      /* of the input */
    bool interrupted; /* such a byte arrived */
    bool stopping;    /* and Ctrl-Z's did */
    char *buffer;     /* read; from `begin` not yet consumed */
    size_t begin, n_buffered, capacity;
    int fd;                /* the terminal; -1: none */
    int before[2];         /* standard output and error, while they go to the terminal; or -1 */
    pid_t group;           /* of the processes that the terminal belongs to */
    struct winsize size;   /* as the editor knows it */
    line_editor_t *editor; /* NULL: lines as they come */
} terminal_t;

/* One at a time. */
void terminal_open(terminal_t *terminal);
void terminal_close(terminal_t *terminal);
/* Gives the terminal its settings back. Allowed in signal handlers. */
void terminal_restore(void);

typedef enum terminal_event {
    TERMINAL_LINE,
    TERMINAL_CUT,       /* a line so long that the terminal may have dropped its end */
    TERMINAL_INTERRUPT, /* Ctrl-C */
    TERMINAL_END        /* end of input, or a signal that ends the program */
} terminal_event_t;

/* Waits for a line. prompt: the editor's; without one the caller writes it. *line: freshly
 * allocated, without its newline; only with TERMINAL_LINE. */
terminal_event_t terminal_read_line(
    terminal_t *terminal, const char *prompt, char **line, size_t *bytes, fail_t *fail);

/* Whether Ctrl-C was typed since the last look. Does not wait. */
bool terminal_interrupted(terminal_t *terminal);

#endif
