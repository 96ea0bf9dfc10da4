/* The subcommands of choir, one file each. */
#ifndef CHOIR_LAUNCH_COMMAND_H
#define CHOIR_LAUNCH_COMMAND_H

#include <stdio.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "launch/args.h"
#include "launch/options.h"

/* One run of a command, alike on all ranks. */
typedef struct invocation {
    comm_t *comm;
    options_t options;
    args_given_t given;
    const char *topic;    /* choir help TOPIC; NULL when none */
    char model_dir[4096]; /* what options.model became */
} invocation_t;

typedef struct command {
    const char *name;
    const char *synopsis;
    const char *summary;
    const arg_group_t *const *groups; /* ends with NULL */
    /* Collective. */
    int (*run)(invocation_t *invocation, fail_t *fail);
} command_t;

/* All of them; ends with a NULL name. */
extern const command_t commands[];

const command_t *command_find(const char *name);

int cmd_generate(invocation_t *invocation, fail_t *fail);
int cmd_chat(invocation_t *invocation, fail_t *fail);
int cmd_tokenize(invocation_t *invocation, fail_t *fail);
int cmd_render(invocation_t *invocation, fail_t *fail);
int cmd_verify(invocation_t *invocation, fail_t *fail);
int cmd_bench(invocation_t *invocation, fail_t *fail);
int cmd_doctor(invocation_t *invocation, fail_t *fail);
int cmd_eval(invocation_t *invocation, fail_t *fail);
int cmd_worker(invocation_t *invocation, fail_t *fail);
int cmd_plan(invocation_t *invocation, fail_t *fail);
int cmd_shard(invocation_t *invocation, fail_t *fail);
int cmd_help(invocation_t *invocation, fail_t *fail);
int cmd_version(invocation_t *invocation, fail_t *fail);

/* "unknown command X", with the nearest if there is one. */
int command_unknown(const char *name, fail_t *fail);

#endif
