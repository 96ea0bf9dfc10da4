/* The choir program: starts MPI, finds the command, agrees on how it ended, exits. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/fault.h"
#include "comm/watch/guard.h"
#include "comm/watch/heart.h"
#include "comm/watch/trace.h"
#include "comm/watch/watchdog.h"
#include "engine/base/log.h"
#include "launch/command.h"
#include "launch/flag_rules.h"
#include "launch/model_dir.h"
#include "launch/output.h"
#include "launch/signals.h"
#include "launch/terminal.h"

enum { EXIT_USAGE = 2, EXIT_SIGNAL = 128 };

/* Collective, with the status that all ranks agreed on. Not every rank hears of a signal. */
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

/* Which command is meant; its flags are parsed into *invocation. */
static const command_t *parse(int argc, char **argv, invocation_t *invocation, fail_t *fail)
{
    const command_t *help = command_find("help");
    invocation->options = options_defaults();
    if (argc < 2 || is_help(argv[1]))
        return help;
    if (strcmp(argv[1], "--version") == 0)
        return command_find("version");
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
    args_parse(command->groups, argc - first, argv + first, &invocation->options,
        &invocation->given, fail);
    if (fail->status == 0 && !invocation->options.help)
        flag_rules_check(command->name, &invocation->options, &invocation->given, fail);
    if (invocation->options.help && fail->status == 0) {
        invocation->topic = command->name;
        return help;
    }
    return command;
}

/* Collective. */
static int run(const command_t *command, invocation_t *invocation, guard_t *guard, fail_t *fail)
{
    options_t *options = &invocation->options;
    watchdog_t *watchdog = NULL;
    trace_t *trace = NULL;
    log_set_speaker(comm_rank(invocation->comm) == 0);
    log_set_level(options->verbose ? LOG_DEBUG : options->quiet ? LOG_ERROR : LOG_INFO);
    fault_at("agree");
    if (comm_agree(invocation->comm, fail) == 0)
        watchdog_open(
            &watchdog, invocation->comm, options->watchdog_seconds, terminal_restore, fail);
    guard_enter(guard, NULL);
    if (fail->status == 0 &&
        trace_open(&trace, invocation->comm, options->trace, TRACE_EVENTS, fail) == 0 &&
        model_dir_resolve(invocation->comm, &options->model, invocation->model_dir,
            sizeof invocation->model_dir, fail) == 0) {
        fault_at("command");
        command->run(invocation, fail);
        comm_mark(invocation->comm, HEART_WORK, 0);
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
    /* A reader that goes away, and a limit on the size of files, are no reason to die: whoever
     * writes notices. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    const command_t *command = parse(argc, argv, &invocation, &fail);
    guard_t *guard = guard_open(invocation.options.watchdog_seconds, terminal_restore);
    guard_enter(guard, "MPI_Init");
    fault_at("start");
    fail_t start = {0};
    if (comm_start(&argc, &argv, &start) != 0) {
        report(&start);
        return EXIT_FAILURE;
    }
    guard_enter(guard, "the agreement on who is where");
    fault_at("groups");
    comm_path_t path = invocation.options.comm == 0 ? COMM_AUTO : COMM_MPI;
    if (comm_open_world(&invocation.comm, path, &start) != 0) {
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
