/* The call stack of another thread of this process, as words. */
#ifndef CHOIR_COMM_STACK_H
#define CHOIR_COMM_STACK_H

#include <stddef.h>

/* Interrupts the thread that seems to be busy: of the process's threads that run right now, the
 * calling one apart, the first; else the thread `main_thread` (as gettid gives it). Writes
 * "innermost < its caller < ...", functions by their names where the program has them, else as
 * file+offset; an empty string when the thread does not answer within a second. One caller at a
 * time. Borrows the signal SIGURG meanwhile, which nobody else uses and which is ignored otherwise.
 */
void stack_of_busy(int main_thread, char *text, size_t text_bytes);

#endif
