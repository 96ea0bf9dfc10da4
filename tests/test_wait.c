/* Waiting (engine/base/wait.h): no wakeup is lost, whether threads sleep, spin or are slow. A lost one
 * would show as data that is wrong or as a program that does not end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/wait.h"

enum { MEMBERS = 3, ROUNDS = 2000 };

/* Members take turns in a ring: each waits until the count is its own, and passes it on. */
typedef struct ring {
    wait_load_t load;
    wait_place_t place;
    _Alignas(WAIT_LINE) _Atomic uint64_t count;
    uint64_t sum; /* plain: the thread whose turn it is owns it */
} ring_t;

typedef struct member {
    ring_t *ring;
    uint64_t number, turn; /* turn: the count that it waits for */
    bool shared, oversubscribed, wrong;
} member_t;

static bool has_turn(const void *context)
{
    const member_t *m = context;
    return atomic_load_explicit(&m->ring->count, memory_order_acquire) == m->turn;
}

/* Of no, a short, or a long time, so that the others are found looking, yielding and asleep. */
static void dawdle(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    unsigned kind = (unsigned)(*random >> 60);
    if (kind < 4)
        sched_yield();
    else if (kind == 4)
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
}

static void *run_member(void *context)
{
    member_t *m = context;
    uint64_t slept = 0, random = m->number;
    waiter_t waiter = {.load = &m->ring->load,
        .shared = m->shared,
        .oversubscribed = m->oversubscribed,
        .slept_ns = &slept};
    for (int round = 0; round < ROUNDS; round++) {
        m->turn = (uint64_t)round * MEMBERS + m->number;
        wait_until(&waiter, &m->ring->place, has_turn, m);
        m->wrong = m->wrong || m->ring->sum != m->turn;
        m->ring->sum++;
        dawdle(&random);
        atomic_store_explicit(&m->ring->count, m->turn + 1, memory_order_release);
        wait_wake(&m->ring->place, m->shared);
    }
    return NULL;
}

static ring_t *open_ring(bool busy)
{
    ring_t *ring =
        mmap(NULL, sizeof *ring, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(ring, MAP_FAILED);
    if (busy)
        atomic_store(&ring->load.busy_until_ns, UINT64_MAX);
    return ring;
}

static void threads_pass_a_turn_on_without_losing_a_wakeup(void **state)
{
    (void)state;
    for (int busy = 0; busy < 2; busy++) {
        ring_t *ring = open_ring(busy);
        member_t members[MEMBERS];
        pthread_t threads[MEMBERS];
        for (int i = 0; i < MEMBERS; i++) {
            members[i] = (member_t){
                .ring = ring, .number = (uint64_t)i, .oversubscribed = i == 1 || busy != 0};
            assert_int_equal(pthread_create(&threads[i], NULL, run_member, &members[i]), 0);
        }
        for (int i = 0; i < MEMBERS; i++) {
            pthread_join(threads[i], NULL);
            assert_false(members[i].wrong);
        }
        assert_int_equal(ring->sum, ROUNDS * MEMBERS);
        assert_int_equal(ring->place.sleepers, 0);
        munmap(ring, sizeof *ring);
    }
}

static void processes_pass_a_turn_on_through_shared_memory(void **state)
{
    (void)state;
    ring_t *ring = open_ring(true);
    pid_t children[MEMBERS];
    for (int i = 0; i < MEMBERS; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            member_t m = {
                .ring = ring, .number = (uint64_t)i, .shared = true, .oversubscribed = i > 0};
            run_member(&m);
            _exit(m.wrong);
        }
    }
    for (int i = 0; i < MEMBERS; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(ring->sum, ROUNDS * MEMBERS);
    munmap(ring, sizeof *ring);
}

static void count_call(void *context)
{
    ++*(int *)context;
}

static bool is_fifth_call(const void *context)
{
    return *(const int *)context >= 5;
}

static void a_long_wait_calls_its_poll_without_being_woken(void **state)
{
    (void)state;
    wait_load_t load = {0};
    wait_place_t place = {0};
    uint64_t slept = 0;
    int calls = 0;
    atomic_store(&load.busy_until_ns, UINT64_MAX);
    waiter_t waiter = {
        .load = &load, .slept_ns = &slept, .poll = count_call, .poll_context = &calls};
    wait_until(&waiter, &place, is_fifth_call, &calls);
    assert_int_equal(calls, 5);
    assert_true(slept > 0);
}

/* A thread that sleeps where nobody counts it looks like one that has lost its core. */
static void lost_time_makes_the_machine_busy_and_slept_time_does_not(void **state)
{
    (void)state;
    for (int counted = 0; counted < 2; counted++) {
        wait_load_t load = {0};
        wait_loss_t loss = {0};
        uint64_t slept = 0;
        double share = -1;
        waiter_t waiter = {.load = &load, .slept_ns = &slept};
        wait_work_begin(&loss, &waiter);
        uint64_t begin = clock_ns();
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        if (counted)
            slept = 2 * (clock_ns() - begin);
        assert_true(wait_work_end(&loss, &waiter, &share));
        assert_true(counted ? share == 0 : share > 0.2);
        assert_int_equal(load.busy_until_ns != 0, !counted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_pass_a_turn_on_without_losing_a_wakeup),
        cmocka_unit_test(processes_pass_a_turn_on_through_shared_memory),
        cmocka_unit_test(a_long_wait_calls_its_poll_without_being_woken),
        cmocka_unit_test(lost_time_makes_the_machine_busy_and_slept_time_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
