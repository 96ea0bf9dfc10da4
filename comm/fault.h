/* Faults for tests, at named points of a run, so that no test depends on when something happens.
 *
 * The environment variable CHOIR_FAULT=ACTION:POINT:RANK,... asks for some: when that rank reaches
 * that point it is stopped (stop), killed (kill), waits without end (hang) or for two seconds (slow), or
 * gets a signal (term, int, hup). Ranks are those of the launcher. */
#ifndef CHOIR_COMM_FAULT_H
#define CHOIR_COMM_FAULT_H

/* Local. point: "start", "load", ...; most are in launch/main.c and engine/run/engine.c. */
void fault_at(const char *point);

#endif
