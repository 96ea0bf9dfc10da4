/* comm/comm.h at any number of ranks: exact contents through every path (shared windows, pretended
 * nodes in and out of order, plain MPI), agreement on errors, and hazards between alternating
 * buffers.
 *
 * A failed check is printed and counted but never ends its rank early, so the others are not left
 * waiting; the ranks add up their counts at the end. */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm.h"
#include "comm/stream.h"
#include "engine/base/memory.h"

#define HANG_SECONDS 240

typedef struct context {
    comm_t *comm;
    comm_path_t path;
    int rank, size;
    uint64_t random; /* the same sequence on all ranks */
    const char *setting, *test;
    int64_t checks, failures;
} context_t;

static void check(context_t *t, bool holds, const char *condition, int line)
{
    t->checks++;
    if (holds)
        return;
    if (t->failures++ < 5)
        fprintf(stderr, "mpi_comm.c:%d: rank %d of %d, %s, %s: expected %s\n", line, t->rank,
            t->size, t->setting, t->test, condition);
}

#define CHECK(t, condition) check(t, condition, #condition, __LINE__)

static uint64_t hash(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 27)) * 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 32);
}

static size_t draw(context_t *t, size_t n)
{
    t->random = hash(t->random + 0x632be59bd9b4e019u);
    return (size_t)(t->random % n);
}

/* Ranks drift apart a little, each in its own way. */
static void dawdle(const context_t *t, uint64_t step)
{
    for (uint64_t n = hash(step * 64 + (uint64_t)t->rank) % 3; n > 0; n--)
        sched_yield();
}

/* Eight bytes of what row `row` shall hold in some step, beginning at column 8 * word. */
static uint64_t pattern(uint64_t step, size_t row, size_t word)
{
    return hash(step * 7919 + row * 104729 + word);
}

static void write_part(
    char *data, uint64_t step, size_t row, size_t stride, size_t begin, size_t end)
{
    for (size_t c = begin; c < end; c++)
        data[row * stride + c] = (char)(pattern(step, row, c / 8) >> (c % 8 * 8));
}

static bool row_is(const char *data, uint64_t step, size_t row, size_t stride, size_t end)
{
    for (size_t c = 0; c < end; c += 8) {
        uint64_t word = pattern(step, row, c / 8); /* little-endian, as write_part */
        size_t bytes = end - c < 8 ? end - c : 8;
        for (size_t b = 0; b < bytes; b++, word >>= 8)
            if ((uint8_t)data[row * stride + c + b] != (uint8_t)word)
                return false;
    }
    return true;
}

static bool all_are(const char *data, size_t bytes, int value)
{
    for (size_t i = 0; i < bytes; i++)
        if (data[i] != (char)value)
            return false;
    return true;
}

/* Splits [0, total) at random; some parts empty, now and then all but one. */
static void random_split(context_t *t, size_t total, size_t *begins)
{
    size_t style = draw(t, 4);
    begins[0] = 0;
    begins[t->size] = total;
    for (int r = 1; r < t->size; r++) {
        if (style == 0)
            begins[r] = total * (size_t)r / (size_t)t->size;
        else if (style == 1)
            begins[r] = r > (int)(t->random >> 40) % t->size ? total : 0;
        else
            begins[r] = draw(t, total + 1);
    }
    for (int i = 1; i < t->size; i++)
        for (int j = i; j > 1 && begins[j - 1] > begins[j]; j--) {
            size_t swap = begins[j];
            begins[j] = begins[j - 1];
            begins[j - 1] = swap;
        }
}

static comm_buffer_t *open_buffer(context_t *t, size_t bytes)
{
    fail_t fail = {0};
    comm_buffer_t *buffer = NULL;
    CHECK(t, comm_buffer_open(t->comm, bytes, "test buffer", &buffer, &fail) == 0);
    return buffer;
}

static void numbers_reduce_over_all_ranks(context_t *t)
{
    int64_t big = (int64_t)1 << 40;
    CHECK(t, comm_min(t->comm, big - t->rank) == big - (t->size - 1));
    CHECK(t, comm_max(t->comm, -big - t->rank) == -big);
    CHECK(t, comm_sum(t->comm, big + t->rank) == big * t->size + t->size * (t->size - 1) / 2);
}

