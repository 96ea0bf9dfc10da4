#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "comm/exchange.h"
#include "comm/internal.h"
#include "comm/watch/progress_record.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"

/* Slices of several rows are packed for the exchange between groups in pieces of this size: large
 * enough for the network's bandwidth, small enough for a cache. */
#define STAGING_BYTES ((size_t)4 << 20)

struct comm_buffer {
    comm_t *comm;
    char *data;
    size_t bytes;
    window_t window; /* closed when data is private to this rank */
};

/* Local. The part of opening that can fail on one rank; nothing here waits for another. */
static int prepare(comm_buffer_t *buffer, const char *what, fail_t *fail)
{
    comm_t *comm = buffer->comm;
    /* Slices scattered over a row have to be packed even when it is one row, however long. */
    size_t staging = comm->scattered ? buffer->bytes : size_min(buffer->bytes, STAGING_BYTES);
    if (comm->n_groups > 1 && comm->sharing_rank == 0 && staging > comm->staging_bytes) {
        char *grown = memory_alloc(staging, what, fail);
        if (grown == NULL)
            return fail->status;
        memory_free(comm->staging, comm->staging_bytes);
        comm->staging = grown;
        comm->staging_bytes = staging;
    }
    if (comm->sharing_size == 1)
        buffer->data = memory_alloc(buffer->bytes, what, fail);
    return fail->status;
}

int comm_buffer_open(
    comm_t *comm, size_t bytes, const char *what, comm_buffer_t **out, fail_t *fail)
{
    *out = NULL;
    if (!comm->chosen && exchange_choose(comm, fail) != 0)
        return fail->status;
    comm_buffer_t *buffer = calloc(1, sizeof *buffer);
    if (buffer == NULL) {
        fail_set(fail, FAIL_MEMORY, "%s: out of memory", what);
    } else {
        *buffer = (comm_buffer_t){.comm = comm, .bytes = bytes};
        prepare(buffer, what, fail);
    }
    if (comm_agree(comm, fail) != 0) {
        comm_buffer_close(buffer);
        return fail->status;
    }
    if (comm->sharing_size > 1) {
        window_open(&buffer->window, comm, comm->sharing, bytes, what, fail);
        buffer->data = buffer->window.data;
    }
    if (comm_agree(comm, fail) != 0) {
        comm_buffer_close(buffer);
        return fail->status;
    }
    *out = buffer;
    return 0;
}

void comm_buffer_close(comm_buffer_t *buffer)
{
    if (buffer == NULL)
        return;
    if (buffer->window.data != NULL)
        window_close(&buffer->window);
    else
        memory_free(buffer->data, buffer->bytes);
    free(buffer);
}

bool comm_buffer_is_shared(const comm_buffer_t *buffer)
{
    return buffer->comm->n_groups == 1;
}

bool comm_buffer_has_small_pages(const comm_buffer_t *buffer)
{
    return buffer->window.data != NULL && !buffer->window.huge;
}

comm_t *comm_buffer_group(const comm_buffer_t *buffer)
{
    return buffer->comm;
}

void *comm_buffer_data(comm_buffer_t *buffer)
{
    return buffer->data;
}

/* Bytes of a row that a group's ranks have written. */
static size_t group_width(const comm_t *comm, int group, const size_t *begins)
{
    size_t width = 0;
    for (int i = comm->run_begins[group]; i < comm->run_begins[group + 1]; i++)
        width += begins[comm->runs[i].end] - begins[comm->runs[i].first];
    return width;
}

/* Fills counts and displs for n_rows packed rows. */
static void count_packed(comm_t *comm, size_t n_rows, const size_t *begins)
{
    size_t place = 0;
    for (int g = 0; g < comm->n_groups; g++) {
        size_t bytes = n_rows * group_width(comm, g, begins);
        comm->counts[g] = (int)bytes;
        comm->displs[g] = (int)place;
        place += bytes;
    }
}

/* Copies a group's columns of n_rows rows into its place of the staging area (pack) or back. */
static void copy_columns(comm_t *comm, int group, char *rows, size_t n_rows, size_t stride_bytes,
    const size_t *begins, bool pack)
{
    char *packed = comm->staging + comm->displs[group];
    for (size_t row = 0; row < n_rows; row++, rows += stride_bytes) {
        for (int i = comm->run_begins[group]; i < comm->run_begins[group + 1]; i++) {
            size_t begin = begins[comm->runs[i].first];
            size_t width = begins[comm->runs[i].end] - begin;
            if (pack)
                memcpy(packed, rows + begin, width);
            else
                memcpy(rows + begin, packed, width);
            packed += width;
        }
    }
}

