/* The words for an engine's settings: what flags take, and what JSON and messages say. Tables of choice.h. */
#ifndef CHOIR_RUN_ENGINE_CHOICES_H
#define CHOIR_RUN_ENGINE_CHOICES_H

#include "engine/base/choice.h"

extern const choice_t engine_modes[];      /* dtype_t: bf16, f32, f64 */
extern const choice_t engine_orders[];     /* order_t */
extern const choice_t engine_attentions[]; /* attention_t */
extern const choice_t engine_dots[];       /* dot_t, as wished for */
extern const choice_t engine_used_dots[];  /* dot_t, as chosen; the order decides about fold */
extern const choice_t engine_quantised_orders[]; /* quantised_order_t */
extern const choice_t engine_kinds[];            /* quantised_kind_t */
extern const choice_t engine_weights[];          /* weights_kind_t */
extern const choice_t engine_combines[];         /* plan_combine_t */
extern const choice_t engine_paths[];            /* comm_path_t */
extern const choice_t engine_binds[];            /* topology_bind_t */

#endif
