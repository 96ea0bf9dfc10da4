#include "comm/stream.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "comm/internal.h"
#include "comm/watch/progress_record.h"
#include "engine/base/size.h"

/* Open MPI sends up to 64 KiB over TCP, headers included, without a handshake. */
#define PIECE_BYTES ((size_t)60 << 10)
#define FIRST_TAG 1000
#define MOST_PIECES 30000 /* MPI guarantees tags up to 32,767 */
/* Pieces have a few shapes: whole ones, and those at the right and lower edges. */
#define N_SHAPES 8

/* How a rank's part is cut. A tile is sent as several pieces, one below the other. */
typedef struct grid {
    size_t begin, width; /* of the part, bytes of a row */
    size_t tile_bytes, tile_rows, piece_rows;
    size_t tiles_across, tiles_down, pieces_of_tile;
} grid_t;

typedef struct shape {
    size_t rows, bytes;
    MPI_Datatype type; /* MPI_DATATYPE_NULL: free */
} shape_t;

struct comm_stream {
    comm_t *comm;
    comm_buffer_t *buffer;
    size_t stride_bytes, pays_from_bytes, pays_from_rows;
    const size_t *begins;
    comm_tiling_t tiling;
    int *sources, *targets; /* ranks of other groups */
    int n_sources, n_targets;
    MPI_Request *requests;
    int *completed; /* for MPI_Testsome */
    size_t capacity;
    shape_t shapes[N_SHAPES];
    size_t next_shape;
    /* The current gather. */
    const char *rows;
    size_t n_rows;
    bool whole;
    int n_requests;
};