static void floats_add_over_all_ranks(context_t *t)
{
    float f32[1001];
    double f64[77];
    for (int i = 0; i < 1001; i++)
        f32[i] = (float)(i * (t->rank + 1));
    for (int i = 0; i < 77; i++)
        f64[i] = (double)(i * (t->rank + 1)) * 1e9;
    comm_allreduce_f32(t->comm, f32, 1001);
    comm_allreduce_f64(t->comm, f64, 77);
    int ranks = t->size * (t->size + 1) / 2;
    int wrong = 0;
    for (int i = 0; i < 1001; i++)
        wrong += f32[i] != (float)(i * ranks);
    for (int i = 0; i < 77; i++)
        wrong += f64[i] != (double)(i * ranks) * 1e9;
    CHECK(t, wrong == 0);
    comm_allreduce_f32(t->comm, NULL, 0);
}

static void broadcasts_reach_every_rank(context_t *t)
{
    static const size_t sizes[] = {0, 1, 13, 4095, 4096, 4097, 100003, 3000001};
    char *data = malloc(3000001);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int patient = 0; patient < 2; patient++) {
            uint64_t step = 2 * i + (uint64_t)patient;
            memset(data, 0, sizes[i]);
            if (t->rank == 0)
                write_part(data, step, 0, 0, 0, sizes[i]);
            if (patient)
                comm_bcast_patient(t->comm, data, sizes[i]);
            else
                comm_bcast(t->comm, data, sizes[i]);
            CHECK(t, row_is(data, step, 0, 0, sizes[i]));
        }
    }
    free(data);
}

static void patient_receivers_outlast_a_thinking_user(context_t *t)
{
    char small[64] = {0}, *large = calloc(1, 200000);
    for (uint64_t step = 1; step < 3; step++) {
        if (t->rank == 0) {
            nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
            write_part(small, step, 0, 0, 0, sizeof small);
            write_part(large, step, 0, 0, 0, 200000);
        }
        comm_bcast_patient(t->comm, small, sizeof small);
        comm_bcast_patient(t->comm, large, 200000);
        CHECK(t, row_is(small, step, 0, 0, sizeof small));
        CHECK(t, row_is(large, step, 0, 0, 200000));
    }
    free(large);
}

static void gathers_to_rank_0_keep_rank_order(context_t *t)
{
    static const size_t sizes[] = {0, 1, 7, 64, 5003, 200001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t bytes = sizes[i], total = bytes * (size_t)t->size;
        char *mine = malloc(bytes + 1), *all = malloc(total + 1);
        write_part(mine, i, (size_t)t->rank, 0, 0, bytes);
        memset(all, 0x5a, total + 1);
        comm_gather_root(t->comm, mine, bytes, all);
        for (int r = 0; r < t->size; r++)
            CHECK(t, t->rank != 0 || row_is(all + (size_t)r * bytes, i, (size_t)r, 0, bytes));
        CHECK(t, t->rank == 0 || all_are(all, total, 0x5a));
        CHECK(t, all[total] == 0x5a);
        memset(all, 0x5a, total + 1);
        comm_allgather(t->comm, mine, bytes, all);
        for (int r = 0; r < t->size; r++)
            CHECK(t, row_is(all + (size_t)r * bytes, i, (size_t)r, 0, bytes));
        CHECK(t, all[total] == 0x5a);
        free(mine);
        free(all);
    }
}

static void gathers_of_unequal_parts_keep_rank_order(context_t *t)
{
    size_t *counts = malloc((size_t)t->size * sizeof *counts);
    for (uint64_t step = 0; step < 20; step++) {
        size_t total = 0;
        for (int r = 0; r < t->size; r++)
            total += counts[r] = draw(t, 3) == 0 ? 0 : draw(t, step % 2 ? 70000 : 50);
        char *mine = malloc(counts[t->rank] + 1), *all = t->rank == 0 ? malloc(total + 1) : NULL;
        write_part(mine, step, (size_t)t->rank, 0, 0, counts[t->rank]);
        comm_gatherv_root(t->comm, mine, counts, all);
        size_t begin = 0;
        for (int r = 0; r < t->size && t->rank == 0; r++) {
            CHECK(t, row_is(all + begin, step, (size_t)r, 0, counts[r]));
            begin += counts[r];
        }
        free(mine);
        free(all);
    }
    free(counts);
}

static void ranks_agree_when_all_is_well(context_t *t)
{
    fail_t fail = {0};
    CHECK(t, comm_agree(t->comm, &fail) == 0);
    CHECK(t, comm_agree_same(t->comm, 0, "nothing", &fail) == 0);
    CHECK(t, comm_agree_same(t->comm, UINT64_MAX, "everything", &fail) == 0);
    CHECK(t, fail.status == 0);
}

