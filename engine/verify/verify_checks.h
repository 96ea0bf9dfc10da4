/* Checks of a reference without a forward pass: its model, what it lacks. The
 * coordinator's work, all of it Local. */
#ifndef CHOIR_VERIFY_VERIFY_CHECKS_H
#define CHOIR_VERIFY_VERIFY_CHECKS_H

#include <stdbool.h>

#include "engine/base/dtype.h"
#include "engine/verify/reference.h"
#include "engine/verify/verify_report.h"

/* Compares the configuration field by field. FAIL_MODEL when sizes differ, so that nothing could be
 * compared, or a prompt has an id outside of the vocabulary. */
int check_configuration(
    const reference_t *reference, const config_t *config, report_t *report, fail_t *fail);

/* Compares the digest of the weights. */
void check_digest(const reference_t *reference, uint64_t digest, report_t *report);

/* Tokenizes the text prompts with the model's tokenizer, where it has one. A beginning-of-sequence token that is there twice
 * is told as that. */
int check_tokenization(
    const reference_t *reference, const char *model_dir, report_t *report, fail_t *fail);

/* Lists tensors that the reference should have, by its own metadata, and those of other shapes.
 * layers: [num_hidden_layers] those that are compared; NULL: all. */
void check_completeness(const reference_t *reference, const config_t *config,
    const bool *attentions, const bool *layers, report_t *report);

#endif
