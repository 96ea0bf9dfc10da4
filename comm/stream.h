/* A gather whose columns travel while the rest of them is computed: what a phase of many rows does
 * between nodes in place of comm_gather_columns.
 *
 * A rank's part of the buffer is a grid of tiles. A tile that is written is sent at once, and what
 * comes from other nodes is received meanwhile, in pieces that MPI sends without asking the
 * receiver first; data moves on while a rank computes as far as the sockets' buffers hold it, and
 * on every call here. Each rank sends its own part, to one rank of every other node, which receives
 * into the node's window: the ranks of a node share both the sending and the receiving.
 *
 * comm_stream_end is a gather in the sense of comm.h's rule on who may write what when, and between
 * comm_stream_begin and it a rank writes its own part and the parts that it receives. All of these
 * lie in windows of its own node, so the rule has to hold among the ranks of a node only, where
 * every gather ends with a barrier. What a faster node has sent already waits in MPI. A gather ends
 * when all ranks have sent all of their parts, so that is one gather's data at most.
 *
 * Owns requests and datatypes; borrows the buffer. One stream at a time is between begin and end.
 */
#ifndef CHOIR_COMM_STREAM_H
#define CHOIR_COMM_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"

/* Streams pay from so much of a rank's part on: less takes little more than a round trip. */
#define COMM_STREAM_FROM_BYTES ((size_t)64 << 10)
/* And from so many rows on: decoding 16 sequences is 2% slower with streams. */
#define COMM_STREAM_FROM_ROWS 32
/* Tiles are best sent in so many bursts a phase: what MPI and the kernel copy drives the rows that
 * are being multiplied out of the second-level cache (bench/LOG.md). */
#define COMM_STREAM_BURSTS 10

typedef struct comm_stream comm_stream_t;

/* How parts are cut into tiles: columns first, from where the rank's part begins. */
typedef struct comm_tiling {
    size_t bytes; /* of a row; the last tile may be narrower. SIZE_MAX: the whole part */
    size_t rows;  /* the last tile may be lower. SIZE_MAX: all rows */
} comm_tiling_t;

/* Collective. *stream is NULL where a stream would not pay or not work, as on one node.
 * FAIL_MEMORY, FAIL_USAGE, agreed on.
 *
 * For tests, the environment variable CHOIR_STREAM_BYTES=N has gathers go this way from N bytes of
 * an average rank's part on, in place of as many as pay, and below that number from one row on; the
 * lowest N of any rank counts.
 * max_rows: of any gather; stride_bytes, begins: as in comm_gather_columns. begins is borrowed. */
int comm_stream_open(comm_stream_t **stream, comm_buffer_t *buffer, size_t max_rows,
    size_t stride_bytes, const size_t *begins, comm_tiling_t tiling, fail_t *fail);
/* Local. NULL is allowed. */
void comm_stream_close(comm_stream_t *stream);

/* Local; the same on all ranks. Whether so many rows had better go this way. False for NULL. */
bool comm_stream_pays(const comm_stream_t *stream, size_t n_rows);

/* Local. Begins a gather of n_rows rows. rows: where this rank writes its part, the buffer or
 * memory of its own that lies like it: the row 0.
 * whole: every tile is one piece. Parts follow each other, so that part r begins at n_rows *
 * begins[r], in a part its tiles, and how a tile's bytes lie is the caller's own affair. For
 * tilings of all rows, and begins[0] = 0. */
void comm_stream_begin(comm_stream_t *stream, const char *rows, size_t n_rows, bool whole);
/* Local. Tiles of this rank's part, counted row by row of tiles. */
size_t comm_stream_tiles(const comm_stream_t *stream);
/* Local. A tile is written. Each is told once. */
void comm_stream_send(comm_stream_t *stream, size_t tile);
/* Local. Moves what is under way, without waiting. */
void comm_stream_poll(comm_stream_t *stream);
/* Collective. All tiles are sent: waits until every rank sees all of the rows in the buffer. Own
 * columns are there already on their own node, when `rows` was memory elsewhere. */
void comm_stream_end(comm_stream_t *stream);

#endif