static void one_failing_rank_is_heard_by_all(context_t *t)
{
    for (int culprit = 0; culprit < t->size; culprit++) {
        fail_t fail = {0};
        char expected[FAIL_MESSAGE_BYTES];
        if (t->rank == culprit)
            fail_set(&fail, FAIL_FORMAT, "model.safetensors: expected %d, found 7", culprit);
        int length = t->size > 1 ? snprintf(expected, sizeof expected, "rank %d: ", culprit) : 0;
        snprintf(expected + length, sizeof expected - (size_t)length,
            "model.safetensors: expected %d, found 7", culprit);
        CHECK(t, comm_agree(t->comm, &fail) == FAIL_FORMAT);
        CHECK(t, fail.status == FAIL_FORMAT);
        CHECK(t, strcmp(fail.message, expected) == 0);
        /* What all know already travels on unchanged. */
        CHECK(t, comm_agree(t->comm, &fail) == FAIL_FORMAT);
        CHECK(t, strcmp(fail.message, expected) == 0);
    }
}

static void the_lowest_status_and_then_the_lowest_rank_win(context_t *t)
{
    fail_t fail = {0};
    if (t->rank > 0)
        fail_set(&fail, t->rank == t->size - 1 ? FAIL_INTERNAL : FAIL_FILE, "mine is %d", t->rank);
    int status = comm_agree(t->comm, &fail);
    char expected[64];
    snprintf(expected, sizeof expected, "rank %d: mine is %d", t->size - 1, t->size - 1);
    CHECK(t, status == (t->size > 1 ? FAIL_INTERNAL : 0));
    CHECK(t, t->size == 1 || strcmp(fail.message, expected) == 0);

    fail = (fail_t){0};
    fail_set(&fail, FAIL_FILE, "mine is %d", t->rank);
    CHECK(t, comm_agree(t->comm, &fail) == FAIL_FILE);
    CHECK(t, strcmp(fail.message, t->size > 1 ? "rank 0: mine is 0" : "mine is 0") == 0);
}

static void a_failure_common_to_all_names_no_rank(context_t *t)
{
    fail_t fail = {0};
    fail_set(&fail, FAIL_USAGE, "--ranks: unknown flag");
    CHECK(t, comm_agree(t->comm, &fail) == FAIL_USAGE);
    CHECK(t, strcmp(fail.message, "--ranks: unknown flag") == 0);
}

static void the_longest_message_fits(context_t *t)
{
    fail_t fail = {0};
    if (t->rank == t->size - 1) {
        fail.status = FAIL_FILE;
        memset(fail.message, 'x', FAIL_MESSAGE_BYTES - 1);
    }
    CHECK(t, comm_agree(t->comm, &fail) == FAIL_FILE);
    CHECK(t, strlen(fail.message) == FAIL_MESSAGE_BYTES - 1);
}

static void differing_values_are_named_on_all_ranks(context_t *t)
{
    for (int odd = 1; odd < t->size; odd++) {
        fail_t fail = {0};
        char expected[FAIL_MESSAGE_BYTES];
        uint64_t value = t->rank == odd ? 0xdeadbeefcafe : t->rank > odd ? 3 : 0x8000000000000000;
        snprintf(expected, sizeof expected,
            "config digest: expected the same on all ranks, rank 0 has 8000000000000000, rank %d "
            "has "
            "0000deadbeefcafe",
            odd);
        CHECK(t, comm_agree_same(t->comm, value, "config digest", &fail) == FAIL_MODEL);
        CHECK(t, strcmp(fail.message, expected) == 0);
    }
    fail_t fail = {0};
    if (t->rank == t->size / 2)
        fail_set(&fail, FAIL_FILE, "config.json: not found");
    CHECK(t, comm_agree_same(t->comm, (uint64_t)t->rank, "config digest", &fail) == FAIL_FILE);
    CHECK(t, strstr(fail.message, "config.json: not found") != NULL);
}

static void buffers_start_zeroed_and_aligned(context_t *t)
{
    static const size_t sizes[] = {0, 1, 63, 4097, 5000001};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        comm_buffer_t *buffer = open_buffer(t, sizes[i]);
        const char *data = comm_buffer_data(buffer);
        CHECK(t, all_are(data, sizes[i], 0));
        CHECK(t, (uintptr_t)data % 64 == 0);
        /* Nobody writes before all have looked. */
        comm_barrier(t->comm);
        memset(comm_buffer_data(buffer), 0xff, sizes[i]);
        comm_buffer_close(buffer);
    }
    comm_buffer_close(NULL);
}

