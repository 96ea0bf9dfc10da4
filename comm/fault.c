#include "comm/fault.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/watch/launched.h"
#include "comm/watch/process.h"

#define SLOW_MS 2000 /* many looks of the watchdog */

static void hang(void)
{
    for (;;)
        pause();
}

static void act(const char *action)
{
    static const struct {
        const char *action;
        int signal;
    } actions[] = {
        {"stop", SIGSTOP}, {"kill", SIGKILL}, {"term", SIGTERM}, {"int", SIGINT}, {"hup", SIGHUP}};
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strcmp(action, actions[i].action) == 0)
            kill(getpid(), actions[i].signal);
    if (strcmp(action, "hang") == 0)
        hang();
    if (strcmp(action, "slow") == 0)
        process_pause_ms(SLOW_MS);
}

void fault_at(const char *point)
{
    char action[16], where[32];
    int rank, bytes;
    for (const char *text = getenv("CHOIR_FAULT"); text != NULL; text += bytes) {
        if (sscanf(text, "%15[^:]:%31[^:]:%d%n", action, where, &rank, &bytes) != 3)
            return;
        if (strcmp(where, point) == 0 && rank == launched_rank())
            act(action);
        bytes += text[bytes] == ',';
    }
}
