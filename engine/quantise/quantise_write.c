/* Blocks of a quantised copy: what they become in its file, and whose they are. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "comm/fault.h"
#include "comm/watch/progress_record.h"
#include "engine/base/file_at.h"
#include "engine/quantise/quantise_job.h"
#include "engine/quantise/quantise_round.h"

int quantise_write_at(const quantise_job_t *job, int fd, uint64_t offset, const void *data,
    size_t bytes, fail_t *fail)
{
    int error;
    if (file_write_at(fd, offset, data, bytes, &error) < bytes)
        return fail_set(fail, FAIL_FILE, "%s: cannot write %zu bytes: %s",
            fd == job->record_fd ? job->record : job->partial, bytes, strerror(error));
    return 0;
}

/* ---- Blocks of a matrix ---------------------------------------------------------------------- */

int quantise_read_rows(
    quantise_job_t *job, const quantise_matrix_t *m, size_t first, size_t n, fail_t *fail)
{
    if (checkpoint_read(job->plan.checkpoint, m->source, first, first + n, 0, m->columns, job->rows,
            DTYPE_F32, job->scratch, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < n * m->columns; i++)
        if (!isfinite(job->rows[i]))
            return fail_set(fail, FAIL_MODEL,
                "%s: tensor %s: expected finite weights, found %g at [%zu, %zu]", m->source->file,
                m->source->name, (double)job->rows[i], first + i / m->columns, i % m->columns);
    return 0;
}

static const quantise_tensor_t *part(
    const quantise_job_t *job, const quantise_matrix_t *m, int which)
{
    return &job->plan.tensors[m->parts[which]];
}

/* Rows of compressed-tensors lie as they are. */
static int write_rows(
    const quantise_job_t *job, const quantise_matrix_t *m, size_t first, size_t n, fail_t *fail)
{
    const quantise_tensor_t *codes = part(job, m, PART_CODES), *scales = part(job, m, PART_SCALES);
    size_t words = m->columns * job->options->bits / 32;
    const int64_t shape[] = {(int64_t)m->rows, (int64_t)m->columns};
    if (quantise_write_at(job, job->weights_fd, codes->offset + first * words * 4, job->words,
            n * words * 4, fail) == 0)
        quantise_write_at(job, job->weights_fd, scales->offset + first * m->n_groups * 2,
            job->scales, n * m->n_groups * 2, fail);
    if (first == 0 && fail->status == 0)
        quantise_write_at(
            job, job->weights_fd, part(job, m, PART_SHAPE)->offset, shape, sizeof shape, fail);
    return fail->status;
}

/* GPTQ's lie [inputs, outputs]: a run of n outputs in each row of words, scales and zeros. */
static int write_columns(
    quantise_job_t *job, const quantise_matrix_t *m, size_t first, size_t n, fail_t *fail)
{
    const unsigned bits = job->options->bits;
    size_t words = m->columns * bits / 32, per_word = 32 / bits;
    uint64_t codes = part(job, m, PART_CODES)->offset, scales = part(job, m, PART_SCALES)->offset,
             zeros = part(job, m, PART_ZEROS)->offset;
    uint16_t *halves = (uint16_t *)(void *)job->run;
    for (size_t w = 0; w < words && fail->status == 0; w++) {
        for (size_t r = 0; r < n; r++)
            job->run[r] = job->words[r * words + w];
        quantise_write_at(
            job, job->weights_fd, codes + (w * m->rows + first) * 4, job->run, n * 4, fail);
    }
    for (size_t g = 0; g < m->n_groups && fail->status == 0; g++) {
        for (size_t r = 0; r < n; r++)
            halves[r] = job->scales[r * m->n_groups + g];
        quantise_write_at(
            job, job->weights_fd, scales + (g * m->rows + first) * 2, halves, n * 2, fail);
        /* z - 1 in every field */
        memset(job->run, bits == 4 ? 0x77 : 0x7f, n / per_word * 4);
        quantise_write_at(job, job->weights_fd, zeros + (g * m->rows + first) / per_word * 4,
            job->run, n / per_word * 4, fail);
    }
    return fail->status;
}

static int write_groups(
    quantise_job_t *job, const quantise_matrix_t *m, const uint32_t *order, fail_t *fail)
{
    size_t group = quantise_group(&job->plan, m);
    uint32_t *groups = (uint32_t *)(void *)job->rows;
    for (size_t p = 0; p < m->columns; p++)
        groups[order == NULL ? p : order[p]] = (uint32_t)(p / group);
    return quantise_write_at(job, job->weights_fd, part(job, m, PART_GROUPS)->offset, groups,
        m->columns * sizeof *groups, fail);
}

int quantise_write_block(quantise_job_t *job, const quantise_matrix_t *m, size_t first, size_t n,
    const uint32_t *order, fail_t *fail)
{
    const unsigned bits = job->options->bits;
    for (size_t r = 0; r < n; r++)
        quantise_pack(m->columns, bits, job->codes + r * m->columns,
            job->words + r * (m->columns * bits / 32));
    if (job->options->layout == QUANTISE_COMPRESSED_TENSORS)
        return write_rows(job, m, first, n, fail);
    if (write_columns(job, m, first, n, fail) == 0 && first == 0)
        write_groups(job, m, order, fail);
    return fail->status;
}

int quantise_copy_block(quantise_job_t *job, const quantise_tensor_t *tensor, uint64_t first,
    size_t bytes, fail_t *fail)
{
    if (checkpoint_read_bytes(
            job->plan.checkpoint, tensor->source, first, first + bytes, job->rows, fail) == 0)
        quantise_write_at(job, job->weights_fd, tensor->offset + first, job->rows, bytes, fail);
    return fail->status;
}

/* ---- Whose block it is ----------------------------------------------------------------------- */

int quantise_check_signal(const quantise_job_t *job, fail_t *fail)
{
    if (job->options->interrupted != NULL && job->options->interrupted())
        fail_set(fail, FAIL_INTERRUPTED,
            "interrupted; what is finished is kept in %s, and the same command goes on from there",
            job->options->out);
    return fail->status;
}

bool quantise_take_block(quantise_job_t *job, size_t block, fail_t *fail)
{
    if (fail->status != 0 || block % (size_t)comm_size(job->comm) != (size_t)comm_rank(job->comm) ||
        quantise_check_signal(job, fail) != 0)
        return false;
    char point[32];
    snprintf(point, sizeof point, "block-%zu", block);
    fault_at(point);
    comm_report_progress(job->comm);
    return job->done[block] == 0;
}

void quantise_end_block(quantise_job_t *job, size_t block, uint64_t bytes, fail_t *fail)
{
    const char done = 1;
    if (fail->status == 0)
        quantise_write_at(job, job->record_fd, sizeof job->plan.digest + block, &done, 1, fail);
    job->done_bytes += bytes;
}