static void a_buffer_beyond_all_memory_fails_on_all_ranks(context_t *t)
{
    fail_t fail = {0};
    comm_buffer_t *buffer = NULL;
    int status = comm_buffer_open(t->comm, (size_t)1 << 46, "activations", &buffer, &fail);
    CHECK(t, status == FAIL_MEMORY && buffer == NULL);
    CHECK(t, strstr(fail.message, "activations: needs 67108864.0 MiB of ") != NULL);
    CHECK(t, strstr(fail.message, " MiB free") != NULL);
}

static void an_allocation_that_fails_on_one_rank_fails_on_all(context_t *t)
{
    for (int culprit = 0; culprit < t->size; culprit++) {
        fail_t fail = {0};
        comm_buffer_t *buffer = NULL;
        memory_fail_nth(t->rank == culprit ? 1 : 0);
        int status = comm_buffer_open(t->comm, 4000, "activations", &buffer, &fail);
        memory_fail_nth(0);
        /* Windows are not memory_alloc's, so with them this may succeed. */
        CHECK(t, (status == 0) == (buffer != NULL));
        CHECK(t, t->path != COMM_MPI || status == FAIL_MEMORY);
        CHECK(t, comm_min(t->comm, status) == comm_max(t->comm, status));
        comm_buffer_close(buffer);
    }
}

/* Gathers n_rows rows through a buffer and checks all of it, and that what lies beyond stays. */
static void gather_and_check(context_t *t, comm_buffer_t *buffer, uint64_t step, size_t n_rows,
    size_t stride, const size_t *begins)
{
    char *data = comm_buffer_data(buffer);
    for (size_t row = 0; row < n_rows; row++)
        write_part(data, step, row, stride, begins[t->rank], begins[t->rank + 1]);
    dawdle(t, step);
    comm_gather_columns(buffer, n_rows, stride, begins);
    for (size_t row = 0; row < n_rows; row++) {
        CHECK(t, row_is(data, step, row, stride, begins[t->size]));
        if (row + 1 < n_rows)
            CHECK(
                t, all_are(data + row * stride + begins[t->size], stride - begins[t->size], 0x11));
    }
}

static void columns_gather_with_any_split(context_t *t)
{
    size_t max_rows = 9, max_stride = 700;
    comm_buffer_t *buffers[2];
    size_t *begins = malloc(((size_t)t->size + 1) * sizeof *begins);
    for (int b = 0; b < 2; b++)
        buffers[b] = open_buffer(t, max_rows * max_stride);
    for (uint64_t step = 0; step < 120; step++) {
        comm_buffer_t *buffer = buffers[step % 2];
        size_t n_rows = draw(t, 3) == 0 ? 1 : draw(t, max_rows + 1);
        size_t stride = 1 + draw(t, max_stride);
        random_split(t, stride - draw(t, stride / 3 + 1), begins);
        comm_barrier(t->comm);
        memset(comm_buffer_data(buffer), 0x11, max_rows * max_stride);
        comm_barrier(t->comm);
        gather_and_check(t, buffer, step, n_rows, stride, begins);
    }
    for (int b = 0; b < 2; b++)
        comm_buffer_close(buffers[b]);
    free(begins);
}

/* More rows than are packed at once, and rows larger than that. */
static void long_prompts_gather_in_pieces(context_t *t)
{
    static const size_t shapes[][2] = {{500, 9001}, {2, 4200011}};
    size_t *begins = malloc(((size_t)t->size + 1) * sizeof *begins);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        size_t n_rows = shapes[i][0], stride = shapes[i][1];
        comm_buffer_t *buffer = open_buffer(t, n_rows * stride);
        char *data = comm_buffer_data(buffer);
        for (int r = 0; r <= t->size; r++)
            begins[r] = stride * (size_t)r / (size_t)t->size;
        size_t width = begins[t->rank + 1] - begins[t->rank];
        for (size_t row = 0; row < n_rows; row++)
            memset(data + row * stride + begins[t->rank], (int)(row * 31 + (size_t)t->rank), width);
        comm_gather_columns(buffer, n_rows, stride, begins);
        for (size_t row = 0; row < n_rows; row++)
            for (int r = 0; r < t->size; r++)
                CHECK(t, all_are(data + row * stride + begins[r], begins[r + 1] - begins[r],
                             (int)(row * 31 + (size_t)r)));
        comm_buffer_close(buffer);
    }
    free(begins);
}

