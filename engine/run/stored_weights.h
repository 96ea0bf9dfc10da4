/* The checkpoint's tensors against its config, decided as in transformers. */
#ifndef CHOIR_RUN_STORED_WEIGHTS_H
#define CHOIR_RUN_STORED_WEIGHTS_H

#include "comm/comm.h"
#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "engine/model/config.h"
#include "sharding/checkpoint/checkpoint.h"

/* Collective over comm. Where the config ties lm_head to the embedding and the checkpoint has an
 * lm_head.weight of its own that differs, as numbers of the mode, both count: tie_word_embeddings
 * becomes false, with a warning. Each rank compares a part of the rows. FAIL_MODEL when an untied
 * model has no embedding or a mixture an expert that its config does not count; FAIL_FILE. */
int stored_weights_resolve(
    comm_t *comm, config_t *config, checkpoint_t *checkpoint, dtype_t mode, fail_t *fail);

/* Local. Warns of an index that is not read and of tensors that the model does not use. */
void stored_weights_warn(const config_t *config, checkpoint_t *checkpoint);

#endif
