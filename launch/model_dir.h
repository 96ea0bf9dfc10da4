/* Finds the model's directory. */
#ifndef CHOIR_LAUNCH_MODEL_DIR_H
#define CHOIR_LAUNCH_MODEL_DIR_H

#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"

/* Collective. *model, what a flag says (--model), becomes the directory of the model, in path: the directory
 * that it names, or the snapshot of a model in the hub's cache (hub_cache.h). The first rank looks,
 * and those that are given the same take what it finds. NULL stays. Failures are agreed on. */
int model_dir_resolve(comm_t *comm, const char *flag, const char **model, char *path,
    size_t path_bytes, fail_t *fail);

/* Writes the directory: `given`, a path of this machine, when not NULL, else the demo model's: of
 * $CHOIR_HOME, beside the program, or of the source tree it was built from. FAIL_FILE says where it
 * was looked for. */
int model_dir_find(const char *given, char *path, size_t path_bytes, fail_t *fail);

#endif