static void gather_rows_and_check(context_t *t, comm_buffer_t *buffer, uint64_t step, size_t n_rows,
    size_t row_bytes, const int *owners)
{
    char *data = comm_buffer_data(buffer);
    for (size_t row = 0; row < n_rows; row++)
        if (owners[row] == t->rank)
            write_part(data, step, row, row_bytes, 0, row_bytes);
    dawdle(t, step);
    comm_gather_rows(buffer, n_rows, row_bytes, owners);
    for (size_t row = 0; row < n_rows; row++)
        CHECK(t, row_is(data, step, row, row_bytes, row_bytes));
}

static void rows_gather_from_any_owner(context_t *t)
{
    enum { MAX_ROWS = 40, MAX_BYTES = 3000 };
    comm_buffer_t *buffers[2];
    int owners[MAX_ROWS];
    for (int b = 0; b < 2; b++)
        buffers[b] = open_buffer(t, MAX_ROWS * MAX_BYTES);
    for (uint64_t step = 0; step < 60; step++) {
        size_t n_rows = draw(t, 4) == 0 ? 1 : draw(t, MAX_ROWS + 1), row_bytes = draw(t, MAX_BYTES);
        int favourite = draw(t, 5) == 0 ? (int)draw(t, (size_t)t->size) : -1;
        for (size_t i = 0; i < n_rows; i++)
            owners[i] = favourite >= 0 ? favourite : (int)draw(t, (size_t)t->size);
        gather_rows_and_check(t, buffers[step % 2], step, n_rows, row_bytes, owners);
    }
    for (int b = 0; b < 2; b++)
        comm_buffer_close(buffers[b]);
}

static void many_embedding_rows_gather_in_pieces(context_t *t)
{
    enum { ROWS = 500, BYTES = 9001 };
    comm_buffer_t *buffer = open_buffer(t, (size_t)ROWS * BYTES);
    char *data = comm_buffer_data(buffer);
    int owners[ROWS];
    for (size_t row = 0; row < ROWS; row++) {
        owners[row] = (int)draw(t, (size_t)t->size);
        if (owners[row] == t->rank)
            memset(data + row * BYTES, (int)(row % 251) + 1, BYTES);
    }
    comm_gather_rows(buffer, ROWS, BYTES, owners);
    for (size_t row = 0; row < ROWS; row++)
        CHECK(t, all_are(data + row * BYTES, BYTES, (int)(row % 251) + 1));
    comm_buffer_close(buffer);
}

/* A row longer than the staging area of any buffer opened before. */
static void one_huge_row_gathers(context_t *t)
{
    size_t bytes = 4500007;
    comm_buffer_t *buffer = open_buffer(t, 2 * bytes);
    char *data = comm_buffer_data(buffer);
    int owners[2] = {t->size - 1, t->size / 2};
    for (int row = 0; row < 2; row++)
        if (owners[row] == t->rank)
            memset(data + (size_t)row * bytes, 0x21 + row, bytes);
    comm_gather_rows(buffer, 2, bytes, owners);
    CHECK(t, all_are(data, bytes, 0x21));
    CHECK(t, all_are(data + bytes, bytes, 0x22));
    comm_buffer_close(buffer);
}

/* Two buffers in turn, as a forward pass uses them: what one gather brought must stay while another
 * rank, ahead, is already writing the next. */
static void alternating_buffers_never_mix_steps(context_t *t)
{
    enum { BYTES = 256 };
    comm_buffer_t *buffers[2];
    size_t *begins = malloc(((size_t)t->size + 1) * sizeof *begins);
    for (int b = 0; b < 2; b++)
        buffers[b] = open_buffer(t, BYTES);
    uint64_t steps = t->path == COMM_MPI || comm_n_nodes(t->comm) > 1 ? 1000 : 4000, wrong = 0;
    for (uint64_t step = 0; step < steps; step++) {
        uint64_t *words = comm_buffer_data(buffers[step % 2]);
        size_t n_words = BYTES / sizeof *words;
        for (int r = 0; r <= t->size; r++)
            begins[r] = n_words * (size_t)r / (size_t)t->size * sizeof *words;
        for (size_t w = begins[t->rank] / 8; w < begins[t->rank + 1] / 8; w++)
            words[w] = hash(step * 1000 + w);
        if (step % 16 == 0)
            dawdle(t, step);
        comm_gather_columns(buffers[step % 2], 1, BYTES, begins);
        if (step % 32 == 5)
            dawdle(t, step);
        for (size_t w = 0; w < n_words; w++)
            wrong += words[w] != hash(step * 1000 + w);
    }
    CHECK(t, wrong == 0);
    for (int b = 0; b < 2; b++)
        comm_buffer_close(buffers[b]);
    free(begins);
}

