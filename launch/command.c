#include "launch/command.h"

#include <string.h>

const command_t *const commands[] = {&command_generate, &command_chat, &command_tokenize,
    &command_render, &command_plan, &command_verify, &command_bench, &command_doctor, &command_eval,
    &command_serve, &command_worker, &command_shard, &command_quantize, &command_help,
    &command_version, NULL};

const command_t *command_find(const char *name)
{
    for (const command_t *const *command = commands; *command != NULL; command++)
        if (strcmp((*command)->name, name) == 0)
            return *command;
    return NULL;
}

int command_unknown(const char *name, fail_t *fail)
{
    const char *names[sizeof commands / sizeof *commands];
    size_t n = 0;
    while (commands[n] != NULL) {
        names[n] = commands[n]->name;
        n++;
    }
    const char *nearest = args_nearest(name, names, n);
    if (nearest != NULL)
        return fail_set(fail, FAIL_USAGE, "unknown command %s; did you mean %s?", name, nearest);
    return fail_set(fail, FAIL_USAGE, "unknown command %s; choir help lists them", name);
}
