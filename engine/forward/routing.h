/* Which rows of a step go to which experts of a layer. Internal to engine/forward.
 *
 * Every rank computes the router and chooses alike. A pair is a row and one of its experts: row x chosen
 * + place in the row's list, which is in order of probability. Pairs are sorted by expert; of an
 * expert, those that are summed as single rows come first: rows that are alone in their calls, and in
 * order torch those that are the only ones of their calls to choose the expert. */
#ifndef CHOIR_FORWARD_ROUTING_H
#define CHOIR_FORWARD_ROUTING_H

#include "engine/forward/forward_internal.h"

int routing_open(forward_t *f, fail_t *fail);
void routing_close(forward_t *f);
size_t routing_bytes(const model_t *model, const forward_options_t *options);
/* Of PLACE_ROUTED. */
size_t routing_input_bytes(const model_t *model, const forward_options_t *options);
/* Scratch of a thread. */
size_t routing_thread_bytes(const config_t *config);

/* All threads: the router's product, the choice, and the rows where experts take them. */
void routing_choose(forward_t *f, size_t thread, size_t layer);

/* An expert's rows for a product. */
matrix_rows_t routing_inputs(const forward_t *f, size_t expert);

#endif
