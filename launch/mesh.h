/* A model opened for a command, on one replica or several: the fleet with its options, signals,
 * tokenizers and closing line. */
#ifndef CHOIR_LAUNCH_MESH_H
#define CHOIR_LAUNCH_MESH_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "engine/run/fleet.h"
#include "launch/command.h"

typedef struct mesh {
    comm_t *comm;
    const common_flags_t *common;
    const run_flags_t *run;
    fleet_t *fleet;
    const tokenizer_t *tokenizer; /* on leaders */
    tokenizer_t *own;             /* that, where it was opened here */
    char draft_dir[PATH_MAX];     /* of --speculate DIR */
    size_t n_replicas, ranks_each;
    bool coordinates; /* this rank is the coordinator */
} mesh_t;

/* "DxT", which must have as many ranks as the run; NULL: one replica. FAIL_USAGE. */
int mesh_parse(const char *text, size_t ranks, size_t *n_replicas, fail_t *fail);

/* For requests of many clients: n_sequences unless --max-batch says otherwise, and logits_rows. */
enum { MESH_SERVED_SEQUENCES = 64, MESH_SERVED_LOGITS_ROWS = 128 };

/* Collective. Opens the model in `directory` on every replica of run->mesh. tokenizer: the model's,
 * where the coordinator has opened it, and borrowed; NULL on others. NULL on the coordinator too
 * with needs_tokenizer: opened here. n_sequences: how many will want to run at once, of one
 * replica; logits_rows: prompt positions of a step whose logits will be asked for. On failure,
 * which all ranks agree on, mesh_close is still to be called. */
typedef struct mesh_options {
    const char *directory;
    const tokenizer_t *tokenizer;
    bool needs_tokenizer;
    size_t n_sequences, logits_rows;
    bool follows_prefixes; /* as of fleet_options_t */
    bool digests_weights;  /* as of engine_options_t */
} mesh_options_t;
int mesh_open(mesh_t *mesh, const invocation_t *invocation, const run_flags_t *run,
    const mesh_options_t *options, fail_t *fail);

/* The engine of this rank's replica, and what it has chosen. */
engine_t *mesh_engine(const mesh_t *mesh);
engine_info_t mesh_info(const mesh_t *mesh);

/* Collective. The coordinator passes the result of its work; the others come from fleet_serve with
 * its status. */
int mesh_close(mesh_t *mesh, fail_t *fail);

/* Collective. The same, and tells the speed of prefill and decode, and memory, when all went
 * well. */
int mesh_close_and_tell(mesh_t *mesh, fail_t *fail);

/* How much of the replicas' time passed while they waited for the last one, from 0 to 1, in work of
 * so many seconds. */
double mesh_lost(const fleet_stats_t *stats, size_t n_replicas, double seconds);

/* Warns, where the flags say --sample, of what the checkpoint would draw with and Choir does not
 * have. */
void mesh_warn_sampling(const mesh_t *mesh, bool sample);

/* Coordinator, after fleet_end. Says speed, waiting and memory of the replicas over all.
 * waits_for_end: all work was there from the beginning, so that a replica that waits at the end
 * loses time. */
void mesh_report(const mesh_t *mesh, double seconds, bool waits_for_end);

#endif
