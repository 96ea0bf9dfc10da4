#include <stdio.h>

#include "engine/kernels/kernels.h"
#include "launch/command.h"

#ifndef CHOIR_LIBRARIES
#define CHOIR_LIBRARIES "not recorded by this build"
#endif

static int cmd_version(invocation_t *invocation, fail_t *fail)
{
    (void)fail;
    if (comm_rank(invocation->comm) != 0)
        return 0;
    printf("choir %s\n", CHOIR_VERSION);
    printf("MPI: %s\n", comm_library_version());
    printf("libraries: %s\n", CHOIR_LIBRARIES);
    printf("instruction sets:");
    for (size_t i = 0; i <= isa_level(isa_detect()); i++)
        printf(" %s", isa_name(isa_of_level(i)));
    putchar('\n');
    return 0;
}

static const arg_part_t parts[] = {
    PARTS_END,
};

static const common_flags_t defaults = COMMON_DEFAULTS;

const command_t command_version = {"version", "choir --version",
    "versions of Choir and its libraries, instruction sets", parts, &defaults, sizeof defaults,
    NULL, cmd_version};
