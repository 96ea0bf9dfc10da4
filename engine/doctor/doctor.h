/* Facts that `choir doctor` collects before a run, and findings that follow from them.
 *
 * Facts are plain data: doctor_collect fills them on rank 0, a test makes them up. Findings and the
 * recommended command are pure functions of them (doctor_findings.c, doctor_command.c). */
#ifndef CHOIR_DOCTOR_DOCTOR_H
#define CHOIR_DOCTOR_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/comm.h"
#include "comm/ping.h"
#include "comm/topology.h"
#include "engine/base/status.h"
#include "engine/doctor/doctor_host.h"
#include "engine/kernels/isa.h"
#include "engine/model/config.h"
#include "engine/run/weights_choice.h"

#define DOCTOR_MASK_WORDS 128 /* CPU masks of up to 8192 hardware threads */
#define DOCTOR_FINDINGS 64

/* ---- Facts ----------------------------------------------------------------------------------- */

/* Plain data without pointers, sent unchanged. */
typedef struct doctor_rank {
    int32_t node; /* index of facts.nodes */
    isa_t isa;    /* what the CPU has */
    isa_t isa_chosen;
    int32_t unused;
    doctor_host_t host; /* memory, networks and limits as this rank sees them */
    topology_t topology;
    uint64_t threads;
    uint64_t mask[DOCTOR_MASK_WORDS]; /* hardware threads it is bound to, by the system's numbers */
    char choir[DOCTOR_NAME_BYTES], mpi[DOCTOR_NAME_BYTES * 2], transports[DOCTOR_NAME_BYTES * 2];
    /* Measured, all ranks at once. 0: not measured, or no such instructions. */
    double read_bytes_per_s; /* from memory */
    double flop_per_s;       /* of the matrix instructions for bf16 of this rank's CPU */
    weights_rates_t weights;
    double ahead_s; /* wall clock against rank 0's */
    /* Of its share of the model; 0 without one. */
    uint64_t weight_bytes, kv_bytes_per_token;
    double exchange_bytes_per_token;
} doctor_rank_t;

typedef struct doctor_node {
    size_t first_rank, n_ranks;
    topology_pu_t *pus; /* [n_pus], as the first rank sees them, cores together */
    size_t n_pus;
} doctor_node_t;

typedef struct doctor_facts {
    size_t n_ranks, n_nodes;
    doctor_rank_t *ranks; /* [n_ranks] */
    doctor_node_t *nodes; /* [n_nodes] */
    ping_t *pings;        /* [n_pings] */
    size_t n_pings;
    /* The model asked about. */
    bool has_model;
    size_t kv_tokens; /* that the cache is to hold */
    size_t n_gathers; /* exchanges of a decode step */
} doctor_facts_t;

typedef struct doctor_options {
    const char *version;    /* Choir's */
    size_t threads;         /* --threads; 0: by the binding */
    const config_t *config; /* the model asked about; NULL: none */
    dtype_t mode;
    size_t kv_tokens;  /* 0: the least that a run accepts */
    size_t read_bytes; /* that each rank reads to measure memory; 0: by the node */
} doctor_options_t;

/* Collective. facts: filled on rank 0, to be cleared by doctor_clear on every rank whatever is
 * returned. Failures are agreed on. Takes some seconds. */
int doctor_collect(
    comm_t *comm, const doctor_options_t *options, doctor_facts_t *facts, fail_t *fail);
void doctor_clear(doctor_facts_t *facts);

/* Pure. Cores of a node; those in the binding of at least `ranks` of its ranks. */
size_t doctor_cores(const doctor_node_t *node);
size_t doctor_cores_of(const doctor_facts_t *facts, size_t node, size_t ranks);
/* Pure. Whether a hardware thread is in a rank's binding. */
bool doctor_may_use(const doctor_rank_t *rank, const topology_pu_t *pu);
/* Pure. Threads of all its ranks, and cores that quota and machine leave for them. */
size_t doctor_threads(const doctor_facts_t *facts, size_t node);
size_t doctor_usable_cores(const doctor_facts_t *facts, size_t node);
/* Pure. Of the slowest rank; 0: not measured. */
weights_rates_t doctor_weights_rates(const doctor_facts_t *facts);
/* Pure. NUMA nodes that have hardware threads. */
size_t doctor_numa_nodes(const doctor_node_t *node);

/* ---- Findings -------------------------------------------------------------------------------- */

typedef enum doctor_severity {
    DOCTOR_NOTE,
    DOCTOR_WARNING, /* slower than possible */
    DOCTOR_BAD      /* fails, or may give wrong results */
} doctor_severity_t;

typedef struct doctor_finding {
    const char *name; /* "unused-cores": for tools and tests */
    doctor_severity_t severity;
    double cost; /* estimate: the share of speed that is lost, 1 when nothing works */
    char what[512];
    char fix[512];    /* what to do, with the flag */
    char mpirun[160]; /* flags that the recommended command takes on for this: mpirun's, */
    char choir[160];  /* and choir's; mostly empty */
} doctor_finding_t;

typedef struct doctor_findings {
    doctor_finding_t items[DOCTOR_FINDINGS];
    size_t n; /* bad ones first, then the costliest first */
} doctor_findings_t;

/* Pure. */
void doctor_find(const doctor_facts_t *facts, doctor_findings_t *findings);

const char *doctor_severity_name(doctor_severity_t severity);

/* Pure. A command line that uses all cores of these nodes once, one rank for each NUMA node, with
 * the flags that the findings ask for: "mpirun -n 4 --host a:2,b:2 --map-by ppr:2:node:PE=16
 * --bind-to core choir ...". */
void doctor_command(
    const doctor_facts_t *facts, const doctor_findings_t *findings, char *text, size_t text_bytes);

#endif
