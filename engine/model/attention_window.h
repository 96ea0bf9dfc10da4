/* The reference's call for a decode step over a sliding window, and panels of its keys. Internal to
 * engine/model/attention*.c.
 *
 * transformers keeps the last window - 1 keys of a layer, so that a decode step sees at most `window`
 * keys and counts them from the oldest; a prompt's call has all of its own (docs/numerics.md, "Sliding
 * windows"). */
#ifndef CHOIR_MODEL_ATTENTION_WINDOW_H
#define CHOIR_MODEL_ATTENTION_WINDOW_H

#include "engine/base/size.h"
#include "engine/model/attention.h"

/* The unit as part of the reference's call: where that no longer has the first keys of the sequence,
 * dropped_keys tells how many, positions and keys count from the first that is left, and all of them
 * are seen; where the window is full, packed_rows too. panel: scratch of attention_panel_bytes. */
attention_unit_t attention_call(const attention_unit_t *unit, void *panel);

static inline size_t attention_panel_bytes(size_t head_dim)
{
    return size_max(size_round_up(head_dim, 2), KERNEL_PANEL) * KV_BLOCK * sizeof(uint16_t);
}

/* The panel of KV_BLOCK keys that holds key `key` of the call; of values, `width` outputs from
 * first_output on. swapped: the two keys of a pair are. Borrowed from the cache, or from the scratch
 * and then valid until the next call of either. */
const char *attention_keys(const attention_unit_t *call, size_t key);
const char *attention_values(
    const attention_unit_t *call, size_t key, size_t first_output, size_t width, bool swapped);

#endif
