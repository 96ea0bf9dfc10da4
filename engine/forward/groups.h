/* The sequences of a step, those next to each other that begin with the same blocks of keys and values: attention of
 * their single rows reads these blocks together. Internal to engine/forward. */
#ifndef CHOIR_FORWARD_GROUPS_H
#define CHOIR_FORWARD_GROUPS_H

#include "engine/forward/forward_internal.h"

/* FAIL_MEMORY. */
int groups_open(forward_t *forward, fail_t *fail);
void groups_close(forward_t *forward);

/* Of the current step: sequences of single rows, at most max_rows of each, join groups in sdpa attention. */
void groups_find(forward_t *forward, size_t max_rows);

#endif
