#include <string.h>
#include <time.h>

#include "engine/base/json.h"
#include "engine/kernels/kernels.h"
#include "launch/doctor_report.h"

#define SCHEMA 2 /* grows when a member changes its meaning */

static void set(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value);
}

static void set_string(json_t *object, const char *key, const char *value)
{
    set(object, key, json_stringn_nocheck(value, strlen(value)));
}

static void set_count(json_t *object, const char *key, uint64_t value)
{
    set(object, key, json_integer((json_int_t)value));
}

static void set_real(json_t *object, const char *key, double value)
{
    set(object, key, json_from_double(value));
}

/* ---- Nodes ----------------------------------------------------------------------------------- */

static json_t *interfaces_of(const doctor_host_t *host)
{
    json_t *list = json_array();
    for (int i = 0; i < host->n_interfaces; i++) {
        const interface_t *one = &host->interfaces[i];
        json_t *object = json_object();
        set_string(object, "name", one->name);
        set_string(object, "kind", interface_kind_name(one->kind));
        set_string(object, "address", one->address);
        set_real(object, "bits_per_s", one->bits_per_s);
        set(object, "up", json_boolean(one->up));
        json_array_append_new(list, object);
    }
    return list;
}

static json_t *pus_of(const doctor_facts_t *facts, size_t node)
{
    json_t *list = json_array();
    const doctor_node_t *n = &facts->nodes[node];
    for (size_t i = 0; i < n->n_pus; i++) {
        json_t *object = json_object(), *ranks = json_array();
        set_count(object, "pu", n->pus[i].os);
        set_count(object, "core", n->pus[i].core);
        set_count(object, "numa_node", n->pus[i].numa);
        set_count(object, "package", n->pus[i].package);
        for (size_t r = 0; r < facts->n_ranks; r++)
            if ((size_t)facts->ranks[r].node == node &&
                doctor_may_use(&facts->ranks[r], &n->pus[i]))
                json_array_append_new(ranks, json_integer((json_int_t)r));
        set(object, "ranks", ranks);
        json_array_append_new(list, object);
    }
    return list;
}

static json_t *node_of(const doctor_facts_t *facts, size_t node)
{
    const doctor_node_t *n = &facts->nodes[node];
    const doctor_rank_t *rank = &facts->ranks[n->first_rank];
    const doctor_host_t *host = &rank->host;
    json_t *object = json_object();
    set_string(object, "host", host->name);
    set_string(object, "cpu", host->cpu);
    set_string(object, "isa", isa_name(rank->isa));
    set_count(object, "first_rank", n->first_rank);
    set_count(object, "ranks", n->n_ranks);
    set_count(object, "cores", doctor_cores(n));
    set_count(object, "unused_cores", doctor_cores(n) - doctor_cores_of(facts, node, 1));
    set_count(object, "shared_cores", doctor_cores_of(facts, node, 2));
    set_count(object, "numa_nodes", doctor_numa_nodes(n));
    set_count(object, "quota_cpus", rank->topology.granted_cpus);
    set_count(object, "memory_bytes", host->memory_total_bytes);
    set_count(object, "memory_available_bytes", host->memory_available_bytes);
    set_count(object, "shm_bytes", host->shm_bytes);
    set_count(object, "shm_free_bytes", host->shm_free_bytes);
    set(object, "memlock_bytes",
        host->memlock_bytes == DOCTOR_UNLIMITED ? json_null()
                                                : json_integer((json_int_t)host->memlock_bytes));
    set_string(object, "huge_pages", doctor_pages_name(host->pages));
    set_string(object, "governor", host->governor);
    set_real(object, "clock_mhz", host->mhz);
    set_real(object, "wall_clock_ahead_s", rank->ahead_s);
    set_string(object, "libraries", host->libraries);
    set(object, "interfaces", interfaces_of(host));
    set(object, "pus", pus_of(facts, node));
    return object;
}

/* ---- Ranks, pairs, findings ------------------------------------------------------------------ */

static json_t *rank_of(const doctor_facts_t *facts, size_t r)
{
    const doctor_rank_t *rank = &facts->ranks[r];
    json_t *object = json_object();
    set_count(object, "rank", r);
    set_count(object, "node", (uint64_t)rank->node);
    set_count(object, "threads", rank->threads);
    set_count(object, "bound_cores", rank->topology.bound_cores);
    set_string(object, "isa", isa_name(rank->isa_chosen));
    set_string(object, "choir", rank->choir);
    set_string(object, "mpi", rank->mpi);
    set_string(object, "transports", rank->transports);
    set_real(object, "read_bytes_per_s", rank->read_bytes_per_s);
    set_real(object, "matrix_flop_per_s", rank->flop_per_s);
    if (rank->weights.dense > 0) {
        set_real(object, "dense_weights_per_s", rank->weights.dense);
        set_real(object, "packed_weights_per_s", rank->weights.packed);
    }
    if (facts->has_model) {
        set_count(object, "weight_bytes", rank->weight_bytes);
        set_count(object, "kv_bytes_per_token", rank->kv_bytes_per_token);
    }
    return object;
}

static json_t *pair_of(const ping_t *ping)
{
    json_t *object = json_object();
    set_count(object, "a", (uint64_t)ping->a);
    set_count(object, "b", (uint64_t)ping->b);
    set_real(object, "latency_s", ping->latency_s);
    set_real(object, "bytes_per_s", ping->bytes_per_s);
    set_string(object, "interface", ping->way);
    return object;
}

static json_t *finding_of(const doctor_finding_t *finding)
{
    json_t *object = json_object();
    set_string(object, "name", finding->name);
    set_string(object, "severity", doctor_severity_name(finding->severity));
    set_real(object, "cost", finding->cost);
    set_string(object, "what", finding->what);
    set_string(object, "fix", finding->fix);
    return object;
}

json_t *doctor_json(
    const doctor_facts_t *facts, const doctor_findings_t *findings, const char *command)
{
    json_t *object = json_object(), *nodes = json_array(), *ranks = json_array();
    json_t *pairs = json_array(), *found = json_array();
    char now[32];
    time_t seconds = time(NULL);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &utc);
    set_count(object, "schema", SCHEMA);
    set_string(object, "version", facts->ranks[0].choir);
    set_string(object, "time_utc", now);
    if (facts->has_model)
        set_count(object, "kv_tokens", facts->kv_tokens);
    for (size_t n = 0; n < facts->n_nodes; n++)
        json_array_append_new(nodes, node_of(facts, n));
    for (size_t r = 0; r < facts->n_ranks; r++)
        json_array_append_new(ranks, rank_of(facts, r));
    for (size_t i = 0; i < facts->n_pings; i++)
        json_array_append_new(pairs, pair_of(&facts->pings[i]));
    for (size_t i = 0; i < findings->n; i++)
        json_array_append_new(found, finding_of(&findings->items[i]));
    set(object, "nodes", nodes);
    set(object, "ranks", ranks);
    set(object, "pairs", pairs);
    set(object, "findings", found);
    set_string(object, "recommended", command);
    return object;
}
