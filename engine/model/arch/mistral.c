/* Mistral 7B, Nemo and Small 3 (transformers' MistralForCausalLM): no biases; one window for all
 * layers, which is there unless the file says null. */
#include <string.h>

#include "engine/model/arch/arch.h"
#include "engine/model/config_internal.h"

/* transformers keeps a layer's keys by its type and masks by the window alone, so that types which
 * contradict the window give results of neither. */
static int check_layer_types(const config_t *config, const document_t *document, fail_t *fail)
{
    const char *expected = config->use_sliding_window ? "sliding_attention" : "full_attention";
    json_t *types = member(document->root, "layer_types"), *value;
    size_t i;
    if (types != NULL && !json_is_array(types))
        return fail_set(fail, FAIL_FORMAT,
            "%s: layer_types: expected an array, found something else", document->path);
    json_array_foreach (types, i, value) {
        const char *type = json_is_string(value) ? json_string_value(value) : "something else";
        if (strcmp(type, expected) != 0)
            return fail_set(fail, FAIL_MODEL,
                "%s: layer_types[%zu]: expected %s in every layer, as sliding_window says, found %.64s",
                document->path, i, expected, type);
    }
    return 0;
}

static int read_mistral(config_t *config, const document_t *document, fail_t *fail)
{
    if (config_read_one_window(config, document, true, fail) != 0)
        return fail->status;
    return check_layer_types(config, document, fail);
}

const arch_t arch_mistral = {.architecture = "MistralForCausalLM",
    .model_type = "mistral",
    .weights = arch_decoder_weights,
    .n_weights = ARCH_DECODER_WEIGHTS,
    .max_positions = 131072,
    .bos_id = 1,
    .eos_id = 2,
    .read = read_mistral};
