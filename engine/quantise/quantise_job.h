/* A quantised copy that is being written: its files, its blocks, and what a rank needs for one of them. Internal to
 * engine/quantise/. */
#ifndef CHOIR_QUANTISE_QUANTISE_JOB_H
#define CHOIR_QUANTISE_QUANTISE_JOB_H

#include "comm/comm.h"
#include "engine/quantise/quantise_plan.h"

typedef struct quantise_job {
    comm_t *comm;
    const quantise_options_t *options;
    quantise_plan_t plan;
    char *partial, *record, *weights;
    int weights_fd, record_fd;
    uint8_t *done;                    /* [plan.n_blocks] 1: the block was written by a run before */
    uint64_t done_bytes, total_bytes; /* of this rank's blocks */
    /* Of a block of a matrix. */
    float *rows;   /* [QUANTISE_BLOCK_ROWS, columns] */
    void *scratch; /* as many f64 */
    uint8_t *codes;
    uint32_t *words, *run;
    uint16_t *scales;
    size_t block_bytes, most_columns; /* block_bytes: of rows, scratch, words and scales each */
} quantise_job_t;

/* Local. Whether this rank makes a block now: it is its turn, and nobody has made it. FAIL_INTERRUPTED. */
bool quantise_take_block(quantise_job_t *job, size_t block, fail_t *fail);
/* Local. Records that a block was written, unless there was a failure. bytes: of the model */
void quantise_end_block(quantise_job_t *job, size_t block, uint64_t bytes, fail_t *fail);
/* Local. FAIL_INTERRUPTED when a signal asked the run to end. */
int quantise_check_signal(const quantise_job_t *job, fail_t *fail);

/* Local. Reads n rows of a matrix into job->rows. FAIL_FILE; FAIL_MODEL for weights that are not finite. */
int quantise_read_rows(
    quantise_job_t *job, const quantise_matrix_t *m, size_t first, size_t n, fail_t *fail);
/* Local. Writes n rows of codes and scales. order: the input that has the p-th place among the groups; NULL: the p-th.
 * codes: [n, columns]; scales: [n, groups]. FAIL_FILE. */
int quantise_write_block(quantise_job_t *job, const quantise_matrix_t *m, size_t first, size_t n,
    const uint32_t *order, fail_t *fail);
/* Local. A part of a tensor that is copied as it is. FAIL_FILE. */
int quantise_copy_block(quantise_job_t *job, const quantise_tensor_t *tensor, uint64_t first,
    size_t bytes, fail_t *fail);
/* Local. Writes to the weights or to the record. FAIL_FILE. */
int quantise_write_at(const quantise_job_t *job, int fd, uint64_t offset, const void *data,
    size_t bytes, fail_t *fail);

#endif
