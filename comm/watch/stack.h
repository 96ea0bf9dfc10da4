/* The call stack of another thread of this process, as text. */
#ifndef CHOIR_COMM_STACK_H
#define CHOIR_COMM_STACK_H

#include <stddef.h>

/* Interrupts the thread that seems to be busy: the first of the process's running threads, without
 * the calling one; else the thread `main_thread` (as gettid gives it). Writes
 * "innermost < its caller < ...", functions by their names where the program has them, else as
 * file+offset; an empty string when the thread does not answer within a second. One caller at a
 * time. Uses the signal SIGURG, which is ignored otherwise.
 */
void stack_of_busy(int main_thread, char *text, size_t text_bytes);

#endif
