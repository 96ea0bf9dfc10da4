#include "engine/quantise/quantise.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/fault.h"
#include "comm/watch/progress_record.h"
#include "engine/base/dtype.h"
#include "engine/base/file_at.h"
#include "engine/base/memory.h"
#include "engine/base/path.h"
#include "engine/base/size.h"
#include "engine/quantise/quantise_files.h"
#include "engine/quantise/quantise_internal.h"

/* Weights, and beside them, until they are whole, the record: a digest of what is made, then a byte for each block, 1
 * when it is written. */
#define WEIGHTS_FILE "model.safetensors"
#define PARTIAL_FILE WEIGHTS_FILE ".partial"
#define RECORD_FILE WEIGHTS_FILE ".blocks"
#define COPY_BYTES ((size_t)8 << 20) /* of a block that is copied */

typedef struct job {
    comm_t *comm;
    const quantise_options_t *options;
    quantise_plan_t plan;
    char *partial, *record, *weights;
    int weights_fd, record_fd;
    size_t next;                      /* number of the next block, over all tensors */
    uint64_t done_bytes, total_bytes; /* of this rank's blocks */
    /* Of a block of a matrix. */
    float *rows;
    void *scratch;
    uint8_t *codes;
    uint32_t *words, *run;
    uint16_t *scales;
    size_t block_bytes; /* of one of these */
} job_t;

static int write_at(
    const job_t *job, int fd, uint64_t offset, const void *data, size_t bytes, fail_t *fail)
{
    int error;
    if (file_write_at(fd, offset, data, bytes, &error) < bytes)
        return fail_set(fail, FAIL_FILE, "%s: cannot write %zu bytes: %s",
            fd == job->record_fd ? job->record : job->partial, bytes, strerror(error));
    return 0;
}

/* ---- Blocks of a matrix ---------------------------------------------------------------------- */

static int read_rows(job_t *job, const quantise_matrix_t *m, size_t first, size_t n, fail_t *fail)
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

/* Codes of the rows that were read, packed along inputs: [n, columns bits / 32] words; scales: [n, n_groups] */
static void round_rows(job_t *job, const quantise_matrix_t *m, size_t n)
{
    const quantise_options_t *o = job->options;
    size_t group = quantise_group(&job->plan, m), words = m->columns * o->bits / 32;
    for (size_t r = 0; r < n; r++) {
        float unused;
        for (size_t g = 0; g < m->n_groups; g++)
            job->scales[r * m->n_groups + g] =
                quantise_round(group, job->rows + r * m->columns + g * group, o->bits,
                    o->layout == QUANTISE_COMPRESSED_TENSORS, &unused, job->codes + g * group);
        quantise_pack(m->columns, o->bits, job->codes, job->words + r * words);
    }
}

static const quantise_tensor_t *part(const job_t *job, const quantise_matrix_t *m, int which)
{
    return &job->plan.tensors[m->parts[which]];
}

/* Rows of compressed-tensors lie as they are. */
static int write_rows(
    const job_t *job, const quantise_matrix_t *m, size_t first, size_t n, fail_t *fail)
{
    const quantise_tensor_t *codes = part(job, m, PART_CODES), *scales = part(job, m, PART_SCALES);
    size_t words = m->columns * job->options->bits / 32;
    const int64_t shape[] = {(int64_t)m->rows, (int64_t)m->columns};
    if (write_at(job, job->weights_fd, codes->offset + first * words * 4, job->words, n * words * 4,
            fail) == 0)
        write_at(job, job->weights_fd, scales->offset + first * m->n_groups * 2, job->scales,
            n * m->n_groups * 2, fail);
    if (first == 0 && fail->status == 0)
        write_at(job, job->weights_fd, part(job, m, PART_SHAPE)->offset, shape, sizeof shape, fail);
    return fail->status;
}

