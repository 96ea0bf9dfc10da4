/* SIGINT, SIGTERM and SIGHUP while an engine runs: they ask it to stop at the next step.
 *
 * Signal handlers have no argument, so what they act on is process-wide; one engine at a time. */
#ifndef CHOIR_LAUNCH_SIGNALS_H
#define CHOIR_LAUNCH_SIGNALS_H

#include <stdbool.h>

#include "engine/run/engine.h"

/* System calls that wait are not restarted, so that a reader of the terminal notices. */
void signals_install(engine_t *engine);
/* The default actions again. */
void signals_remove(void);

/* From now on SIGINT is only noted, for signals_take_sigint. */
void signals_note_sigint(void);
/* Whether SIGINT came since the last call. */
bool signals_take_sigint(void);
/* Whether the engine was asked to stop. */
bool signals_ended(void);

#endif
