/* Lines from a person: standard input, prompts, and Ctrl-C as a key.
 *
 * Without mpirun, Ctrl-C is SIGINT to this process (signals.h). Under mpirun it would be SIGINT to
 * mpirun, which ends the run. So where mpirun reads from a terminal, that terminal is told to send
 * no signal and to end a line at byte 3, which is what Ctrl-C types: the byte then arrives here
 * like any other input. The settings are restored by terminal_close and, in signal handlers,
 * terminal_restore. */
#ifndef CHOIR_LAUNCH_TERMINAL_H
#define CHOIR_LAUNCH_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

typedef struct terminal {
    bool interactive; /* a person types */
    bool shown;       /* and reads standard output as it comes */
    bool keys;        /* Ctrl-C arrives as a byte */
    bool at_end;      /* of the input */
    char *buffer;     /* read and not yet consumed */
    size_t n_buffered, capacity;
} terminal_t;

/* One at a time. */
void terminal_open(terminal_t *terminal);
void terminal_close(terminal_t *terminal);
/* Gives the terminal its settings back. Allowed in signal handlers. */
void terminal_restore(void);

typedef enum terminal_event {
    TERMINAL_LINE,
    TERMINAL_INTERRUPT, /* Ctrl-C */
    TERMINAL_END        /* end of input, or a signal that ends the program */
} terminal_event_t;

/* Waits for a line. *line: freshly allocated, without its newline; only with TERMINAL_LINE. */
terminal_event_t terminal_read_line(terminal_t *terminal, char **line, size_t *bytes, fail_t *fail);

/* Whether Ctrl-C was typed since the last look. Does not wait. */
bool terminal_interrupted(terminal_t *terminal);

#endif
