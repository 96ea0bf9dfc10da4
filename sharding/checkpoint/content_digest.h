/* The digest by which references and results name the weights of a checkpoint. */
#ifndef CHOIR_SHARDING_CONTENT_DIGEST_H
#define CHOIR_SHARDING_CONTENT_DIGEST_H

#include <stdint.h>

#include "engine/base/progress.h"
#include "engine/base/status.h"
#include "sharding/checkpoint/checkpoint.h"

/* Local. XXH3 of 64 bits over all tensors in byte order of their names: the name, then the bytes as
 * stored. progress may be NULL. */
int checkpoint_content_digest(checkpoint_t *checkpoint, progress_fn progress,
    void *progress_context, uint64_t *digest, fail_t *fail);

/* Local. The same of a model directory's checkpoint, opened for it; *digest is 0 after a failure. What
 * checkpoint_open and reading give. */
int checkpoint_directory_digest(const char *directory, uint64_t *digest, fail_t *fail);

#endif
