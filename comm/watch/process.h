/* Processes of this host, read from /proc, and how a monitoring process ends. Local functions; no
 * MPI. */
#ifndef CHOIR_COMM_PROCESS_H
#define CHOIR_COMM_PROCESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* A process or a thread. */
typedef struct process {
    uint64_t started; /* as in /proc/PID/stat, so that another process of that id is detected; 0:
                       * there is none */
    int parent;
    char state; /* 'R', 'S', 'D', 'T' stopped, 'Z' ended, ...; 'X': there is none */
} process_t;

process_t process_look(int pid);

/* CPU time, reads and writes of this process so far, without the calling thread. */
typedef struct process_work {
    uint64_t cpu_ns;
    uint64_t io_bytes; /* read and written; 0 where the kernel does not count */
} process_work_t;

process_work_t process_work(void);

/* What a thread of this process waits for. */
typedef enum process_place {
    PROCESS_ELSEWHERE, /* it computes, sleeps, or nothing is known */
    PROCESS_IN_STREAM, /* it waits for the other end of a terminal, a pipe or a socket */
    PROCESS_IN_FILE    /* it waits for a file system */
} process_place_t;

process_place_t process_place(int thread);

void process_pause_ms(long ms);

/* Starts a thread with all signals blocked and a small stack. 0, or an errno. */
int process_start_thread(pthread_t *thread, void *(*run)(void *context), void *context);

/* A launcher (mpirun) that has lost a node waits for it for minutes. Starts a process that ends the
 * launcher if it has not ended by itself in a few seconds. Does nothing with launchers other than
 * mpirun. */
void process_see_launcher_off(int launcher);

#endif