/* One row whose groups own one piece each: MPI may work in place. */
static void exchange_row_in_place(comm_t *comm, char *row, const size_t *begins)
{
    for (int g = 0; g < comm->n_groups; g++) {
        const rank_run_t *run = &comm->runs[comm->run_begins[g]];
        comm->counts[g] = (int)(begins[run->end] - begins[run->first]);
        comm->displs[g] = (int)begins[run->first];
    }
    exchange_run(comm, row);
}

static void exchange_packed(
    comm_t *comm, char *rows, size_t n_rows, size_t stride_bytes, const size_t *begins)
{
    count_packed(comm, n_rows, begins);
    copy_columns(comm, comm->group, rows, n_rows, stride_bytes, begins, true);
    exchange_run(comm, comm->staging);
    for (int g = 0; g < comm->n_groups; g++)
        if (g != comm->group)
            copy_columns(comm, g, rows, n_rows, stride_bytes, begins, false);
}

/* Collective over the leaders. */
static void exchange_columns(
    comm_t *comm, char *data, size_t n_rows, size_t stride_bytes, const size_t *begins)
{
    size_t row_bytes = begins[comm->size] - begins[0];
    if (row_bytes == 0)
        return;
    size_t rows_at_once = size_max(size_min(comm->staging_bytes, INT_MAX) / row_bytes, 1);
    for (size_t row = 0; row < n_rows; row += rows_at_once) {
        size_t n = size_min(rows_at_once, n_rows - row);
        if (n == 1 && !comm->scattered)
            exchange_row_in_place(comm, data + row * stride_bytes, begins);
        else
            exchange_packed(comm, data + row * stride_bytes, n, stride_bytes, begins);
    }
}

void comm_gather_columns(
    comm_buffer_t *buffer, size_t n_rows, size_t stride_bytes, const size_t *begins)
{
    comm_t *comm = buffer->comm;
    assert(n_rows == 0 || ((n_rows - 1) * stride_bytes + begins[comm->size] <= buffer->bytes &&
                              begins[comm->size] <= INT_MAX));
    assert(n_rows <= 1 || begins[comm->size] <= stride_bytes);
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_GATHER);
    node_barrier_wait(&comm->barrier);
    if (comm->n_groups > 1) {
        if (comm->leaders != MPI_COMM_NULL)
            exchange_columns(comm, buffer->data, n_rows, stride_bytes, begins);
        node_barrier_wait(&comm->barrier);
    }
    progress_leave_wait(comm, outer);
}

/* Each group's rows one after the other, groups ascending. */
static void exchange_packed_rows(
    comm_t *comm, char *rows, size_t n_rows, size_t row_bytes, const int *owners)
{
    memset(comm->counts, 0, (size_t)comm->n_groups * sizeof *comm->counts);
    for (size_t i = 0; i < n_rows; i++)
        comm->counts[comm->group_of[owners[i]]] += (int)row_bytes;
    int place = 0;
    for (int g = 0; g < comm->n_groups; g++) {
        comm->displs[g] = comm->cursors[g] = place;
        place += comm->counts[g];
    }
    char *packed = comm->staging + comm->displs[comm->group];
    for (size_t i = 0; i < n_rows; i++) {
        if (comm->group_of[owners[i]] == comm->group) {
            memcpy(packed, rows + i * row_bytes, row_bytes);
            packed += row_bytes;
        }
    }
    exchange_run(comm, comm->staging);
    for (size_t i = 0; i < n_rows; i++) {
        int g = comm->group_of[owners[i]];
        if (g != comm->group)
            memcpy(rows + i * row_bytes, comm->staging + comm->cursors[g], row_bytes);
        comm->cursors[g] += (int)row_bytes;
    }
}

/* Collective over the leaders. */
static void exchange_rows(
    comm_t *comm, char *data, size_t n_rows, size_t row_bytes, const int *owners)
{
    size_t rows_at_once = size_max(size_min(comm->staging_bytes, INT_MAX) / row_bytes, 1);
    for (size_t row = 0; row < n_rows; row += rows_at_once) {
        size_t n = size_min(rows_at_once, n_rows - row);
        char *rows = data + row * row_bytes;
        if (n == 1)
            MPI_Bcast(rows, (int)row_bytes, MPI_BYTE, comm->group_of[owners[row]], comm->leaders);
        else
            exchange_packed_rows(comm, rows, n, row_bytes, owners + row);
    }
}

void comm_gather_rows(comm_buffer_t *buffer, size_t n_rows, size_t row_bytes, const int *owners)
{
    comm_t *comm = buffer->comm;
    assert(n_rows * row_bytes <= buffer->bytes && row_bytes <= INT_MAX);
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_GATHER);
    node_barrier_wait(&comm->barrier);
    if (comm->n_groups > 1) {
        if (comm->leaders != MPI_COMM_NULL && row_bytes != 0)
            exchange_rows(comm, buffer->data, n_rows, row_bytes, owners);
        node_barrier_wait(&comm->barrier);
    }
    progress_leave_wait(comm, outer);
}