/* Two buffers and their streams, in turn. */
typedef struct streams {
    comm_buffer_t *buffers[2];
    comm_stream_t *streams[2];
    size_t n_rows, stride, *begins;
    comm_tiling_t tiling;
} streams_t;

/* Tiles are told from the last to the first, now and then with a look at what has come. `own`: the
 * part is computed outside of the buffer, and copied there at the end. */
static void stream_and_check(
    context_t *t, const streams_t *s, uint64_t step, size_t n_rows, char *own)
{
    comm_stream_t *stream = s->streams[step % 2];
    char *data = comm_buffer_data(s->buffers[step % 2]), *rows = own != NULL ? own : data;
    size_t begin = s->begins[t->rank], end = s->begins[t->rank + 1], wrong = 0;
    comm_stream_begin(stream, rows, n_rows, false);
    for (size_t tile = comm_stream_tiles(stream); tile-- > 0;) {
        size_t across = (end - begin + s->tiling.bytes - 1) / s->tiling.bytes;
        size_t row = tile / across * s->tiling.rows, c = begin + tile % across * s->tiling.bytes;
        for (size_t i = row; i < n_rows && i < row + s->tiling.rows; i++)
            write_part(
                rows, step, i, s->stride, c, c + s->tiling.bytes < end ? c + s->tiling.bytes : end);
        comm_stream_send(stream, tile);
        dawdle(t, step + tile);
        if (draw(t, 3) == 0)
            comm_stream_poll(stream);
    }
    for (size_t i = 0; i < n_rows && own != NULL; i++)
        memcpy(data + i * s->stride + begin, own + i * s->stride + begin, end - begin);
    comm_stream_end(stream);
    for (size_t i = 0; i < n_rows; i++)
        wrong += !row_is(data, step, i, s->stride, s->begins[t->size]);
    CHECK(t, wrong == 0);
}

/* Where the bytes from column c of part r on begin in its tile, and how far rows are apart there.
 */
static char *tile_at(char *data, const streams_t *s, size_t n_rows, int r, size_t c, size_t *apart)
{
    size_t begin = s->begins[r], end = s->begins[r + 1];
    size_t first = begin + (c - begin) / s->tiling.bytes * s->tiling.bytes;
    *apart = end - first < s->tiling.bytes ? end - first : s->tiling.bytes;
    return data + first * n_rows + (c - first);
}

