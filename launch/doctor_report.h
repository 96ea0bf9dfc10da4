/* Output of `choir doctor`: text, and a JSON object for tools (docs/clusters.md). All functions are
 * rank 0's, and change nothing. */
#ifndef CHOIR_LAUNCH_DOCTOR_REPORT_H
#define CHOIR_LAUNCH_DOCTOR_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "engine/doctor/doctor.h"

/* Nodes with their cores and bindings, ranks, links, findings and the recommended command. */
void doctor_print(
    const doctor_facts_t *facts, const doctor_findings_t *findings, const char *command, FILE *out);

/* One object; NULL when out of memory. The caller owns it. */
json_t *doctor_json(
    const doctor_facts_t *facts, const doctor_findings_t *findings, const char *command);

#endif
