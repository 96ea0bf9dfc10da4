/* Which flags a command does not read beside others: a flag that would change nothing is an error. */
#ifndef CHOIR_LAUNCH_FLAG_RULES_H
#define CHOIR_LAUNCH_FLAG_RULES_H

#include "engine/base/status.h"
#include "launch/args.h"
#include "launch/options.h"

/* Local. FAIL_USAGE names the first flag of `given` that the command would not read, and why. */
int flag_rules_check(
    const char *command, const options_t *options, const args_given_t *given, fail_t *fail);

#endif
