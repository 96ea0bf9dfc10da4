#include "engine/quantise/quantise.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file_at.h"
#include "engine/base/memory.h"
#include "engine/base/path.h"
#include "engine/base/size.h"
#include "engine/quantise/calibrate.h"
#include "engine/quantise/quantise_files.h"
#include "engine/quantise/quantise_job.h"
#include "engine/quantise/quantise_round.h"

/* Weights, and beside them, until they are whole, the record: a digest of what is made, then a byte for each block, 1
 * when it is written. */
#define WEIGHTS_FILE "model.safetensors"
#define PARTIAL_FILE WEIGHTS_FILE ".partial"
#define RECORD_FILE WEIGHTS_FILE ".blocks"

/* ---- Rounding to nearest, and what is copied ------------------------------------------------- */

/* Codes and scales of the rows that were read. */
static void round_rows(quantise_job_t *job, const quantise_matrix_t *m, size_t n)
{
    const quantise_options_t *o = job->options;
    size_t group = quantise_group(&job->plan, m);
    for (size_t r = 0; r < n; r++)
        for (size_t g = 0; g < m->n_groups; g++) {
            size_t at = r * m->columns + g * group;
            float scale, unused;
            job->scales[r * m->n_groups + g] = quantise_scale(
                group, job->rows + at, o->bits, o->layout == QUANTISE_COMPRESSED_TENSORS, &scale);
            for (size_t k = at; k < at + group; k++)
                job->codes[k] = quantise_code(job->rows[k], scale, o->bits, &unused);
        }
}

static void tell_progress(const quantise_job_t *job)
{
    if (job->options->progress != NULL && job->options->texts.n == 0)
        job->options->progress(job->options->progress_context, job->done_bytes, job->total_bytes);
}

static void round_matrix(quantise_job_t *job, const quantise_matrix_t *m, fail_t *fail)
{
    for (size_t r = 0; r < m->rows; r += QUANTISE_BLOCK_ROWS) {
        size_t n = size_min(QUANTISE_BLOCK_ROWS, m->rows - r);
        size_t block = m->first_block + r / QUANTISE_BLOCK_ROWS;
        if (!quantise_take_block(job, block, fail))
            continue;
        if (quantise_read_rows(job, m, r, n, fail) == 0) {
            round_rows(job, m, n);
            quantise_write_block(job, m, r, n, NULL, fail);
        }
        quantise_end_block(job, block, n * (m->source->size_bytes / m->rows), fail);
        tell_progress(job);
    }
}

static void copy_tensors(quantise_job_t *job, fail_t *fail)
{
    const quantise_plan_t *plan = &job->plan;
    size_t block = plan->n_matrix_blocks;
    for (size_t i = 0; i < plan->n_tensors; i++) {
        const quantise_tensor_t *tensor = &plan->tensors[i];
        if (!quantise_is_copied(tensor))
            continue;
        for (uint64_t at = 0; at < tensor->bytes; at += QUANTISE_COPY_BYTES, block++) {
            size_t n = size_min(QUANTISE_COPY_BYTES, (size_t)(tensor->bytes - at));
            if (!quantise_take_block(job, block, fail))
                continue;
            quantise_copy_block(job, tensor, at, n, fail);
            quantise_end_block(job, block, n, fail);
            tell_progress(job);
        }
    }
}

