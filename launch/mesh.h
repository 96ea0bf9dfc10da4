/* Replicas opened for a command: the fleet with its options, signals and tokenizers. */
#ifndef CHOIR_LAUNCH_MESH_H
#define CHOIR_LAUNCH_MESH_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/run/fleet.h"
#include "launch/command.h"

typedef struct mesh {
    invocation_t *invocation;
    fleet_t *fleet;
    tokenizer_t *tokenizer; /* on leaders */
    size_t n_replicas, ranks_each;
    bool coordinates; /* this rank is the coordinator */
} mesh_t;

/* "DxT", which must have as many ranks as the run; NULL: one replica. FAIL_USAGE. */
int mesh_parse(const char *text, size_t ranks, size_t *n_replicas, fail_t *fail);

/* Collective. Opens the model in `directory` on every replica. n_sequences: how many will want to
 * run at once, of one replica; logits_rows: prompt positions of a step that will be scored. On
 * failure, which all ranks agree on, mesh_close is still to be called. */
int mesh_open(mesh_t *mesh, invocation_t *invocation, const char *directory, size_t n_sequences,
    size_t logits_rows, fail_t *fail);

/* Collective. The coordinator passes how its work ended; the others come from fleet_serve with its
 * status. Afterwards, on the coordinator, mesh_stats tells what each replica did. */
int mesh_close(mesh_t *mesh, fail_t *fail);

/* Coordinator. Ends the others' fleet_serve, and collects what the replicas did: [n_replicas],
 * borrowed until mesh_close. */
const fleet_stats_t *mesh_end(mesh_t *mesh, const fail_t *fail);

/* How much of the replicas' time passed while they waited for the last one, from 0 to 1, in work of so
 * many seconds. */
double mesh_lost(const fleet_stats_t *stats, size_t n_replicas, double seconds);

/* Coordinator. Says speed, waiting and memory of the replicas. waits_for_end: all work was there
 * from the beginning, so that a replica that waits at the end loses time. */
void mesh_report(
    const mesh_t *mesh, const fleet_stats_t *stats, double seconds, bool waits_for_end);

/* Tokens that end an answer: [CONFIG_MAX_STOP_IDS + 1] written; the number of them. chat_end: the
 * one that also ends a message, or -1. */
size_t mesh_stop_ids(const mesh_t *mesh, int32_t chat_end, int32_t *ids);

#endif
