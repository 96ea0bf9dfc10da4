#include "launch/eval_settings.h"

#include <xxhash.h>

#include "engine/verify/verify_weights.h"
#include "launch/eval_record.h"
#include "sharding/checkpoint/checkpoint.h"

static int weights_digest(const char *directory, uint64_t *digest, fail_t *fail)
{
    checkpoint_t *checkpoint;
    *digest = 0;
    if (checkpoint_open(&checkpoint, directory, fail) != 0)
        return fail->status;
    verify_digest(checkpoint, NULL, NULL, digest, fail);
    checkpoint_close(checkpoint);
    return fail->status;
}

static uint64_t items_digest(const eval_task_t *task)
{
    uint64_t digest = 0;
    for (size_t i = 0; i < task->n_items; i++) {
        const uint64_t chain[2] = {digest, task->items[i].digest};
        digest = XXH3_64bits(chain, sizeof chain);
    }
    return digest;
}

static void add_size(json_t *settings, const char *key, size_t value)
{
    json_object_set_new(settings, key, json_integer((json_int_t)value));
}

static void add_model(json_t *settings, const mesh_t *mesh)
{
    static const char *const modes[] = {"bf16", "f32", "f64"};
    static const char *const attentions[] = {"eager", "sdpa"};
    const options_t *flags = &mesh->invocation->options;
    engine_info_t info = engine_info(fleet_engine(mesh->fleet));
    json_object_set_new(settings, "dtype", json_string(modes[flags->dtype]));
    json_object_set_new(settings, "order", json_string(flags->order == 0 ? "torch" : "uniform"));
    json_object_set_new(settings, "attention", json_string(attentions[info.attention]));
    json_object_set_new(settings, "dot", json_string(info.dot == DOT_AMX ? "amx" : "chain"));
    json_object_set_new(
        settings, "combine", json_string(flags->combine == 0 ? "gather" : "reduce"));
    /* Sums across ranks depend on how many there are. */
    if (flags->combine != 0)
        add_size(settings, "ranks_of_a_replica", mesh->ranks_each);
    add_size(settings, "max_context", info.max_context);
}

json_t *eval_settings(
    const mesh_t *mesh, const eval_task_t *task, const char *directory, fail_t *fail)
{
    uint64_t weights;
    json_t *settings = json_object();
    if (weights_digest(directory, &weights, fail) != 0) {
        json_decref(settings);
        return NULL;
    }
    json_object_set_new(settings, "version", json_string(CHOIR_VERSION));
    json_object_set_new(settings, "task", json_string(task->name));
    json_object_set_new(settings, "task_digest", eval_hex(task->task_digest));
    json_object_set_new(settings, "data_digest", eval_hex(task->data_digest));
    add_size(settings, "shots", task->n_shots);
    json_object_set_new(settings, "shots_digest", eval_hex(task->shots_digest));
    add_size(settings, "items", task->n_items);
    add_size(settings, "max_tokens", task->kind == EVAL_GENERATE ? task->max_tokens : 0);
    json_object_set_new(settings, "config_digest",
        eval_hex(config_digest(engine_info(fleet_engine(mesh->fleet)).config)));
    json_object_set_new(settings, "weights_digest", eval_hex(weights));
    add_model(settings, mesh);
    json_object_set_new(settings, "items_digest", eval_hex(items_digest(task)));
    if (json_object_get(settings, "items_digest") == NULL) {
        fail_set(fail, FAIL_MEMORY, "settings: out of memory");
        json_decref(settings);
        return NULL;
    }
    return settings;
}
