/* Where the model is when --model is not given. */
#ifndef CHOIR_LAUNCH_MODEL_DIR_H
#define CHOIR_LAUNCH_MODEL_DIR_H

#include <stddef.h>

#include "engine/base/status.h"

/* Writes the directory: `given` when not NULL, else the demo model's: of $CHOIR_HOME, beside the
 * program, or of the source tree it was built from. FAIL_FILE says where it was looked for. */
int model_dir_find(const char *given, char *path, size_t path_bytes, fail_t *fail);

#endif
