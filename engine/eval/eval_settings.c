#include "engine/eval/eval_settings.h"

#include <xxhash.h>

#include "engine/eval/eval_record.h"
#include "engine/run/engine_choices.h"
#include "sharding/checkpoint/content_digest.h"

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

static void add_model(json_t *settings, const engine_info_t *info)
{
    plan_combine_t combine = info->plan->combine;
    const struct {
        const char *key, *name;
    } choices[] = {{"dtype", choice_name(engine_modes, info->mode)},
        {"order", choice_name(engine_orders, info->order)},
        {"attention", choice_name(engine_attentions, info->attention)},
        {"dot", choice_name(engine_used_dots, info->dot)},
        {"combine", choice_name(engine_combines, combine)}};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        json_object_set_new(settings, choices[i].key, json_string(choices[i].name));
    /* Sums across ranks depend on how many there are. */
    if (combine == PLAN_REDUCE)
        add_size(settings, "ranks_of_a_replica", info->ranks);
    add_size(settings, "max_context", info->max_context);
}

json_t *eval_settings(fleet_t *fleet, const eval_task_t *task, const char *version,
    const char *directory, fail_t *fail)
{
    engine_info_t info = engine_info(fleet_engine(fleet));
    uint64_t weights;
    json_t *settings = json_object();
    if (checkpoint_directory_digest(directory, &weights, fail) != 0) {
        json_decref(settings);
        return NULL;
    }
    json_object_set_new(settings, "version", json_string(version));
    json_object_set_new(settings, "task", json_string(task->name));
    json_object_set_new(settings, "task_digest", eval_hex(task->task_digest));
    json_object_set_new(settings, "data_digest", eval_hex(task->data_digest));
    add_size(settings, "shots", task->n_shots);
    json_object_set_new(settings, "shots_digest", eval_hex(task->shots_digest));
    add_size(settings, "items", task->n_items);
    add_size(settings, "max_tokens", task->kind == EVAL_GENERATE ? task->max_tokens : 0);
    json_object_set_new(settings, "config_digest", eval_hex(config_digest(info.config)));
    json_object_set_new(settings, "weights_digest", eval_hex(weights));
    add_model(settings, &info);
    json_object_set_new(settings, "items_digest", eval_hex(items_digest(task)));
    if (json_object_get(settings, "items_digest") == NULL) {
        fail_set(fail, FAIL_MEMORY, "settings: out of memory");
        json_decref(settings);
        return NULL;
    }
    return settings;
}
