/* SIGINT, SIGTERM and SIGHUP: they ask an engine to stop at the next step, or are only recorded.
 *
 * Signal handlers have no argument, so their state is process-wide; one engine at a time. */
#ifndef CHOIR_LAUNCH_SIGNALS_H
#define CHOIR_LAUNCH_SIGNALS_H

#include <stdbool.h>

#include "engine/run/engine.h"

/* What a signal that ends the run calls, in its handler, before anything else. */
void signals_call_at_end(void (*restore)(void));

/* engine: NULL for a command that calls signals_ended itself. With an engine, blocking system calls
 * are not restarted, so that a reader of the terminal sees the signal. Unblocks signals that the
 * parent process had blocked. */
void signals_install(engine_t *engine);
/* The engine hears of no signal any more, and what a user sends has its default action again. What
 * this process sends itself, being told of another rank's signal (comm_record_signal), may still be
 * under way, and does nothing. */
void signals_remove(void);

/* From now on SIGINT is only recorded, for signals_take_sigint. */
void signals_note_sigint(void);
/* Whether SIGINT came since the last call. */
bool signals_take_sigint(void);
/* From now on the first SIGINT or SIGTERM, on any rank, only asks for an end (signals_draining), and SIGHUP is
 * only recorded, for signals_take_sighup. A second one that comes a second later or more ends the run. */
void signals_drain(void);
bool signals_draining(void);
bool signals_take_sighup(void);
/* Whether the run was asked to stop, and by which signal; 0: none. */
bool signals_ended(void);
int signals_number(void);

#endif