/* Collective. */
static int make_blocks(quantise_job_t *job, calibration_t *calibration, fail_t *fail)
{
    if (calibration != NULL && calibrate_layers(calibration, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < job->plan.n_matrices && calibration == NULL; i++)
        round_matrix(job, &job->plan.matrices[i], fail);
    copy_tensors(job, fail);
    return comm_agree(job->comm, fail);
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* Room for all of it, so that a full disk is known before the work; where the file system cannot tell, its length. */
static int reserve(int fd, uint64_t bytes)
{
    if (fallocate(fd, 0, 0, (off_t)bytes) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? ftruncate(fd, (off_t)bytes) : -1;
}

/* Local, the first rank's: a new folder, or one where the same was begun. */
static int begin_files(quantise_job_t *job, fail_t *fail)
{
    const quantise_options_t *o = job->options;
    uint64_t digest = 0;
    int error;
    if (mkdir(o->out, 0777) != 0 && errno != EEXIST)
        return fail_set(fail, FAIL_FILE, "%s: cannot make a folder: %s", o->out, strerror(errno));
    if (path_exists(o->out, WEIGHTS_FILE))
        return fail_set(
            fail, FAIL_FILE, "%s: expected a new folder, found one with " WEIGHTS_FILE, o->out);
    int fd = open(job->record, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    int weights = open(job->partial, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || weights < 0)
        fail_set(fail, FAIL_FILE, "%s: cannot make a file: %s", o->out, strerror(errno));
    job->record_fd = fd;
    job->weights_fd = weights;
    if (fail->status != 0 ||
        (file_read_at(fd, 0, &digest, sizeof digest, &error) == sizeof digest &&
            digest == job->plan.digest))
        return fail->status;
    if (digest != 0)
        return fail_set(fail, FAIL_FILE,
            "%s: expected the same model and settings as when it was begun, found others: remove the folder",
            o->out);
    if (reserve(weights, job->plan.file_bytes) != 0)
        return fail_set(fail, FAIL_FILE, "%s: cannot make it %llu bytes long: %s", job->partial,
            (unsigned long long)job->plan.file_bytes, strerror(errno));
    if (quantise_write_at(job, weights, 0, job->plan.header, job->plan.header_bytes, fail) == 0)
        quantise_write_at(job, fd, 0, &job->plan.digest, sizeof job->plan.digest, fail);
    return fail->status;
}

static int open_files(quantise_job_t *job, fail_t *fail)
{
    job->record_fd = open(job->record, O_RDWR | O_CLOEXEC);
    job->weights_fd = open(job->partial, O_RDWR | O_CLOEXEC);
    if (job->record_fd < 0 || job->weights_fd < 0)
        fail_set(fail, FAIL_FILE,
            "%s: cannot open what the first rank made there (is the folder visible on this node?): %s",
            job->options->out, strerror(errno));
    return fail->status;
}

/* Local, the first rank's. Weights come last: with them the folder is a model. */
static int end_files(quantise_job_t *job, fail_t *fail)
{
    if (fsync(job->weights_fd) != 0)
        return fail_set(fail, FAIL_FILE, "%s: %s", job->partial, strerror(errno));
    if (quantise_write_files(job->options, fail) != 0)
        return fail->status;
    if (rename(job->partial, job->weights) != 0)
        return fail_set(
            fail, FAIL_FILE, "%s: cannot be renamed: %s", job->partial, strerror(errno));
    unlink(job->record);
    return 0;
}

/* Collective. What was written before, as the first rank's file has it. */
static int read_record(quantise_job_t *job, fail_t *fail)
{
    int error;
    job->done = calloc(job->plan.n_blocks + 1, 1);
    if (job->done == NULL)
        fail_set(fail, FAIL_MEMORY, "quantize: out of memory for %zu blocks", job->plan.n_blocks);
    if (comm_agree(job->comm, fail) != 0)
        return fail->status;
    if (comm_rank(job->comm) == 0)
        file_read_at(
            job->record_fd, sizeof job->plan.digest, job->done, job->plan.n_blocks, &error);
    comm_bcast(job->comm, job->done, job->plan.n_blocks);
    return 0;
}

/* ---- The whole ------------------------------------------------------------------------------- */

static int open_job(quantise_job_t *job, fail_t *fail)
{
    const quantise_options_t *o = job->options;
    size_t columns = 0;
    if (quantise_plan_open(&job->plan, o, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < job->plan.n_matrices; i++)
        columns = size_max(columns, job->plan.matrices[i].columns);
    for (size_t i = 0; i < checkpoint_count(job->plan.checkpoint); i++)
        job->total_bytes += checkpoint_at(job->plan.checkpoint, i)->size_bytes;
    job->total_bytes /= (uint64_t)comm_size(job->comm);
    job->partial = path_join(o->out, PARTIAL_FILE);
    job->record = path_join(o->out, RECORD_FILE);
    job->weights = path_join(o->out, WEIGHTS_FILE);
    job->most_columns = columns;
    job->block_bytes =
        size_max(QUANTISE_BLOCK_ROWS * columns * sizeof(double), QUANTISE_COPY_BYTES);
    job->rows = memory_alloc(job->block_bytes, "rows to quantise", fail);
    job->scratch = memory_alloc(job->block_bytes, "rows to quantise", fail);
    job->codes = memory_alloc(QUANTISE_BLOCK_ROWS * columns, "codes", fail);
    job->words = memory_alloc(job->block_bytes, "codes", fail);
    job->scales = memory_alloc(job->block_bytes, "scales", fail);
    job->run = memory_alloc(QUANTISE_BLOCK_ROWS * sizeof *job->run, "codes", fail);
    if (job->partial == NULL || job->record == NULL || job->weights == NULL)
        fail_set(fail, FAIL_MEMORY, "quantize: out of memory");
    return fail->status;
}

static void close_job(quantise_job_t *job)
{
    memory_free(job->rows, job->block_bytes);
    memory_free(job->scratch, job->block_bytes);
    memory_free(job->codes, QUANTISE_BLOCK_ROWS * job->most_columns);
    memory_free(job->words, job->block_bytes);
    memory_free(job->scales, job->block_bytes);
    memory_free(job->run, QUANTISE_BLOCK_ROWS * sizeof *job->run);
    free(job->partial);
    free(job->record);
    free(job->weights);
    free(job->done);
    if (job->record_fd >= 0)
        close(job->record_fd);
    if (job->weights_fd >= 0)
        close(job->weights_fd);
    quantise_plan_close(&job->plan);
}

/* Collective. */
static int write_copy(quantise_job_t *job, calibration_t *calibration, fail_t *fail)
{
    bool root = comm_rank(job->comm) == 0;
    if (comm_agree_same(job->comm, job->plan.digest, "list of tensors", fail) == 0 && root)
        begin_files(job, fail);
    if (comm_agree(job->comm, fail) == 0 && !root)
        open_files(job, fail);
    if (comm_agree(job->comm, fail) != 0 || read_record(job, fail) != 0 ||
        make_blocks(job, calibration, fail) != 0)
        return fail->status;
    if (root)
        end_files(job, fail);
    return comm_agree(job->comm, fail);
}

int quantise_model(
    comm_t *comm, const quantise_options_t *options, quantise_result_t *result, fail_t *fail)
{
    quantise_job_t job = {.comm = comm, .options = options, .record_fd = -1, .weights_fd = -1};
    calibration_t *calibration = NULL;
    if (fail->status == 0)
        open_job(&job, fail);
    if (comm_agree(comm, fail) == 0 &&
        (options->texts.n == 0 || calibrate_open(&calibration, &job, fail) == 0))
        write_copy(&job, calibration, fail);
    *result = (quantise_result_t){.n_matrices = job.plan.n_matrices,
        .read_bytes = job.total_bytes * (uint64_t)comm_size(comm),
        .written_bytes = job.plan.file_bytes};
    calibrate_close(calibration);
    close_job(&job);
    return fail->status;
}
