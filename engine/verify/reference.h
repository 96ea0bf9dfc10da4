/* A reference: what Hugging Face computed for some prompts, in one safetensors file.
 *
 * The file is specified at the top of tests/oracle/reference.py. Owns the open file and the
 * prompts' ids; names and metadata are borrowed from it. Values are read when asked for; reading is
 * thread safe. */
#ifndef CHOIR_VERIFY_REFERENCE_H
#define CHOIR_VERIFY_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/status.h"
#include "engine/model/config.h"
#include "engine/model/order.h"
#include "engine/model/tap.h"
#include "sharding/checkpoint/checkpoint.h"

#define REFERENCE_FORMAT "choir-reference 1"
#define REFERENCE_ATTENTIONS 2 /* values of attention_t */
#define REFERENCE_NAME_BYTES 128

/* Kinds of values: the components, and further logits. */
enum {
    KIND_DECODE_LOGITS = COMPONENT_COUNT, /* [D, vocabulary] after the prompt, with a cache */
    KIND_STEPWISE_LOGITS,                 /* [S, vocabulary] the prompt fed one token at a time */
    KIND_GENERATE_LOGITS,                 /* [D, vocabulary] what generate() chose from */
    KIND_COUNT
};

/* "q_proj", "decode_logits" */
const char *reference_kind_name(size_t kind);
/* Whether there is one in every layer. */
bool reference_kind_has_layer(size_t kind);

typedef struct reference_prompt {
    int32_t *ids;
    size_t n_ids;
    char *text; /* NULL when the prompt was given as ids */
    size_t text_bytes;
    bool is_whole; /* ids have the special tokens that the tokenizer puts around the text */
    /* What generate() chose, for each attention; none when absent. */
    int32_t *new_ids[REFERENCE_ATTENTIONS];
    size_t n_new[REFERENCE_ATTENTIONS];
} reference_prompt_t;

typedef struct reference {
    const char *path; /* borrowed */
    checkpoint_t *file;
    dtype_t dtype;
    size_t n_prompts;
    reference_prompt_t *prompts;
} reference_t;

/* Local. FAIL_FILE, FAIL_FORMAT when the file is no reference or of another version. */
int reference_open(reference_t *reference, const char *path, fail_t *fail);
void reference_close(reference_t *reference);

/* One tensor of a reference. */
typedef struct reference_place {
    attention_t attention;
    size_t prompt;
    bool decode; /* a component of the first decode step */
    size_t layer;
    size_t kind;
} reference_place_t;

/* name: [REFERENCE_NAME_BYTES], "prompt.0.sdpa.decode.layer.3.k_rope" */
void reference_name(const reference_place_t *place, char *name);
/* The inverse; false when the name is not of this scheme. */
bool reference_parse_name(const char *name, reference_place_t *place);

/* Position of the place in the order of computation within one step. n_layers: of the model */
uint64_t reference_order(const reference_place_t *place, size_t n_layers);

/* The shape that the place has in this model: dims [3], returns how many; 0 when the reference's
 * own lengths (new_ids) are not there. */
size_t reference_shape(const reference_t *reference, const config_t *config,
    const reference_place_t *place, size_t *dims);

/* The tensor, or NULL when it is absent, has another shape, or cannot be read. *differs (may be
 * NULL): whether it is one of the latter two. */
const checkpoint_tensor_t *reference_find(const reference_t *reference, const config_t *config,
    const reference_place_t *place, bool *differs);

/* Whether the reference's metadata says that it ran with this attention, or this run ("prefill",
 * "decode", "stepwise", "generate"), or kept this layer. Without such a key: true. */
bool reference_has_attention(const reference_t *reference, attention_t attention);
bool reference_has_run(const reference_t *reference, const char *run);
bool reference_has_layer(const reference_t *reference, size_t layer);

/* Parses a list such as 0,5-7 into layers [n_layers]. what: whom messages blame. FAIL_USAGE. */
int reference_parse_layers(
    const char *list, const char *what, size_t n_layers, bool *layers, fail_t *fail);

#endif
