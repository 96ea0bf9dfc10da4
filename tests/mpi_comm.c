/* comm/comm.h at any number of ranks: exact contents through every path (shared windows, pretended
 * nodes in and out of order, plain MPI), agreement on errors, and hazards between alternating
 * buffers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/memory.h"
#include "tests/comm_fixture.h"

static bool all_are(const char *data, size_t bytes, int value)
{
    for (size_t i = 0; i < bytes; i++)
        if (data[i] != (char)value)
            return false;
    return true;
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
                comm_bcast_idle(t->comm, data, sizes[i]);
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
        comm_bcast_idle(t->comm, small, sizeof small);
        comm_bcast_idle(t->comm, large, 200000);
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
};

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
    static const suite_t suite = {plain_tests, sizeof plain_tests / sizeof *plain_tests,
        placed_tests, sizeof placed_tests / sizeof *placed_tests};
    context_t total = {0};
    suite_begin(&argc, &argv);
    suite_run(&suite, &total);
    a_malformed_setting_fails_on_all_ranks(&total);
    CHECK(&total, strlen(comm_library_version()) > 0);
    return suite_end("mpi_comm", &total);
}
