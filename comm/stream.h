/* A gather that sends columns while the rest of them is computed. Phases of many rows use it
 * between nodes in place of comm_gather_columns.
 *
 * A rank's part of the buffer is a grid of tiles. A completed tile is sent at once, and tiles of
 * other nodes are received meanwhile, in messages that MPI sends without a handshake. Data moves
 * while a rank computes, as far as socket buffers hold it, and on every call here. Each rank sends
 * its own part to one rank of every other node, which receives into the node's window: the ranks of
 * a node share both the sending and the receiving.
 *
 * comm_stream_end is a gather in the sense of comm.h's rule on who may write what when. Between
 * comm_stream_begin and comm_stream_end a rank writes its own part and the parts that it receives.
 * All of these are in windows of its own node, so the rule has to hold among the ranks of a node
 * only, where every gather ends with a barrier. Data that a faster node has sent already waits in
 * MPI. A gather ends when all ranks have sent all of their parts, so that is at most one gather's
 * data.
 *
 * Owns requests and datatypes; borrows the buffer. One stream at a time is between begin and end.
 */
#ifndef CHOIR_COMM_STREAM_H
#define CHOIR_COMM_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"

/* Streaming is faster from this size of a rank's part on: less takes little more than a round
 * trip. */
#define COMM_STREAM_FROM_BYTES ((size_t)64 << 10)
/* And from this number of rows on: decoding 16 sequences is 2% slower with streams. */
#define COMM_STREAM_FROM_ROWS 32
/* Bursts of tiles to send in a phase: copies by MPI and the kernel evict the rows that are being
 * multiplied from L2, so few bursts are faster (bench/LOG.md). */
#define COMM_STREAM_BURSTS 10

typedef struct comm_stream comm_stream_t;

/* How parts are cut into tiles: columns first, from where the rank's part begins. */
typedef struct comm_tiling {
    size_t bytes; /* of a row; the last tile may be narrower. SIZE_MAX: the whole part */
    size_t rows;  /* the last tile may be lower. SIZE_MAX: all rows */
} comm_tiling_t;

/* Collective. *stream is NULL where a stream would not be faster or not work, as on one node.
 * FAIL_MEMORY, FAIL_USAGE, agreed on.
 *
 * For tests, the environment variable CHOIR_STREAM_BYTES=N replaces COMM_STREAM_FROM_BYTES; if N is
 * lower, gathers of any number of rows are streamed. The lowest N of any rank counts.
 * max_rows: of any gather; stride_bytes, begins: as in comm_gather_columns. begins is borrowed. */
int comm_stream_open(comm_stream_t **stream, comm_buffer_t *buffer, size_t max_rows,
    size_t stride_bytes, const size_t *begins, comm_tiling_t tiling, fail_t *fail);
/* Local. NULL is allowed. */
void comm_stream_close(comm_stream_t *stream);

/* Local; the same on all ranks. True if streaming n_rows rows is faster. False for NULL. */
bool comm_stream_pays(const comm_stream_t *stream, size_t n_rows);

/* Local. Begins a gather of n_rows rows. rows: row 0 of the memory that this rank writes: the
 * buffer, or private memory with the same layout.
 * whole: every tile is contiguous. Part r begins at n_rows * begins[r]; its tiles follow each
 * other. The layout within a tile is opaque to comm. For tilings of all rows, with begins[0] =
 * 0. */
void comm_stream_begin(comm_stream_t *stream, const char *rows, size_t n_rows, bool whole);
/* Local. Tiles of this rank's part, counted row by row of tiles. */
size_t comm_stream_tiles(const comm_stream_t *stream);
/* Local. A tile is complete. Call once per tile. */
void comm_stream_send(comm_stream_t *stream, size_t tile);
/* Local. Makes progress on pending messages, without waiting. */
void comm_stream_poll(comm_stream_t *stream);
/* Collective. After all tiles: waits until every rank sees all of the rows in the buffer. Own
 * columns are there already on their own node, when `rows` was memory elsewhere. */
void comm_stream_end(comm_stream_t *stream);

#endif
