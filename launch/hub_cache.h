/* Models by their name on the Hugging Face hub, "Org/Name" or "Org/Name@REVISION": where the hub's
 * tools keep what they downloaded. Nothing is downloaded here.
 *
 * A cache holds models--ORG--NAME/refs/REVISION, whose text is a commit, and snapshots/COMMIT, a
 * model directory of links to blobs/. */
#ifndef CHOIR_LAUNCH_HUB_CACHE_H
#define CHOIR_LAUNCH_HUB_CACHE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

/* Whether a --model that is no path of this machine can be a model of the hub. */
bool hub_is_name(const char *given);

/* The snapshot of a name in the cache of $HF_HUB_CACHE, $HUGGINGFACE_HUB_CACHE, $HF_HOME/hub,
 * $XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub, the first that is set. FAIL_FILE
 * tells the command that downloads it. Local. */
int hub_find(const char *name, char *path, size_t path_bytes, fail_t *fail);

/* A directory that was given: where it is a cache's folder of a model, or the snapshots in it,
 * *path is replaced by the snapshot of its ref "main". Of a model directory, links without a
 * target, as interrupted downloads leave them, are FAIL_FILE. Local. */
int hub_check_directory(char *path, size_t path_bytes, fail_t *fail);

#endif
