/* The subcommands of choir, one file each. */
#ifndef CHOIR_LAUNCH_COMMAND_H
#define CHOIR_LAUNCH_COMMAND_H

#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"
#include "launch/args.h"
#include "launch/flags.h"

#define COMMAND_FLAGS_BYTES 2048 /* of any command's struct */

/* One run of a command, equal on all ranks. */
typedef struct invocation {
    comm_t *comm;
    void *flags;            /* the command's struct */
    common_flags_t *common; /* its beginning */
    args_given_t given;
    const char *topic;    /* choir help TOPIC; NULL when none */
    char model_dir[4096]; /* what common->model became */
    _Alignas(16) char storage[COMMAND_FLAGS_BYTES];
} invocation_t;

typedef struct command {
    const char *name;
    const char *synopsis;
    const char *summary;
    const arg_part_t *parts;
    const void *defaults; /* [flags_bytes] its struct as it is without flags */
    size_t flags_bytes;
    const arg_rule_t *rules; /* which of its flags have no effect beside others; NULL: none */
    /* Collective. */
    int (*run)(invocation_t *invocation, fail_t *fail);
} command_t;

extern const command_t command_generate, command_chat, command_tokenize, command_render,
    command_plan, command_verify, command_bench, command_doctor, command_eval, command_serve,
    command_worker, command_shard, command_quantize, command_help, command_version;

/* All of them in the order of help; ends with NULL. */
extern const command_t *const commands[];

const command_t *command_find(const char *name);

/* "unknown command X", with the nearest if there is one. */
int command_unknown(const char *name, fail_t *fail);

#endif
