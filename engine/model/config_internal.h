/* Shared by the parts of reading a config. Internal to engine/model/config*.c. */
#ifndef CHOIR_MODEL_CONFIG_INTERNAL_H
#define CHOIR_MODEL_CONFIG_INTERNAL_H

#include "engine/base/json.h"
#include "engine/model/config.h"

#define MAX_POSITIONS ((size_t)1 << 30)

/* A document and its name in messages. */
typedef struct document {
    json_t *root;
    const char *path;
} document_t;

/* NULL for null as for absent. */
static inline json_t *member(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

/* Adds a warning to the config's notes, unless they are full. */
void config_note(config_t *config, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* use_sliding_window, sliding_window, max_window_layers and layer_types, as transformers' Qwen2Config
 * and Qwen3Config read them; the sizes have been read. */
int config_read_window(config_t *config, document_t document, fail_t *fail);
/* One window for all layers, of sliding_window keys (4096 where it is absent), if it is used and not null. */
int config_read_one_window(config_t *config, const document_t *document, bool used, fail_t *fail);

/* rope_theta and rope; the sizes have been read. */
int config_read_rope(config_t *config, document_t document, fail_t *fail);

/* quantization; architecture, parts and sizes have been read. */
int config_read_quantization(config_t *config, document_t document, fail_t *fail);

/* Ids and sampling of generation_config.json, or of config.json where there is none. */
int config_read_generation(config_t *config, document_t document, fail_t *fail);

#endif
