#include "engine/measure/cluster_file.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/array.h"
#include "engine/base/json.h"

#define SCHEMA 1
#define MOST 1e18
#define MOST_RATES 4096

/* Members of a set of rates: numbers and curves. */
typedef struct member {
    const char *name;
    size_t offset;
} member_t;

#define AT(field) offsetof(predict_rates_t, field)

static const member_t sizes[] = {{"ranks", AT(ranks)}, {"threads", AT(threads)},
    {"hidden", AT(hidden)}, {"head_dim", AT(head_dim)}};

static const member_t numbers[] = {{"elementwise_layer_s", AT(elementwise_layer_s)},
    {"elementwise_element_s", AT(elementwise_element_s)}, {"waiting_layer_s", AT(waiting_layer_s)},
    {"waiting_share", AT(waiting_share)}, {"sampling_step_s", AT(sampling_step_s)},
    {"sampling_row_s", AT(sampling_row_s)}, {"gather_s", AT(gather_s)},
    {"copy_byte_s", AT(copy_byte_s)}};

/* Files that were measured before do not have it. */
static const member_t packed_speed = {"packed_speed", AT(packed_speed)};

static const member_t curves[] = {{"decode_matrix_byte_s", AT(decode_matrix)},
    {"prompt_matrix_byte_s", AT(prompt_matrix)}, {"decode_attention_flop_s", AT(decode_attention)},
    {"prompt_attention_flop_s", AT(prompt_attention)}};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void *field(const predict_rates_t *rates, const member_t *member)
{
    return (char *)(uintptr_t)rates + member->offset;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static int read_number(
    json_t *object, const char *path, const char *key, double *value, fail_t *fail)
{
    *value = -1;
    if (json_opt_double(object, path, key, 0, MOST, value, fail) == 0 && *value < 0)
        fail_set(fail, FAIL_FORMAT, "%s: %s: expected a number, found nothing", path, key);
    return fail->status;
}

static int read_curve(
    json_t *object, const char *path, const char *key, predict_curve_t *curve, fail_t *fail)
{
    json_t *points = json_object_get(object, key), *point;
    size_t i;
    *curve = (predict_curve_t){0};
    if (!json_is_array(points) || json_array_size(points) > PREDICT_POINTS)
        return fail_set(fail, FAIL_FORMAT, "%s: %s: expected an array of at most %d points", path,
            key, PREDICT_POINTS);
    json_array_foreach (points, i, point) {
        double x = json_number_value(json_array_get(point, 0));
        double y = json_number_value(json_array_get(point, 1));
        if (!(x > 0 && x < MOST && y > 0 && y < MOST))
            return fail_set(fail, FAIL_FORMAT,
                "%s: %s: point %zu: expected two numbers above 0, [size, seconds]", path, key, i);
        predict_curve_add(curve, x, y);
    }
    return 0;
}

/* Curves and numbers of a set of rates, by their names. */
static int check_rates(json_t *object, const char *path, fail_t *fail)
{
    const char *keys[2 + COUNT(sizes) + COUNT(numbers) + COUNT(curves)] = {
        "model", packed_speed.name};
    size_t n = 2;
    char name[4400];
    for (size_t i = 0; i < COUNT(sizes); i++)
        keys[n++] = sizes[i].name;
    for (size_t i = 0; i < COUNT(numbers); i++)
        keys[n++] = numbers[i].name;
    for (size_t i = 0; i < COUNT(curves); i++)
        keys[n++] = curves[i].name;
    snprintf(name, sizeof name, "%s: rates", path);
    return json_check_keys(object, name, keys, n, fail);
}

static int read_rates(json_t *object, const char *path, predict_rates_t *rates, fail_t *fail)
{
    const char *model = "";
    *rates = (predict_rates_t){0};
    if (!json_is_object(object))
        return fail_set(fail, FAIL_FORMAT, "%s: rates: expected objects", path);
    check_rates(object, path, fail);
    json_opt_string(object, path, "model", &model, fail);
    snprintf(rates->model, sizeof rates->model, "%s", model);
    for (size_t i = 0; i < COUNT(sizes) && fail->status == 0; i++)
        json_get_size(object, path, sizes[i].name, 1, 1 << 24, field(rates, &sizes[i]), fail);
    for (size_t i = 0; i < COUNT(numbers) && fail->status == 0; i++)
        read_number(object, path, numbers[i].name, field(rates, &numbers[i]), fail);
    if (fail->status == 0 && json_object_get(object, packed_speed.name) != NULL)
        read_number(object, path, packed_speed.name, field(rates, &packed_speed), fail);
    for (size_t i = 0; i < COUNT(curves) && fail->status == 0; i++)
        read_curve(object, path, curves[i].name, field(rates, &curves[i]), fail);
    return fail->status;
}

static int read_network(json_t *root, const char *path, predict_network_t *network, fail_t *fail)
{
    json_t *object = json_object_get(root, "network");
    *network = (predict_network_t){0};
    if (object == NULL || json_is_null(object))
        return fail->status;
    if (!json_is_object(object))
        return fail_set(fail, FAIL_FORMAT, "%s: network: expected an object or null", path);
    static const char *const keys[] = {
        "latency_s", "bytes_per_s", "burst_bytes", "processor_byte_s"};
    char name[4400];
    snprintf(name, sizeof name, "%s: network", path);
    if (json_check_keys(object, name, keys, COUNT(keys), fail) != 0)
        return fail->status;
    if (read_number(object, path, "latency_s", &network->latency_s, fail) == 0)
        read_number(object, path, "bytes_per_s", &network->bytes_per_s, fail);
    if (fail->status == 0 && json_object_get(object, "burst_bytes") != NULL)
        read_number(object, path, "burst_bytes", &network->burst_bytes, fail);
    if (fail->status == 0 && json_object_get(object, "processor_byte_s") != NULL)
        read_number(object, path, "processor_byte_s", &network->processor_byte_s, fail);
    return fail->status;
}

static int read_all_rates(json_t *root, const char *path, predict_cluster_t *cluster, fail_t *fail)
{
    json_t *rates = json_object_get(root, "rates");
    if (!json_is_array(rates) || json_array_size(rates) > MOST_RATES)
        return fail_set(fail, FAIL_FORMAT, "%s: rates: expected an array", path);
    for (size_t i = 0; i < json_array_size(rates) && fail->status == 0; i++) {
        predict_rates_t one;
        if (read_rates(json_array_get(rates, i), path, &one, fail) == 0)
            cluster_add_rates(cluster, &one, fail);
    }
    return fail->status;
}

int cluster_file_read(predict_cluster_t *cluster, const char *path, fail_t *fail)
{
    json_t *root = NULL;
    static const char *const keys[] = {
        "schema", "cpu", "node_cores", "node_memory_bytes", "network", "rates"};
    const char *cpu = "";
    size_t schema;
    *cluster = (predict_cluster_t){0};
    if (json_file_read(path, &root, fail) != 0)
        return fail->status;
    if (!json_is_object(root))
        fail_set(fail, FAIL_FORMAT, "%s: expected an object", path);
    if (fail->status == 0 &&
        json_get_size(root, path, "schema", SCHEMA, SCHEMA, &schema, fail) == 0 &&
        json_check_keys(root, path, keys, COUNT(keys), fail) == 0 &&
        json_opt_string(root, path, "cpu", &cpu, fail) == 0 &&
        json_get_size(root, path, "node_cores", 1, 1 << 20, &cluster->node_cores, fail) == 0 &&
        read_number(root, path, "node_memory_bytes", &cluster->node_memory_bytes, fail) == 0 &&
        read_network(root, path, &cluster->network, fail) == 0)
        read_all_rates(root, path, cluster, fail);
    snprintf(cluster->cpu, sizeof cluster->cpu, "%s", cpu);
    json_decref(root);
    return fail->status;
}

int cluster_add_rates(predict_cluster_t *cluster, const predict_rates_t *rates, fail_t *fail)
{
    for (size_t i = 0; i < cluster->n_rates; i++) {
        predict_rates_t *r = &cluster->rates[i];
        if (strcmp(r->model, rates->model) == 0 && r->ranks == rates->ranks &&
            r->threads == rates->threads) {
            *r = *rates;
            return 0;
        }
    }
    if (array_extend(&cluster->rates, cluster->n_rates, sizeof *rates, "cluster", fail) == 0)
        cluster->rates[cluster->n_rates++] = *rates;
    return fail->status;
}

/* ---- Writing --------------------------------------------------------------------------------- */

static json_t *curve_json(const predict_curve_t *curve)
{
    json_t *points = json_array();
    for (size_t i = 0; i < curve->n; i++)
        json_array_append_new(points, json_pack("[ff]", curve->x[i], curve->y[i]));
    return points;
}

static json_t *rates_json(const predict_rates_t *rates)
{
    json_t *object = json_object();
    json_object_set_new(object, "model", json_string(rates->model));
    for (size_t i = 0; i < COUNT(sizes); i++)
        json_object_set_new(
            object, sizes[i].name, json_integer((json_int_t) * (size_t *)field(rates, &sizes[i])));
    for (size_t i = 0; i < COUNT(numbers); i++)
        json_object_set_new(
            object, numbers[i].name, json_real(*(double *)field(rates, &numbers[i])));
    if (rates->packed_speed > 0)
        json_object_set_new(object, packed_speed.name, json_real(rates->packed_speed));
    for (size_t i = 0; i < COUNT(curves); i++)
        json_object_set_new(object, curves[i].name, curve_json(field(rates, &curves[i])));
    return object;
}

static json_t *cluster_json(const predict_cluster_t *cluster)
{
    const predict_network_t *network = &cluster->network;
    json_t *rates = json_array(), *between = json_null();
    for (size_t i = 0; i < cluster->n_rates; i++)
        json_array_append_new(rates, rates_json(&cluster->rates[i]));
    if (network->bytes_per_s > 0)
        between = json_pack("{sf sf sf sf}", "latency_s", network->latency_s, "bytes_per_s",
            network->bytes_per_s, "burst_bytes", network->burst_bytes, "processor_byte_s",
            network->processor_byte_s);
    return json_pack("{si ss sI sf so so}", "schema", SCHEMA, "cpu", cluster->cpu, "node_cores",
        (json_int_t)cluster->node_cores, "node_memory_bytes", cluster->node_memory_bytes, "network",
        between, "rates", rates);
}

int cluster_file_write(const predict_cluster_t *cluster, FILE *out, fail_t *fail)
{
    json_t *root = cluster_json(cluster);
    if (root == NULL)
        fail_set(fail, FAIL_MEMORY, "cluster file: out of memory");
    else
        json_dumpf(root, out, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    json_decref(root);
    return fail->status;
}
