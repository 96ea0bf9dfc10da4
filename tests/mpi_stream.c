/* comm/stream.h at any number of ranks and however they are placed: exact contents, of tiles that
 * lie in rows and of whole ones, while ranks are ahead of each other. */
#include "comm/stream.h"

#include <stdlib.h>
#include <string.h>

#include "tests/comm_fixture.h"

/* Two buffers and their streams, in turn. */
typedef struct streams {
    comm_buffer_t *buffers[2];
    comm_stream_t *streams[2];
    size_t n_rows, stride, *begins;
    comm_tiling_t tiling;
} streams_t;

/* Where columns of a tile lie: row i's column c at data[i * stride + c]. */
typedef struct place {
    char *data;
    size_t stride;
} place_t;

/* Of the tile that begins at column c of a part that ends at `end`. *width: of its columns. */
static place_t place_of(
    const streams_t *s, char *data, bool whole, size_t n_rows, size_t c, size_t end, size_t *width)
{
    *width = end - c < s->tiling.bytes ? end - c : s->tiling.bytes;
    return whole ? (place_t){data + c * (n_rows - 1), *width} : (place_t){data, s->stride};
}

/* Tiles are published from the last to the first, with a poll from time to time. `own`: the
 * part is computed outside of the buffer, and copied there at the end. */
static void stream_and_check(
    context_t *t, const streams_t *s, uint64_t step, size_t n_rows, char *own, bool whole)
{
    comm_stream_t *stream = s->streams[step % 2];
    char *data = comm_buffer_data(s->buffers[step % 2]), *rows = own != NULL ? own : data;
    size_t begin = s->begins[t->rank], end = s->begins[t->rank + 1], width, wrong = 0;
    comm_stream_begin(stream, rows, n_rows, whole);
    for (size_t tile = comm_stream_tiles(stream); tile-- > 0;) {
        size_t across = (end - begin + s->tiling.bytes - 1) / s->tiling.bytes;
        size_t row = tile / across * s->tiling.rows, c = begin + tile % across * s->tiling.bytes;
        place_t to = place_of(s, rows, whole, n_rows, c, end, &width);
        for (size_t i = row; i < n_rows && i < row + s->tiling.rows; i++)
            write_part(to.data, step, i, to.stride, c, c + width);
        comm_stream_send(stream, tile);
        dawdle(t, step + tile);
        if (draw(t, 3) == 0)
            comm_stream_poll(stream);
    }
    for (size_t c = begin; own != NULL && c < end; c += width) {
        place_t from = place_of(s, own, whole, n_rows, c, end, &width);
        place_t to = place_of(s, data, whole, n_rows, c, end, &width);
        for (size_t i = 0; i < n_rows; i++)
            memcpy(to.data + i * to.stride + c, from.data + i * from.stride + c, width);
    }
    comm_stream_end(stream);
    for (int r = 0; r < t->size; r++)
        for (size_t c = s->begins[r]; c < s->begins[r + 1]; c += width) {
            place_t at = place_of(s, data, whole, n_rows, c, s->begins[r + 1], &width);
            for (size_t i = 0; i < n_rows; i++)
                wrong += !part_is(at.data, step, i, at.stride, c, c + width);
        }
    CHECK(t, wrong == 0);
}

static void stream_gathers(context_t *t, streams_t *s)
{
    fail_t fail = {0};
    char *own = malloc(s->n_rows * s->stride);
    for (int b = 0; b < 2; b++) {
        s->buffers[b] = open_buffer(t, s->n_rows * s->stride);
        CHECK(t, comm_stream_open(&s->streams[b], s->buffers[b], s->n_rows, s->stride, s->begins,
                     s->tiling, &fail) == 0);
    }
    CHECK(t, (s->streams[0] == NULL) == (comm_n_nodes(t->comm) == 1));
    CHECK(t, !comm_stream_pays(s->streams[0], 0));
    uint64_t random = t->random;
    for (uint64_t step = 0; step < 12 && s->streams[0] != NULL; step++) {
        size_t n_rows = 1 + hash(step) % s->n_rows;
        bool whole = step % 4 > 1 && s->tiling.rows >= s->n_rows;
        stream_and_check(t, s, step, n_rows, step % 3 == 2 ? own : NULL, whole);
    }
    t->random = random; /* ranks drew differently often */
    for (int b = 0; b < 2; b++) {
        comm_stream_close(s->streams[b]);
        comm_buffer_close(s->buffers[b]);
    }
    free(own);
}

/* Tiles smaller and larger than a message, whole parts, parts without columns; ranks that are ahead
 * of each other. */
static void tiles_arrive_while_others_are_written(context_t *t)
{
    static const comm_tiling_t tilings[] = {{96, 1000}, {1000000, 7}, {33, 5}, {5000, 60}};
    size_t *begins = malloc(((size_t)t->size + 1) * sizeof *begins);
    for (size_t i = 0; i < 3 * sizeof tilings / sizeof *tilings; i++) {
        streams_t s = {
            .n_rows = 61, .stride = 2000 + 40 * i, .begins = begins, .tiling = tilings[i / 3]};
        if (i % 3 == 2)
            s = (streams_t){
                .n_rows = 130, .stride = 9000, .begins = begins, .tiling = tilings[i / 3]};
        random_split(t, s.stride - draw(t, 100), begins);
        stream_gathers(t, &s);
    }
    free(begins);
}

static void a_malformed_threshold_fails_on_all_ranks(context_t *t)
{
    fail_t fail = {0};
    size_t *begins = calloc((size_t)t->size + 1, sizeof *begins);
    comm_buffer_t *buffer = open_buffer(t, 64);
    comm_stream_t *stream = NULL;
    int expected = comm_n_nodes(t->comm) > 1 ? FAIL_USAGE : 0;
    setenv("CHOIR_STREAM_BYTES", "-1", 1);
    CHECK(t, comm_stream_open(&stream, buffer, 1, 64, begins, (comm_tiling_t){64, 1}, &fail) ==
                 expected);
    CHECK(t, stream == NULL &&
                 (expected == 0 || strstr(fail.message, "CHOIR_STREAM_BYTES: expected") != NULL));
    unsetenv("CHOIR_STREAM_BYTES");
    comm_buffer_close(buffer);
    free(begins);
}

static const test_t placed_tests[] = {
    TEST(tiles_arrive_while_others_are_written),
    TEST(a_malformed_threshold_fails_on_all_ranks),
};

int main(int argc, char **argv)
{
    static const suite_t suite = {
        .placed = placed_tests, .n_placed = sizeof placed_tests / sizeof *placed_tests};
    context_t total = {0};
    suite_begin(&argc, &argv);
    suite_run(&suite, &total);
    return suite_end("mpi_stream", &total);
}
