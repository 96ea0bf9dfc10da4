/* An engine as flags ask for it, and the bar of its loading. */
#ifndef CHOIR_LAUNCH_ENGINE_FLAGS_H
#define CHOIR_LAUNCH_ENGINE_FLAGS_H

#include <stddef.h>

#include "engine/base/progress.h"
#include "engine/run/engine.h"
#include "launch/flags.h"

/* n_sequences: how many will want to run at once, of one replica; logits_rows: prompt positions of a
 * step whose logits will be asked for. */
engine_options_t engine_flags_options(
    const run_flags_t *run, const char *directory, size_t n_sequences, size_t logits_rows);

/* The bar of loading, shown by the coordinator of all ranks: into *options, which it has to
 * outlive. To be closed when the engine is open. */
void engine_flags_show_loading(progress_t *progress, const comm_t *comm,
    const common_flags_t *common, engine_options_t *options);

#endif
