/* What engine/forward needs of comm/ for a group of one rank, without MPI: linked in place of the
 * library by tests of the forward pass. A function that is missing here is found in the library,
 * and the linker then complains of the others, which are there twice. */
#include <stdlib.h>

#include "comm/stream.h"
#include "comm/watch/progress_record.h"
#include "comm/watch/trace.h"
#include "engine/base/memory.h"

struct comm_buffer {
    void *data;
    size_t bytes;
};

int comm_agree(comm_t *comm, fail_t *fail)
{
    (void)comm;
    return fail->status;
}

int64_t comm_min(comm_t *comm, int64_t value)
{
    (void)comm;
    return value;
}

void comm_barrier(comm_t *comm)
{
    (void)comm;
}

void comm_allreduce_f32(comm_t *comm, float *data, size_t n)
{
    (void)comm, (void)data, (void)n;
}

void comm_allreduce_f64(comm_t *comm, double *data, size_t n)
{
    (void)comm, (void)data, (void)n;
}

void comm_set_phase(const comm_t *comm, progress_phase_t phase, size_t layer)
{
    (void)comm, (void)phase, (void)layer;
}

void comm_report_progress(const comm_t *comm)
{
    (void)comm;
}

void comm_trace_rows(const comm_t *comm, size_t rows)
{
    (void)comm, (void)rows;
}

/* ---- Buffers: one rank's own memory, whole as it is ------------------------------------------- */

int comm_buffer_open(
    comm_t *comm, size_t bytes, const char *what, comm_buffer_t **buffer, fail_t *fail)
{
    (void)comm;
    *buffer = calloc(1, sizeof **buffer);
    if (*buffer == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", what);
    (*buffer)->bytes = bytes;
    (*buffer)->data = memory_alloc(bytes, what, fail);
    if (fail->status != 0) {
        free(*buffer);
        *buffer = NULL;
    }
    return fail->status;
}

void comm_buffer_close(comm_buffer_t *buffer)
{
    if (buffer != NULL)
        memory_free(buffer->data, buffer->bytes);
    free(buffer);
}

void *comm_buffer_data(comm_buffer_t *buffer)
{
    return buffer->data;
}

bool comm_buffer_is_shared(const comm_buffer_t *buffer)
{
    (void)buffer;
    return true;
}

bool comm_buffer_has_small_pages(const comm_buffer_t *buffer)
{
    (void)buffer;
    return false;
}

void comm_gather_columns(
    comm_buffer_t *buffer, size_t n_rows, size_t stride_bytes, const size_t *begins)
{
    (void)buffer, (void)n_rows, (void)stride_bytes, (void)begins;
}

void comm_gather_rows(comm_buffer_t *buffer, size_t n_rows, size_t row_bytes, const int *owners)
{
    (void)buffer, (void)n_rows, (void)row_bytes, (void)owners;
}

/* ---- Streams: there are none on one node ------------------------------------------------------ */

int comm_stream_open(comm_stream_t **stream, comm_buffer_t *buffer, size_t max_rows,
    size_t stride_bytes, const size_t *begins, comm_tiling_t tiling, fail_t *fail)
{
    (void)buffer, (void)max_rows, (void)stride_bytes, (void)begins, (void)tiling;
    *stream = NULL;
    return fail->status;
}

void comm_stream_close(comm_stream_t *stream)
{
    (void)stream;
}

bool comm_stream_pays(const comm_stream_t *stream, size_t n_rows)
{
    (void)stream, (void)n_rows;
    return false;
}

void comm_stream_begin(comm_stream_t *stream, const char *rows, size_t n_rows, bool whole)
{
    (void)stream, (void)rows, (void)n_rows, (void)whole;
}

size_t comm_stream_tiles(const comm_stream_t *stream)
{
    (void)stream;
    return 0;
}

void comm_stream_send(comm_stream_t *stream, size_t tile)
{
    (void)stream, (void)tile;
}

void comm_stream_poll(comm_stream_t *stream)
{
    (void)stream;
}

void comm_stream_end(comm_stream_t *stream)
{
    (void)stream;
}
