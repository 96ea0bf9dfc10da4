/* Shared by the files of findings: recording one, and functions of nodes. */
#ifndef CHOIR_DOCTOR_DOCTOR_INTERNAL_H
#define CHOIR_DOCTOR_DOCTOR_INTERNAL_H

#include "engine/doctor/doctor.h"

#define GIB 1073741824.0
#define MIB 1048576.0
#define MIN_REPORTED_LOSS 0.1 /* share of the speed: less is noise */
#define OTHERS_BYTES 64

typedef struct finder {
    const doctor_facts_t *facts;
    doctor_findings_t *out;
} finder_t;

/* Records a finding; doctor_fix adds what to do about it. */
doctor_finding_t *doctor_add(finder_t *f, const char *name, doctor_severity_t severity, double cost,
    const char *format, ...) __attribute__((format(printf, 5, 6)));
void doctor_fix(doctor_finding_t *finding, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The first rank of a node, and its host's name. */
const doctor_rank_t *doctor_first_of(const finder_t *f, size_t node);
const char *doctor_host_of(const finder_t *f, size_t node);
bool doctor_is_on(const finder_t *f, size_t rank, size_t node);

/* " and 2 more nodes" when so many are affected, one of them named already; or nothing. */
const char *doctor_others(size_t n_affected, char text[OTHERS_BYTES]);

/* The cost of the node where it is highest, and how many nodes are above MIN_REPORTED_LOSS. */
double doctor_worst_node(const finder_t *f, double (*cost)(const finder_t *f, size_t node),
    size_t *node, size_t *n_affected);

/* 1 - used / possible, at least 0. */
double doctor_lost(size_t used, size_t possible);

/* Each records what it finds. */
void doctor_find_cores(finder_t *f); /* threads, bindings, quota, NUMA nodes, clock rate */
void doctor_find_exchange(
    finder_t *f); /* messages, interfaces, links, ranks that others wait for */

#endif