/* GPTQ's lie [inputs, outputs]: a run of n outputs in each row of words, scales and zeros. */
static int write_columns(
    job_t *job, const quantise_matrix_t *m, size_t first, size_t n, fail_t *fail)
{
    const unsigned bits = job->options->bits;
    size_t words = m->columns * bits / 32, per_word = 32 / bits;
    uint64_t codes = part(job, m, PART_CODES)->offset, scales = part(job, m, PART_SCALES)->offset,
             zeros = part(job, m, PART_ZEROS)->offset;
    uint16_t *halves = (uint16_t *)(void *)job->run;
    for (size_t w = 0; w < words && fail->status == 0; w++) {
        for (size_t r = 0; r < n; r++)
            job->run[r] = job->words[r * words + w];
        write_at(job, job->weights_fd, codes + (w * m->rows + first) * 4, job->run, n * 4, fail);
    }
    for (size_t g = 0; g < m->n_groups && fail->status == 0; g++) {
        for (size_t r = 0; r < n; r++)
            halves[r] = job->scales[r * m->n_groups + g];
        write_at(job, job->weights_fd, scales + (g * m->rows + first) * 2, halves, n * 2, fail);
        /* z - 1 in every field */
        memset(job->run, bits == 4 ? 0x77 : 0x7f, n / per_word * 4);
        write_at(job, job->weights_fd, zeros + (g * m->rows + first) / per_word * 4, job->run,
            n / per_word * 4, fail);
    }
    return fail->status;
}

static int write_groups(job_t *job, const quantise_matrix_t *m, fail_t *fail)
{
    size_t group = quantise_group(&job->plan, m);
    uint32_t *groups = (uint32_t *)(void *)job->rows;
    for (size_t k = 0; k < m->columns; k++)
        groups[k] = (uint32_t)(k / group);
    return write_at(job, job->weights_fd, part(job, m, PART_GROUPS)->offset, groups,
        m->columns * sizeof *groups, fail);
}

static int quantise_block(
    job_t *job, const quantise_matrix_t *m, size_t first, size_t n, fail_t *fail)
{
    if (read_rows(job, m, first, n, fail) != 0)
        return fail->status;
    round_rows(job, m, n);
    if (job->options->layout == QUANTISE_COMPRESSED_TENSORS)
        return write_rows(job, m, first, n, fail);
    if (write_columns(job, m, first, n, fail) == 0 && first == 0)
        write_groups(job, m, fail);
    return fail->status;
}

static int copy_block(
    job_t *job, const quantise_tensor_t *tensor, uint64_t first, size_t bytes, fail_t *fail)
{
    if (checkpoint_read_bytes(
            job->plan.checkpoint, tensor->source, first, first + bytes, job->rows, fail) == 0)
        write_at(job, job->weights_fd, tensor->offset + first, job->rows, bytes, fail);
    return fail->status;
}

/* ---- Whose block it is ----------------------------------------------------------------------- */

/* Whether this rank makes the next block now: it is its turn, and nobody has made it. */
static bool take_block(job_t *job, size_t *block, fail_t *fail)
{
    int error;
    char done = 0;
    *block = job->next++;
    if (fail->status != 0 || *block % (size_t)comm_size(job->comm) != (size_t)comm_rank(job->comm))
        return false;
    if (job->options->interrupted != NULL && job->options->interrupted()) {
        fail_set(fail, FAIL_INTERRUPTED,
            "interrupted; what is finished is kept in %s, and the same command goes on from there",
            job->options->out);
        return false;
    }
    char point[32];
    snprintf(point, sizeof point, "block-%zu", *block);
    fault_at(point);
    comm_report_progress(job->comm);
    file_read_at(job->record_fd, sizeof job->plan.digest + *block, &done, 1, &error);
    return done == 0;
}

static void end_block(job_t *job, size_t block, uint64_t bytes, fail_t *fail)
{
    const char done = 1;
    if (fail->status == 0)
        write_at(job, job->record_fd, sizeof job->plan.digest + block, &done, 1, fail);
    job->done_bytes += bytes;
    if (job->options->progress != NULL)
        job->options->progress(job->options->progress_context, job->done_bytes, job->total_bytes);
}

