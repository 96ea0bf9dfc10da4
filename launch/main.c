/* The choir program: starts MPI, finds the command, agrees on how it ended, exits. */
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/fault.h"
#include "comm/watch/guard.h"
#include "comm/watch/progress_record.h"
#include "comm/watch/trace.h"
#include "comm/watch/watchdog.h"
#include "engine/base/log.h"
#include "launch/before_end.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/output.h"
#include "launch/signals.h"
#include "launch/terminal.h"

enum { EXIT_USAGE = 2, EXIT_SIGNAL = 128 };

/* Collective, with the status that all ranks agreed on. Not every rank receives a signal. */
static int exit_status(comm_t *comm, int status)
{
    int64_t number;
    switch (status) {
    case 0:
        return EXIT_SUCCESS;
    case FAIL_USAGE:
        return EXIT_USAGE;
    case FAIL_INTERRUPTED:
        number = comm_max(comm, signals_number());
        return EXIT_SIGNAL + (number != 0 ? (int)number : SIGINT);
    default:
        return EXIT_FAILURE;
    }
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static void use_command(const command_t *command, invocation_t *invocation)
{
    assert(command->flags_bytes <= sizeof invocation->storage);
    memcpy(invocation->storage, command->defaults, command->flags_bytes);
    invocation->flags = invocation->common = (common_flags_t *)invocation->storage;
}

/* Which command is meant; its flags are parsed into *invocation. */
static const command_t *parse(int argc, char **argv, invocation_t *invocation, fail_t *fail)
{
    const command_t *help = &command_help;
    use_command(help, invocation);
    if (argc < 2 || is_help(argv[1]))
        return help;
    if (strcmp(argv[1], "--version") == 0)
        return &command_version;
    const command_t *command = command_find(argv[1]);
    if (command == NULL) {
        if (argv[1][0] == '-')
            fail_set(
                fail, FAIL_USAGE, "expected a command before %s; choir help lists them", argv[1]);
        else
            command_unknown(argv[1], fail);
        return help;
    }
    int first = 2;
    if (command == help && argc > 2 && argv[2][0] != '-')
        invocation->topic = argv[first++];
    use_command(command, invocation);
    args_parse(
        command->parts, argc - first, argv + first, invocation->flags, &invocation->given, fail);
    if (fail->status == 0 && !invocation->common->help)
        args_check_rules(command->rules, invocation->flags, &invocation->given, fail);
    if (invocation->common->help && fail->status == 0) {
        invocation->topic = command->name;
        return help;
    }
    return command;
}

/* Collective. */
static int run(const command_t *command, invocation_t *invocation, guard_t *guard, fail_t *fail)
{
    common_flags_t *flags = invocation->common;
    watchdog_t *watchdog = NULL;
    trace_t *trace = NULL;
    log_set_speaker(comm_rank(invocation->comm) == 0);
    log_set_level(flags->verbose ? LOG_DEBUG : flags->quiet ? LOG_ERROR : LOG_INFO);
    fault_at("agree");
    if (comm_agree(invocation->comm, fail) == 0)
        watchdog_open(&watchdog, invocation->comm, flags->watchdog_seconds, before_end, fail);
    guard_enter(guard, NULL);
    if (fail->status == 0 &&
        trace_open(&trace, invocation->comm, flags->trace, TRACE_EVENTS, fail) == 0 &&
        model_dir_resolve(invocation->comm, "--model", &flags->model, invocation->model_dir,
            sizeof invocation->model_dir, fail) == 0) {
        fault_at("command");
        command->run(invocation, fail);
        comm_set_phase(invocation->comm, PROGRESS_WORK, 0);
        fault_at("end");
        output_finish(fail);
        comm_agree(invocation->comm, fail);
    }
    trace_close(trace, fail);
    guard_enter(guard, "the end of the run");
    watchdog_close(watchdog);
    return fail->status;
}

static void report(const fail_t *fail)
{
    if (fail->status == FAIL_INTERRUPTED)
        log_write(LOG_WARN, "%s", fail->message);
    else if (fail->status != 0)
        log_write(LOG_ERROR, "%s", fail->message);
}

/* Collective. mpirun reads what ranks write through pipes, and drops what it has not read yet when
 * a rank exits with a status other than 0; so no rank exits before it had time to read the message.
 */
static void let_message_through(comm_t *comm)
{
    const struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};
    if (comm_size(comm) == 1)
        return;
    if (comm_rank(comm) == 0)
        nanosleep(&pause, NULL);
    comm_barrier(comm);
}

int main(int argc, char **argv)
{
    invocation_t invocation = {0};
    fail_t fail = {0};
    output_start();
    signals_call_at_end(terminal_restore);
    /* A closed reader, and a limit on the size of files, do not end the process: the writer checks
     * errors. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    const command_t *command = parse(argc, argv, &invocation, &fail);
    guard_t *guard = guard_open(invocation.common->watchdog_seconds, before_end);
    guard_enter(guard, "MPI_Init");
    fault_at("start");
    fail_t start = {0};
    if (comm_start(&argc, &argv, &start) != 0) {
        report(&start);
        return EXIT_FAILURE;
    }
    guard_enter(guard, "placement of ranks");
    fault_at("groups");
    if (comm_open_world(&invocation.comm, invocation.common->path, &start) != 0) {
        report(&start);
        comm_abort(EXIT_FAILURE);
    }
    run(command, &invocation, guard, &fail);
    if (comm_rank(invocation.comm) == 0)
        report(&fail);
    if (fail.status != 0)
        let_message_through(invocation.comm);
    int status = exit_status(invocation.comm, fail.status);
    comm_close(invocation.comm);
    guard_enter(guard, "MPI_Finalize");
    fault_at("finalize");
    comm_stop();
    guard_close(guard);
    return status;
}
