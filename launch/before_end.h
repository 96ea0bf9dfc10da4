/* What happens in a process before the watchdog ends it, on the watchdog's thread: the terminal is as it was, and a
 * command's own call. Process-wide, as the watchdog is. */
#ifndef CHOIR_LAUNCH_BEFORE_END_H
#define CHOIR_LAUNCH_BEFORE_END_H

/* For watchdog_open and guard_open. */
void before_end(void);
/* One call of a command, which may be made by any thread and returns soon. */
void before_end_call(void (*call)(void));

#endif
