#include "comm/fault.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/watch/launched.h"

static void hang(void)
{
    for (;;)
        pause();
}

void fault_at(const char *point)
{
    static const struct {
        const char *action;
        int signal;
    } actions[] = {
        {"stop", SIGSTOP}, {"kill", SIGKILL}, {"term", SIGTERM}, {"int", SIGINT}, {"hup", SIGHUP}};
    const char *text = getenv("CHOIR_FAULT");
    char action[16], where[32];
    int rank;
    if (text == NULL || sscanf(text, "%15[^:]:%31[^:]:%d", action, where, &rank) != 3 ||
        strcmp(where, point) != 0 || rank != launched_rank())
        return;
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strcmp(action, actions[i].action) == 0)
            kill(getpid(), actions[i].signal);
    if (strcmp(action, "hang") == 0)
        hang();
}
