/* Quantises the matrices of a model with GPTQ (gptq.h), layer by layer: each is calibrated with the activations that
 * texts have after the quantised layers before it. Internal to engine/quantise/.
 *
 * Memory: the weights of one layer, the sums of its inputs' squares, and the hidden states of the texts. Bytes depend on
 * the model, the texts, the settings, the dot product of the CPUs and OpenBLAS; not on ranks and threads. Layers that are
 * whole in the files are not calibrated again, so that a run goes on where it ended. */
#ifndef CHOIR_QUANTISE_CALIBRATE_H
#define CHOIR_QUANTISE_CALIBRATE_H

#include "engine/quantise/quantise_job.h"

typedef struct calibration calibration_t;

/* Collective. job: with its plan, whose digest gets what the result depends on; borrowed. FAIL_FILE without OpenBLAS and
 * LAPACK; FAIL_MODEL where ranks have other ones, and for mixtures of experts. */
int calibrate_open(calibration_t **calibration, quantise_job_t *job, fail_t *fail);
/* NULL is allowed. */
void calibrate_close(calibration_t *calibration);

/* Collective. Writes all blocks of matrices that are not there. job: with its files open and what was done before. */
int calibrate_layers(calibration_t *calibration, fail_t *fail);

#endif
