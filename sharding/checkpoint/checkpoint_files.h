/* Chooses the files of a model directory that have its weights. Owns the names. No file but the
 * index is read. */
#ifndef CHOIR_SHARDING_CHECKPOINT_FILES_H
#define CHOIR_SHARDING_CHECKPOINT_FILES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/base/status.h"

#define CHECKPOINT_SINGLE_FILE "model.safetensors"
#define CHECKPOINT_INDEX_FILE "model.safetensors.index.json"

typedef struct checkpoint_files {
    size_t n;
    const char **names; /* [n] in the directory, ascending, distinct */
    bool index_ignored; /* there is an index beside the single file */
    json_t *index;      /* holds the names; NULL for the single file */
    const char *
        *needed; /* [n] a tensor that the index wants of the file; NULL for the single one */
} checkpoint_files_t;

/* Local. As in transformers: model.safetensors alone if it exists, else the files that
 * model.safetensors.index.json names. All tensors of these files count, whatever the index lists;
 * of a tensor in several files, the last file's. FAIL_FILE, FAIL_FORMAT. On failure nothing is
 * kept. */
int checkpoint_files_list(checkpoint_files_t *files, const char *directory, fail_t *fail);
void checkpoint_files_clear(checkpoint_files_t *files);

#endif
