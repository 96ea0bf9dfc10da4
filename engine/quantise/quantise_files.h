/* The small files of a quantised copy: config.json with quantization_config, and all others as they are. */
#ifndef CHOIR_QUANTISE_QUANTISE_FILES_H
#define CHOIR_QUANTISE_QUANTISE_FILES_H

#include "engine/base/status.h"
#include "engine/quantise/quantise_options.h"

/* Local. Files of the same name are replaced. FAIL_FILE, FAIL_FORMAT. */
int quantise_write_files(const quantise_options_t *options, fail_t *fail);

#endif
