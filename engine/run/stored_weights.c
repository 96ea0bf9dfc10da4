#include "engine/run/stored_weights.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/model/arch/arch.h"
#include "sharding/checkpoint/checkpoint_files.h"

#define MAX_BIAS_BYTES ((size_t)1 << 24)
#define PIECE_BYTES ((size_t)1 << 20)

/* ---- lm_head --------------------------------------------------------------------------------- */

static bool is_matrix(const checkpoint_tensor_t *tensor, const config_t *config)
{
    return tensor->readable && tensor->n_dims == 2 && tensor->shape[0] == config->vocab_size &&
           tensor->shape[1] == config->hidden_size;
}

/* Whether rows [begin, end) of the two differ. */
static bool rows_differ(checkpoint_t *checkpoint, const checkpoint_tensor_t *const *tensors,
    size_t begin, size_t end, dtype_t mode, fail_t *fail)
{
    size_t columns = tensors[0]->shape[1], row_bytes = columns * dtype_bytes(mode);
    size_t together = size_max(1, PIECE_BYTES / row_bytes), bytes = together * row_bytes;
    size_t scratch_bytes = together * columns * sizeof(double);
    char *rows[2] = {
        memory_alloc(bytes, "rows of lm_head", fail), memory_alloc(bytes, "rows of lm_head", fail)};
    char *scratch = memory_alloc(scratch_bytes, "rows of lm_head", fail);
    bool differ = false;
    for (size_t r = begin, n; r < end && !differ && fail->status == 0; r += n) {
        n = size_min(together, end - r);
        for (int i = 0; i < 2 && fail->status == 0; i++)
            checkpoint_read(
                checkpoint, tensors[i], r, r + n, 0, columns, rows[i], mode, scratch, fail);
        differ = fail->status == 0 && memcmp(rows[0], rows[1], n * row_bytes) != 0;
    }
    memory_free(rows[0], bytes);
    memory_free(rows[1], bytes);
    memory_free(scratch, scratch_bytes);
    return differ;
}

static const checkpoint_tensor_t *find(
    const checkpoint_t *checkpoint, const config_t *config, weight_role_t role)
{
    return checkpoint_find_weight(checkpoint, arch_weight_of(config, role)->name);
}

/* Whether the checkpoint has an lm_head of its own; of this rank's part of the rows. */
static bool head_differs(
    comm_t *comm, const config_t *config, checkpoint_t *checkpoint, dtype_t mode, fail_t *fail)
{
    const checkpoint_tensor_t *tensors[] = {
        find(checkpoint, config, WEIGHT_EMBEDDING), find(checkpoint, config, WEIGHT_LM_HEAD)};
    size_t rank = (size_t)comm_rank(comm), ranks = (size_t)comm_size(comm);
    if (tensors[0] == NULL || tensors[1] == NULL || tensors[0] == tensors[1])
        return false;
    /* Loading reports what is wrong with it. */
    if (!is_matrix(tensors[0], config) || !is_matrix(tensors[1], config))
        return true;
    return rows_differ(checkpoint, tensors, config->vocab_size * rank / ranks,
        config->vocab_size * (rank + 1) / ranks, mode, fail);
}

/* Without the experts that the config leaves out, the router of such a checkpoint is another model's. */
static int refuse_further_experts(
    const config_t *config, const checkpoint_t *checkpoint, fail_t *fail)
{
    size_t expert;
    for (size_t i = 0; i < checkpoint_count(checkpoint) && config->n_experts > 0; i++) {
        const checkpoint_tensor_t *tensor = checkpoint_at(checkpoint, i);
        if (arch_is_beyond_experts(config, tensor->name, &expert))
            return fail_set(fail, FAIL_MODEL,
                "%s: tensor %s: expected an expert from 0 to %zu, as num_experts is %zu, found expert %zu",
                tensor->file, tensor->name, config->n_experts - 1, config->n_experts, expert);
    }
    return 0;
}

int stored_weights_resolve(
    comm_t *comm, config_t *config, checkpoint_t *checkpoint, dtype_t mode, fail_t *fail)
{
    bool differs = false;
    refuse_further_experts(config, checkpoint, fail);
    if (config->tie_word_embeddings)
        differs = head_differs(comm, config, checkpoint, mode, fail);
    else if (find(checkpoint, config, WEIGHT_EMBEDDING) == find(checkpoint, config, WEIGHT_LM_HEAD))
        fail_set(fail, FAIL_MODEL,
            "tensor %s: expected one, as tie_word_embeddings is false, found no such tensor",
            arch_weight_of(config, WEIGHT_EMBEDDING)->name);
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    if (comm_max(comm, differs) == 0)
        return 0;
    log_write(LOG_WARN,
        "config.json says tie_word_embeddings, but the checkpoint has a %s that differs from the embedding: it is used",
        arch_weight_of(config, WEIGHT_LM_HEAD)->name);
    config->tie_word_embeddings = false;
    return 0;
}

/* ---- Tensors without a use ------------------------------------------------------------------- */

/* Older writers of GPTQ give every quantised matrix a bias, of zeros where the model has none; transformers ignores
 * them, whatever they are. */
static bool is_zero_bias(
    const config_t *config, checkpoint_t *checkpoint, const checkpoint_tensor_t *tensor)
{
    static const char ending[] = ".bias";
    size_t n = strlen(tensor->name), bytes = (size_t)tensor->size_bytes;
    if (config->quantization.n_schemes == 0 || n < sizeof ending ||
        strcmp(tensor->name + n - (sizeof ending - 1), ending) != 0 || bytes > MAX_BIAS_BYTES)
        return false;
    fail_t unread = {0};
    char *values = calloc(bytes + 1, 1);
    bool zero =
        values != NULL && checkpoint_read_bytes(checkpoint, tensor, 0, bytes, values, &unread) == 0;
    for (size_t i = 0; i < bytes && zero; i++)
        zero = values[i] == 0;
    free(values);
    return zero;
}

void stored_weights_warn(const config_t *config, checkpoint_t *checkpoint)
{
    size_t unused = 0;
    const char *first = NULL;
    if (checkpoint_ignored_index(checkpoint))
        log_write(LOG_WARN, CHECKPOINT_SINGLE_FILE
            " is read, and the files of " CHECKPOINT_INDEX_FILE " beside it are not");
    for (size_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const char *name = checkpoint_at(checkpoint, i)->name;
        if (arch_knows(config, name) ||
            is_zero_bias(config, checkpoint, checkpoint_at(checkpoint, i)))
            continue;
        first = first == NULL ? name : first;
        unused++;
    }
    if (unused > 0)
        log_write(LOG_WARN, "%zu tensor%s of the checkpoint %s not part of the model: %.100s%s",
            unused, plural(unused), unused == 1 ? "is" : "are", first, unused == 1 ? "" : ", ...");
}
