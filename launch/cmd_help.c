#include <stdio.h>

#include "launch/command.h"

static void print_overview(FILE *out)
{
    fputs("Choir answers with Qwen2.5 language models, split over the ranks of mpirun,\n"
          "with the same bits at any number of ranks.\n\n"
          "  choir COMMAND [flags]             on one rank\n"
          "  mpirun -n N choir COMMAND [flags] on N ranks\n\n"
          "Commands\n",
        out);
    for (const command_t *const *command = commands; *command != NULL; command++)
        fprintf(out, "  %-10s %s\n", (*command)->name, (*command)->summary);
    fputs("\nTry\n"
          "  choir generate --chat --prompt \"Hello\"\n"
          "  choir chat\n"
          "  choir help generate\n",
        out);
}

static int cmd_help(invocation_t *invocation, fail_t *fail)
{
    const command_t *command = NULL;
    if (invocation->topic != NULL) {
        command = command_find(invocation->topic);
        if (command == NULL)
            return command_unknown(invocation->topic, fail);
    }
    if (comm_rank(invocation->comm) != 0)
        return 0;
    if (command == NULL) {
        print_overview(stdout);
    } else {
        printf("%s\n\n%s: %s\n", command->synopsis, command->name, command->summary);
        args_print_help(command->parts, stdout);
    }
    return 0;
}

static const arg_part_t parts[] = {
    PARTS_END,
};

static const common_flags_t defaults = COMMON_DEFAULTS;

const command_t command_help = {"help", "choir help [COMMAND]", "explain a command and its flags",
    parts, &defaults, sizeof defaults, NULL, cmd_help};
