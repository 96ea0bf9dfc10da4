/* What this host's /proc tells of processes and of what a thread waits in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/watch/launched.h"
#include "comm/watch/process.h"

/* A child that waits to be killed. */
static pid_t start_child(void)
{
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    assert_true(child > 0);
    return child;
}

static void end_child(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

/* Until the kernel says so: it takes a moment after the system call. */
static void wait_for_state(pid_t child, char state)
{
    while (process_look(child).state != state)
        process_pause_ms(1);
}

static void a_process_has_a_state_a_parent_and_a_start(void **state)
{
    (void)state;
    pid_t child = start_child();
    wait_for_state(child, 'S');
    process_t process = process_look(child);
    assert_int_equal(process.parent, getpid());
    assert_true(process.started >= process_look(getpid()).started);
    kill(child, SIGSTOP);
    wait_for_state(child, 'T');
    end_child(child);
    assert_int_equal(process_look(child).state, 'X');
    assert_true(process_look(child).started == 0);
}

static void a_stopped_rank_of_the_same_launcher_is_found_by_its_number(void **state)
{
    (void)state;
    /* This process is the launcher of two others. */
    setenv("OMPI_COMM_WORLD_RANK", "7", 1);
    pid_t ranks[2];
    for (int i = 0; i < 2; i++) {
        ranks[i] = fork();
        if (ranks[i] == 0 && i == 0) {
            raise(SIGSTOP);
            _exit(0);
        } else if (ranks[i] == 0) {
            launched_peer_t peer;
            while (!launched_find_stopped(&peer))
                process_pause_ms(1);
            /* The environment is the one the program was started with. */
            _exit(peer.pid == ranks[0] && launched_rank() == 7 ? 0 : 1);
        }
    }
    int status;
    assert_int_equal(waitpid(ranks[1], &status, 0), ranks[1]);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    end_child(ranks[0]);
    unsetenv("OMPI_COMM_WORLD_RANK");
}

static void one_rank_of_a_host_speaks(void **state)
{
    (void)state;
    int told[2], speakers = 0;
    pid_t ranks[3];
    assert_int_equal(pipe(told), 0);
    for (int i = 0; i < 3; i++) {
        ranks[i] = fork();
        if (ranks[i] == 0) {
            char speaks = launched_may_speak();
            _exit(write(told[1], &speaks, 1) == 1 ? (pause(), 0) : 1);
        }
    }
    for (int i = 0; i < 3; i++) {
        char speaks;
        assert_int_equal(read(told[0], &speaks, 1), 1);
        speakers += speaks;
    }
    assert_int_equal(speakers, 1);
    for (int i = 0; i < 3; i++)
        end_child(ranks[i]);
    close(told[0]);
    close(told[1]);
}

/* ---- What a thread is in --------------------------------------------------------------------- */

typedef struct reader {
    int file;
    atomic_int thread;
} reader_t;

static void *read_one(void *context)
{
    reader_t *reader = context;
    char byte;
    atomic_store(&reader->thread, (int)syscall(SYS_gettid));
    return read(reader->file, &byte, 1) == 1 ? context : NULL;
}

static void a_reader_of_a_pipe_waits_in_a_stream(void **state)
{
    (void)state;
    int ends[2];
    pthread_t thread;
    assert_int_equal(pipe(ends), 0);
    reader_t reader = {.file = ends[0]};
    assert_int_equal(pthread_create(&thread, NULL, read_one, &reader), 0);
    int id;
    while ((id = atomic_load(&reader.thread)) == 0 || process_look(id).state != 'S')
        process_pause_ms(1);
    process_place_t place = process_place(id);
    assert_int_equal(write(ends[1], "x", 1), 1);
    pthread_join(thread, NULL);
    close(ends[0]);
    close(ends[1]);
    if (access("/proc/self/syscall", R_OK) != 0)
        skip();
    assert_int_equal(place, PROCESS_IN_STREAM);
}

/* ---- Work ------------------------------------------------------------------------------------ */

typedef struct worker {
    process_work_t before, after;
    pthread_barrier_t begins, ends;
} worker_t;

static void *watch_work(void *context)
{
    worker_t *worker = context;
    worker->before = process_work();
    pthread_barrier_wait(&worker->begins);
    pthread_barrier_wait(&worker->ends);
    worker->after = process_work();
    return NULL;
}

static void work_is_what_other_threads_compute_and_read(void **state)
{
    (void)state;
    worker_t worker;
    pthread_t thread;
    static char bytes[1 << 16];
    volatile uint64_t sum = 0;
    pthread_barrier_init(&worker.begins, NULL, 2);
    pthread_barrier_init(&worker.ends, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, watch_work, &worker), 0);
    pthread_barrier_wait(&worker.begins);
    for (uint64_t i = 0; i < 20000000; i++)
        sum += i;
    int file = open("/proc/self/exe", O_RDONLY);
    ssize_t n = read(file, bytes, sizeof bytes);
    close(file);
    pthread_barrier_wait(&worker.ends);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&worker.begins);
    pthread_barrier_destroy(&worker.ends);
    assert_true(worker.after.cpu_ns > worker.before.cpu_ns);
    /* The lengths of the counts themselves may differ by some digits. */
    assert_true(n > 4096);
    if (access("/proc/self/io", R_OK) == 0)
        assert_true(worker.after.io_bytes >= worker.before.io_bytes + (size_t)n / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_has_a_state_a_parent_and_a_start),
        cmocka_unit_test(a_stopped_rank_of_the_same_launcher_is_found_by_its_number),
        cmocka_unit_test(one_rank_of_a_host_speaks),
        cmocka_unit_test(a_reader_of_a_pipe_waits_in_a_stream),
        cmocka_unit_test(work_is_what_other_threads_compute_and_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