/* The same with whole tiles. */
static void stream_whole_tiles_and_check(
    context_t *t, const streams_t *s, uint64_t step, size_t n_rows, char *own)
{
    comm_stream_t *stream = s->streams[step % 2];
    char *data = comm_buffer_data(s->buffers[step % 2]), *rows = own != NULL ? own : data;
    size_t begin = s->begins[t->rank], end = s->begins[t->rank + 1], apart, wrong = 0;
    comm_stream_begin(stream, rows, n_rows, true);
    for (size_t tile = comm_stream_tiles(stream); tile-- > 0;) {
        for (size_t c = begin + tile * s->tiling.bytes;
             c < end && c < begin + (tile + 1) * s->tiling.bytes; c++) {
            char *to = tile_at(rows, s, n_rows, t->rank, c, &apart);
            for (size_t i = 0; i < n_rows; i++)
                to[i * apart] = (char)pattern(step, i, c);
        }
        comm_stream_send(stream, tile);
        dawdle(t, step + tile);
        if (draw(t, 3) == 0)
            comm_stream_poll(stream);
    }
    if (own != NULL)
        memcpy(data + begin * n_rows, own + begin * n_rows, (end - begin) * n_rows);
    comm_stream_end(stream);
    for (int r = 0; r < t->size; r++)
        for (size_t c = s->begins[r]; c < s->begins[r + 1]; c++) {
            const char *from = tile_at(data, s, n_rows, r, c, &apart);
            for (size_t i = 0; i < n_rows; i++)
                wrong += from[i * apart] != (char)pattern(step, i, c);
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
        char *apart = step % 3 == 2 ? own : NULL;
        if (step % 4 > 1 && s->tiling.rows >= s->n_rows)
            stream_whole_tiles_and_check(t, s, step, n_rows, apart);
        else
            stream_and_check(t, s, step, n_rows, apart);
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

/* A message that its sender believes sent must arrive although the sender now waits at a gather. */
static void messages_arrive_while_their_sender_waits_at_a_gather(context_t *t)
{
    size_t *begins = calloc((size_t)t->size + 1, sizeof *begins);
    size_t counts[64] = {0}, total = 0;
    begins[t->size] = 0;
    comm_buffer_t *buffer = open_buffer(t, 64);
    char *data = malloc(300000);
    for (int r = 0; r < t->size && r < 64; r++)
        total += counts[r] = 3000;
    char *all = malloc(total);
    for (uint64_t step = 0; step < 50; step++) {
        if (t->rank == 0)
            write_part(data, step, 0, 0, 0, 300000);
        comm_bcast(t->comm, data, step % 2 ? 300000 : 3000);
        CHECK(t, row_is(data, step, 0, 0, step % 2 ? 300000 : 3000));
        comm_gatherv_root(t->comm, data, counts, all);
        comm_gather_columns(buffer, 1, 64, begins);
    }
    comm_buffer_close(buffer);
    free(all);
    free(data);
    free(begins);
}

static void threads_beyond_the_machine_count_as_oversubscribed(context_t *t)
{
    comm_set_threads(t->comm, 1000000);
    CHECK(t, comm_oversubscribed(t->comm));
    comm_set_threads(t->comm, 1);
    int64_t yields = comm_oversubscribed(t->comm);
    CHECK(t, comm_min(t->comm, yields) == comm_max(t->comm, yields));
    CHECK(t, comm_binding_ranks(t->comm) >= 1 && comm_binding_ranks(t->comm) <= t->size);
}

typedef struct setting {
    const char *name;
    const char *ranks_per_node; /* CHOIR_RANKS_PER_NODE or NULL */
    comm_path_t path;
    int per_node; /* 0: all on one */
    bool cyclic;
    const char *exchange; /* CHOIR_EXCHANGE or NULL */
} setting_t;

static const setting_t settings[] = {
    {"one node", NULL, COMM_AUTO, 0, false, NULL},
    {"plain MPI", NULL, COMM_MPI, 0, false, NULL},
    {"nodes of 1", "1", COMM_AUTO, 1, false, "direct"},
    {"nodes of 1 by doubling", "1", COMM_AUTO, 1, false, "doubling"},
    {"nodes of 2", "2", COMM_AUTO, 2, false, NULL},
    {"nodes of 3", "3", COMM_AUTO, 3, false, "allgatherv"},
    {"nodes of 2 in turn", "2,cyclic", COMM_AUTO, 2, true, "doubling"},
    {"nodes of 3 in turn", "3,cyclic", COMM_AUTO, 3, true, "direct"},
    {"plain MPI on nodes of 2", "2", COMM_MPI, 2, false, "direct"},
};

/* Run under mpirun on one machine. */
static void nodes_are_as_set(context_t *t, const setting_t *setting)
{
    int k = setting->per_node == 0 ? t->size : setting->per_node;
    int n_nodes = (t->size + k - 1) / k;
    int node = setting->cyclic ? t->rank % n_nodes : t->rank / k;
    int node_rank = setting->cyclic ? t->rank / n_nodes : t->rank % k;
    int node_size = 0;
    for (int r = 0; r < t->size; r++)
        node_size += (setting->cyclic ? r % n_nodes : r / k) == node;
    CHECK(t, comm_n_nodes(t->comm) == n_nodes);
    CHECK(t, comm_node_rank(t->comm) == node_rank);
    CHECK(t, comm_node_size(t->comm) == node_size);
}

typedef struct test {
    const char *name;
    void (*run)(context_t *);
} test_t;

#define TEST(function)                                                                             \
    {                                                                                              \
#function, function                                                                        \
    }

/* The same wherever the ranks are placed: run in the first setting only. */
static const test_t plain_tests[] = {
    TEST(numbers_reduce_over_all_ranks),
    TEST(floats_add_over_all_ranks),
    TEST(broadcasts_reach_every_rank),
    TEST(patient_receivers_outlast_a_thinking_user),
    TEST(gathers_to_rank_0_keep_rank_order),
    TEST(gathers_of_unequal_parts_keep_rank_order),
    TEST(ranks_agree_when_all_is_well),
    TEST(one_failing_rank_is_heard_by_all),
    TEST(the_lowest_status_and_then_the_lowest_rank_win),
    TEST(a_failure_common_to_all_names_no_rank),
    TEST(the_longest_message_fits),
    TEST(differing_values_are_named_on_all_ranks),
};

/* Run in every setting. */
static const test_t placed_tests[] = {
    TEST(messages_arrive_while_their_sender_waits_at_a_gather),
    TEST(threads_beyond_the_machine_count_as_oversubscribed),
    TEST(buffers_start_zeroed_and_aligned),
    TEST(a_buffer_beyond_all_memory_fails_on_all_ranks),
    TEST(an_allocation_that_fails_on_one_rank_fails_on_all),
    TEST(columns_gather_with_any_split),
    TEST(rows_gather_from_any_owner),
    TEST(alternating_buffers_never_mix_steps),
    TEST(long_prompts_gather_in_pieces),
    TEST(many_embedding_rows_gather_in_pieces),
    TEST(one_huge_row_gathers),
    TEST(tiles_arrive_while_others_are_written),
    TEST(a_malformed_threshold_fails_on_all_ranks),
};

static void run_tests(context_t *t, const test_t *tests, size_t n_tests)
{
    for (size_t i = 0; i < n_tests; i++) {
        t->test = tests[i].name;
        tests[i].run(t);
    }
}

static void run_setting(const setting_t *setting, context_t *total)
{
    fail_t fail = {0};
    context_t t = {.path = setting->path, .setting = setting->name, .test = "opening", .random = 7};
    unsetenv("CHOIR_RANKS_PER_NODE");
    if (setting->ranks_per_node != NULL)
        setenv("CHOIR_RANKS_PER_NODE", setting->ranks_per_node, 1);
    unsetenv("CHOIR_EXCHANGE");
    if (setting->exchange != NULL)
        setenv("CHOIR_EXCHANGE", setting->exchange, 1);
    int status = comm_open_world(&t.comm, setting->path, &fail);
    CHECK(&t, status == 0);
    if (status == 0) {
        t.rank = comm_rank(t.comm);
        t.size = comm_size(t.comm);
        nodes_are_as_set(&t, setting);
        if (setting == &settings[0])
            run_tests(&t, plain_tests, sizeof plain_tests / sizeof *plain_tests);
        run_tests(&t, placed_tests, sizeof placed_tests / sizeof *placed_tests);
        t.failures = comm_sum(t.comm, t.failures);
        t.checks = comm_sum(t.comm, t.checks);
        total->rank = t.rank;
        total->size = t.size;
    }
    total->checks += t.checks;
    total->failures += t.failures;
    comm_close(t.comm);
}

static void a_malformed_setting_fails_on_all_ranks(context_t *total)
{
    static const char *const bad[] = {"", "0", "-2", "2,", "2,random", "x", "99999999999999999999"};
    total->setting = "malformed CHOIR_RANKS_PER_NODE";
    total->test = "opening";
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fail_t fail = {0};
        comm_t *comm = NULL;
        setenv("CHOIR_RANKS_PER_NODE", bad[i], 1);
        CHECK(total, comm_open_world(&comm, COMM_AUTO, &fail) == FAIL_USAGE && comm == NULL);
        CHECK(total, strncmp(fail.message, "CHOIR_RANKS_PER_NODE: expected", 30) == 0);
    }
    unsetenv("CHOIR_RANKS_PER_NODE");
    if (total->size == 1)
        return;
    fail_t fail = {0};
    comm_t *comm = NULL;
    setenv("CHOIR_RANKS_PER_NODE", "1", 1);
    setenv("CHOIR_EXCHANGE", "pigeons", 1);
    comm_buffer_t *buffer = NULL;
    CHECK(total, comm_open_world(&comm, COMM_AUTO, &fail) == 0);
    CHECK(total, comm_buffer_open(comm, 64, "test buffer", &buffer, &fail) == FAIL_USAGE);
    CHECK(total, strstr(fail.message, "CHOIR_EXCHANGE: expected") != NULL && buffer == NULL);
    comm_close(comm);
    unsetenv("CHOIR_EXCHANGE");
    unsetenv("CHOIR_RANKS_PER_NODE");
}

int main(int argc, char **argv)
{
    fail_t fail = {0};
    context_t total = {0};
    /* Should ranks wait for each other for ever, the signal ends them and mpirun reports it. */
    alarm(HANG_SECONDS);
    if (comm_start(&argc, &argv, &fail) != 0) {
        fprintf(stderr, "%s\n", fail.message);
        return 1;
    }
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        run_setting(&settings[i], &total);
    a_malformed_setting_fails_on_all_ranks(&total);
    CHECK(&total, strlen(comm_library_version()) > 0);
    if (total.rank == 0)
        printf("mpi_comm: %d ranks, %" PRId64 " checks, %" PRId64 " failures\n", total.size,
            total.checks, total.failures);
    comm_stop();
    return total.failures != 0;
}