static int make_blocks(job_t *job, fail_t *fail)
{
    const quantise_plan_t *plan = &job->plan;
    size_t block;
    for (size_t i = 0; i < plan->n_matrices; i++) {
        const quantise_matrix_t *m = &plan->matrices[i];
        for (size_t r = 0; r < m->rows; r += QUANTISE_BLOCK_ROWS) {
            size_t n = size_min(QUANTISE_BLOCK_ROWS, m->rows - r);
            if (!take_block(job, &block, fail))
                continue;
            quantise_block(job, m, r, n, fail);
            end_block(job, block, n * (m->source->size_bytes / m->rows), fail);
        }
    }
    for (size_t i = 0; i < plan->n_tensors; i++) {
        const quantise_tensor_t *tensor = &plan->tensors[i];
        if (strcmp(tensor->name, tensor->source->name) != 0)
            continue;
        for (uint64_t at = 0; at < tensor->bytes; at += COPY_BYTES) {
            size_t n = size_min(COPY_BYTES, (size_t)(tensor->bytes - at));
            if (!take_block(job, &block, fail))
                continue;
            copy_block(job, tensor, at, n, fail);
            end_block(job, block, n, fail);
        }
    }
    return fail->status;
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* Local, the first rank's: a new folder, or one where the same was begun. */
static int begin_files(job_t *job, fail_t *fail)
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
    if (ftruncate(weights, (off_t)job->plan.file_bytes) != 0)
        return fail_set(fail, FAIL_FILE, "%s: cannot make it %llu bytes long: %s", job->partial,
            (unsigned long long)job->plan.file_bytes, strerror(errno));
    if (write_at(job, weights, 0, job->plan.header, job->plan.header_bytes, fail) == 0)
        write_at(job, fd, 0, &job->plan.digest, sizeof job->plan.digest, fail);
    return fail->status;
}

static int open_files(job_t *job, fail_t *fail)
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
static int end_files(job_t *job, fail_t *fail)
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

/* ---- The whole ------------------------------------------------------------------------------- */

static int open_job(job_t *job, fail_t *fail)
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
    job->block_bytes =
        size_max(QUANTISE_BLOCK_ROWS * columns * sizeof(double), size_max(COPY_BYTES, 1 << 16));
    job->rows = memory_alloc(job->block_bytes, "rows to quantise", fail);
    job->scratch = memory_alloc(job->block_bytes, "rows to quantise", fail);
    job->codes = memory_alloc(columns + 8, "codes", fail);
    job->words = memory_alloc(job->block_bytes, "codes", fail);
    job->scales = memory_alloc(job->block_bytes, "scales", fail);
    job->run = memory_alloc(QUANTISE_BLOCK_ROWS * sizeof *job->run, "codes", fail);
    if (job->partial == NULL || job->record == NULL || job->weights == NULL)
        fail_set(fail, FAIL_MEMORY, "quantize: out of memory");
    return fail->status;
}

static void close_job(job_t *job, size_t columns)
{
    memory_free(job->rows, job->block_bytes);
    memory_free(job->scratch, job->block_bytes);
    memory_free(job->codes, columns + 8);
    memory_free(job->words, job->block_bytes);
    memory_free(job->scales, job->block_bytes);
    memory_free(job->run, QUANTISE_BLOCK_ROWS * sizeof *job->run);
    free(job->partial);
    free(job->record);
    free(job->weights);
    if (job->record_fd >= 0)
        close(job->record_fd);
    if (job->weights_fd >= 0)
        close(job->weights_fd);
    quantise_plan_close(&job->plan);
}

int quantise_model(
    comm_t *comm, const quantise_options_t *options, quantise_result_t *result, fail_t *fail)
{
    job_t job = {.comm = comm, .options = options, .record_fd = -1, .weights_fd = -1};
    bool root = comm_rank(comm) == 0;
    size_t columns = 0;
    if (fail->status == 0)
        open_job(&job, fail);
    for (size_t i = 0; i < job.plan.n_matrices; i++)
        columns = size_max(columns, job.plan.matrices[i].columns);
    if (comm_agree(comm, fail) == 0 &&
        comm_agree_same(comm, job.plan.digest, "list of tensors", fail) == 0 && root)
        begin_files(&job, fail);
    if (comm_agree(comm, fail) == 0 && !root)
        open_files(&job, fail);
    if (comm_agree(comm, fail) == 0)
        make_blocks(&job, fail);
    if (comm_agree(comm, fail) == 0 && root)
        end_files(&job, fail);
    comm_agree(comm, fail);
    *result = (quantise_result_t){.n_matrices = job.plan.n_matrices,
        .read_bytes = job.total_bytes * (uint64_t)comm_size(comm),
        .written_bytes = job.plan.file_bytes};
    close_job(&job, columns);
    return fail->status;
}