static grid_t cut(const comm_stream_t *s, int rank, size_t n_rows)
{
    grid_t g = {.begin = s->begins[rank], .width = s->begins[rank + 1] - s->begins[rank]};
    if (g.width == 0 || n_rows == 0)
        return g;
    g.tile_bytes = size_min(s->tiling.bytes, g.width);
    g.tile_rows = size_min(s->tiling.rows, n_rows);
    g.tiles_across = (g.width + g.tile_bytes - 1) / g.tile_bytes;
    g.tiles_down = (n_rows + g.tile_rows - 1) / g.tile_rows;
    size_t pieces = (g.tile_rows * g.tile_bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    g.piece_rows = (g.tile_rows + pieces - 1) / pieces;
    g.pieces_of_tile = (g.tile_rows + g.piece_rows - 1) / g.piece_rows;
    return g;
}

/* A rank without columns sends one empty piece, so that no rank can finish before it. */
static size_t count_pieces(const grid_t *g)
{
    return size_max(g->tiles_across * g->tiles_down * g->pieces_of_tile, 1);
}

/* ---- Who sends to whom ----------------------------------------------------------------------- */

static int size_of_group(const comm_t *comm, int group)
{
    int n = 0;
    for (int r = 0; r < comm->size; r++)
        n += comm->group_of[r] == group;
    return n;
}

static int index_in_group(const comm_t *comm, int rank)
{
    int index = 0;
    for (int r = 0; r < rank; r++)
        index += comm->group_of[r] == comm->group_of[rank];
    return index;
}

/* Members of a group receive from the ranks of another in turn. */
static bool receives_from(const comm_t *comm, int receiver, int sender)
{
    int group = comm->group_of[receiver];
    return group != comm->group_of[sender] &&
           index_in_group(comm, sender) % size_of_group(comm, group) ==
               index_in_group(comm, receiver);
}

static void find_peers(comm_stream_t *s)
{
    const comm_t *comm = s->comm;
    for (int i = 1; i < comm->size; i++) {
        /* Ranks begin with different ones. */
        int r = (comm->rank + i) % comm->size;
        if (receives_from(comm, comm->rank, r))
            s->sources[s->n_sources++] = r;
        if (receives_from(comm, r, comm->rank))
            s->targets[s->n_targets++] = r;
    }
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* Local. Whether any part has too many pieces for the tags; the same on all ranks. */
static bool has_tags(const comm_stream_t *s, size_t max_rows)
{
    for (int r = 0; r < s->comm->size; r++) {
        grid_t g = cut(s, r, max_rows);
        if (count_pieces(&g) > MOST_PIECES)
            return false;
    }
    return true;
}

static int reserve(comm_stream_t *s, size_t max_rows, fail_t *fail)
{
    size_t ranks = (size_t)s->comm->size;
    s->sources = calloc(ranks, sizeof *s->sources);
    s->targets = calloc(ranks, sizeof *s->targets);
    if (s->sources == NULL || s->targets == NULL)
        return fail_set(fail, FAIL_MEMORY, "exchange of activations: out of memory");
    find_peers(s);
    grid_t mine = cut(s, s->comm->rank, max_rows);
    s->capacity = (size_t)s->n_targets * count_pieces(&mine);
    for (int i = 0; i < s->n_sources; i++) {
        grid_t theirs = cut(s, s->sources[i], max_rows);
        s->capacity += count_pieces(&theirs);
    }
    s->requests = calloc(size_max(s->capacity, 1), sizeof *s->requests);
    s->completed = calloc(size_max(s->capacity, 1), sizeof *s->completed);
    if (s->requests == NULL || s->completed == NULL)
        return fail_set(fail, FAIL_MEMORY, "exchange of activations: out of memory");
    return 0;
}

/* CHOIR_STREAM_BYTES, see stream.h. */
static int64_t read_threshold(fail_t *fail)
{
    const char *text = getenv("CHOIR_STREAM_BYTES");
    if (text == NULL)
        return COMM_STREAM_FROM_BYTES;
    char *rest;
    long bytes = strtol(text, &rest, 10);
    if (rest == text || *rest != '\0' || bytes < 0)
        fail_set(fail, FAIL_USAGE, "CHOIR_STREAM_BYTES: expected 0 or more, found \"%s\"", text);
    return bytes;
}

int comm_stream_open(comm_stream_t **out, comm_buffer_t *buffer, size_t max_rows,
    size_t stride_bytes, const size_t *begins, comm_tiling_t tiling, fail_t *fail)
{
    comm_t *comm = comm_buffer_group(buffer);
    *out = NULL;
    if (comm->n_nodes == 1 || max_rows == 0)
        return 0;
    comm_stream_t *s = calloc(1, sizeof *s);
    if (s == NULL) {
        fail_set(fail, FAIL_MEMORY, "exchange of activations: out of memory");
    } else {
        *s = (comm_stream_t){.comm = comm,
            .buffer = buffer,
            .stride_bytes = stride_bytes,
            .begins = begins,
            .tiling = tiling};
        for (size_t i = 0; i < N_SHAPES; i++)
            s->shapes[i].type = MPI_DATATYPE_NULL;
        reserve(s, max_rows, fail);
    }
    int64_t threshold = read_threshold(fail);
    if (comm_agree(comm, fail) != 0 || !has_tags(s, max_rows)) {
        comm_stream_close(s);
        return fail->status;
    }
    s->pays_from_bytes = (size_t)comm_min(comm, threshold);
    s->pays_from_rows = s->pays_from_bytes < COMM_STREAM_FROM_BYTES ? 1 : COMM_STREAM_FROM_ROWS;
    *out = s;
    return 0;
}

void comm_stream_close(comm_stream_t *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < N_SHAPES; i++)
        if (s->shapes[i].type != MPI_DATATYPE_NULL)
            MPI_Type_free(&s->shapes[i].type);
    free(s->sources);
    free(s->targets);
    free(s->requests);
    free(s->completed);
    free(s);
}

/* ---- A gather -------------------------------------------------------------------------------- */

bool comm_stream_pays(const comm_stream_t *s, size_t n_rows)
{
    return s != NULL && n_rows >= s->pays_from_rows &&
           n_rows * (s->begins[s->comm->size] - s->begins[0]) / (size_t)s->comm->size >=
               s->pays_from_bytes;
}

/* The datatype of some rows of a tile in place. */
static MPI_Datatype type_of(comm_stream_t *s, size_t rows, size_t bytes)
{
    for (size_t i = 0; i < N_SHAPES; i++)
        if (s->shapes[i].type != MPI_DATATYPE_NULL && s->shapes[i].rows == rows &&
            s->shapes[i].bytes == bytes)
            return s->shapes[i].type;
    shape_t *shape = &s->shapes[s->next_shape++ % N_SHAPES];
    /* MPI keeps it until its pending messages end. */
    if (shape->type != MPI_DATATYPE_NULL)
        MPI_Type_free(&shape->type);
    shape->rows = rows;
    shape->bytes = bytes;
    MPI_Type_create_hvector(
        (int)rows, (int)bytes, (MPI_Aint)s->stride_bytes, MPI_BYTE, &shape->type);
    MPI_Type_commit(&shape->type);
    return shape->type;
}

static MPI_Request *next_request(comm_stream_t *s)
{
    assert((size_t)s->n_requests < s->capacity);
    return &s->requests[s->n_requests++];
}

/* A piece's address, datatype and tag. */
typedef struct piece {
    size_t offset;
    int count;
    MPI_Datatype type;
    int tag;
} piece_t;

/* Piece k of a tile; false when the tile, at the lower edge, has no such piece. */
static bool find_piece(
    comm_stream_t *s, const grid_t *g, size_t down, size_t across, size_t k, piece_t *piece)
{
    size_t row = down * g->tile_rows + k * g->piece_rows;
    size_t end = size_min((down + 1) * g->tile_rows, s->n_rows), column = across * g->tile_bytes;
    if (row >= end)
        return false;
    size_t n_rows = size_min(g->piece_rows, end - row);
    size_t bytes = size_min(g->tile_bytes, g->width - column);
    if (s->whole) {
        piece->offset = s->n_rows * (g->begin + column) + row * bytes;
        piece->count = (int)(n_rows * bytes);
        piece->type = MPI_BYTE;
    } else {
        piece->offset = row * s->stride_bytes + g->begin + column;
        piece->count = 1;
        piece->type = type_of(s, n_rows, bytes);
    }
    piece->tag = FIRST_TAG + (int)((down * g->pieces_of_tile + k) * g->tiles_across + across);
    return true;
}

static void receive_part(comm_stream_t *s, int source)
{
    const grid_t g = cut(s, source, s->n_rows);
    char *data = comm_buffer_data(s->buffer);
    piece_t piece;
    if (g.width == 0)
        MPI_Irecv(data, 0, MPI_BYTE, source, FIRST_TAG, s->comm->world, next_request(s));
    for (size_t down = 0; down < g.tiles_down; down++)
        for (size_t across = 0; across < g.tiles_across; across++)
            for (size_t k = 0; k < g.pieces_of_tile; k++)
                if (find_piece(s, &g, down, across, k, &piece))
                    MPI_Irecv(data + piece.offset, piece.count, piece.type, source, piece.tag,
                        s->comm->world, next_request(s));
}

void comm_stream_begin(comm_stream_t *s, const char *rows, size_t n_rows, bool whole)
{
    s->rows = rows;
    s->whole = whole;
    s->n_rows = n_rows;
    s->n_requests = 0;
    for (int i = 0; i < s->n_sources; i++)
        receive_part(s, s->sources[i]);
}

size_t comm_stream_tiles(const comm_stream_t *s)
{
    const grid_t g = cut(s, s->comm->rank, s->n_rows);
    return g.tiles_down * g.tiles_across;
}

void comm_stream_send(comm_stream_t *s, size_t tile)
{
    const grid_t g = cut(s, s->comm->rank, s->n_rows);
    piece_t piece;
    for (size_t k = 0; k < g.pieces_of_tile; k++)
        for (int i = 0; i < s->n_targets; i++)
            if (find_piece(s, &g, tile / g.tiles_across, tile % g.tiles_across, k, &piece))
                MPI_Isend(s->rows + piece.offset, piece.count, piece.type, s->targets[i], piece.tag,
                    s->comm->world, next_request(s));
}

void comm_stream_poll(comm_stream_t *s)
{
    int n;
    do
        MPI_Testsome(s->n_requests, s->requests, &n, s->completed, MPI_STATUSES_IGNORE);
    while (n != MPI_UNDEFINED && n > 0);
}

void comm_stream_end(comm_stream_t *s)
{
    comm_t *comm = s->comm;
    progress_wait_t outer = progress_enter_wait(comm, PROGRESS_WAIT_GATHER);
    if (s->begins[comm->rank] == s->begins[comm->rank + 1])
        for (int i = 0; i < s->n_targets; i++)
            MPI_Isend(s->rows, 0, MPI_BYTE, s->targets[i], FIRST_TAG, comm->world, next_request(s));
    MPI_Waitall(s->n_requests, s->requests, MPI_STATUSES_IGNORE);
    node_barrier_wait(&comm->barrier);
    progress_leave_wait(comm, outer);
}
