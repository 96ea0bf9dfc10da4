/* Shared beginnings of prompts: which may be shared, and that a scheduler which shares them shows
 * every row just the keys of its own sequence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/run/philox.h"
#include "engine/run/prefix.h"
#include "engine/run/scheduler.h"

/* ---- Classes --------------------------------------------------------------------------------- */

/* Ends of leaves within the first `end` tokens of a prompt, by docs/pytorch-orders.md, 10.2 and
 * 10.5, key block by key block. */
static size_t leaf_ends(size_t end, size_t n_prompt, size_t *ends)
{
    size_t n = 0;
    for (size_t first = 0; first < end; first += 512) {
        size_t keys = n_prompt - first < 512 ? n_prompt - first : 512;
        size_t leaf = keys <= 192 ? keys : keys < 384 ? keys / 2 : 192;
        for (size_t at = leaf; at < keys && first + at < end; at += leaf)
            ends[n++] = first + at;
    }
    return n;
}

static void prompts_of_one_class_have_leaves_of_the_same_ends(void **state)
{
    (void)state;
    size_t a[16], b[16], equal = 0, different = 0;
    for (size_t end = 64; end <= 1152; end += 64)
        for (size_t x = end; x < 1400; x += 7)
            for (size_t y = x + 1; y < 1400; y += 13) {
                size_t n = leaf_ends(end, x, a), m = leaf_ends(end, y, b);
                bool same = n == m && memcmp(a, b, n * sizeof *a) == 0;
                bool same_class = prefix_class(DTYPE_BF16, ORDER_TORCH, ATTENTION_SDPA, end, x) ==
                                  prefix_class(DTYPE_BF16, ORDER_TORCH, ATTENTION_SDPA, end, y);
                assert_int_equal(same, same_class);
                equal += same;
                different += !same;
            }
    assert_true(equal > 1000 && different > 1000);
}

static void classes_follow_the_order(void **state)
{
    (void)state;
    /* Eager attention has other leaves above 1,024 keys. */
    assert_int_equal(prefix_class(DTYPE_BF16, ORDER_TORCH, ATTENTION_EAGER, 64, 100),
        prefix_class(DTYPE_BF16, ORDER_TORCH, ATTENTION_EAGER, 64, 1024));
    assert_int_not_equal(prefix_class(DTYPE_BF16, ORDER_TORCH, ATTENTION_EAGER, 64, 1024),
        prefix_class(DTYPE_BF16, ORDER_TORCH, ATTENTION_EAGER, 64, 1025));
    for (size_t n = 64; n < 3000; n += 31) {
        assert_int_equal(prefix_class(DTYPE_BF16, ORDER_UNIFORM, ATTENTION_EAGER, 64, n), 0);
        assert_int_equal(prefix_class(DTYPE_F32, ORDER_TORCH, ATTENTION_EAGER, 64, n), 0);
        assert_int_equal(prefix_class(DTYPE_F64, ORDER_TORCH, ATTENTION_EAGER, 64, n), 0);
    }
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

static void kept_blocks_are_found_until_their_place_is_needed(void **state)
{
    (void)state;
    static const int32_t x[2] = {1, 2}, y[2] = {3, 4};
    prefix_t *p;
    fail_t fail = {0};
    assert_int_equal(prefix_open(&p, 3, 2, &fail), 0);
    int32_t a = prefix_take(p), b = prefix_take(p);
    prefix_register(p, a, PREFIX_NONE, x, 0, 7);
    prefix_register(p, b, a, y, 0, 7);
    assert_int_equal(prefix_find(p, PREFIX_NONE, x, 0), a);
    assert_int_equal(prefix_find(p, a, y, 0), b);
    assert_int_equal(prefix_find(p, PREFIX_NONE, y, 0), PREFIX_NONE);
    assert_int_equal(prefix_find(p, PREFIX_NONE, x, 1), PREFIX_NONE);
    prefix_set_ready(p, a);
    prefix_release(p, b); /* never computed: free */
    prefix_release(p, a); /* kept */
    assert_int_equal(prefix_available(p), 3);
    assert_int_equal(prefix_find(p, PREFIX_NONE, x, 0), a);
    assert_int_equal(prefix_find(p, a, y, 0), PREFIX_NONE);
    assert_int_not_equal(prefix_take(p), a);
    assert_int_not_equal(prefix_take(p), a);
    assert_int_equal(prefix_find(p, PREFIX_NONE, x, 0), a);
    assert_int_equal(prefix_take(p), a);
    assert_int_equal(prefix_find(p, PREFIX_NONE, x, 0), PREFIX_NONE);
    assert_int_equal(prefix_available(p), 0);
    prefix_close(p);
}

/* ---- The scheduler --------------------------------------------------------------------------- */

enum { MAX_REQUESTS = 48, MAX_PROMPT = 48, MAX_BLOCKS = 48, MAX_BLOCK = 8 };

/* What the cache holds, as a forward pass would have written it. */
typedef struct load {
    uint64_t draws;
    scheduler_options_t options;
    int32_t cache[MAX_BLOCKS][MAX_BLOCK];
    int32_t prompts[MAX_REQUESTS][MAX_PROMPT];
    size_t n_prompt[MAX_REQUESTS], done[MAX_REQUESTS], first_logits[MAX_REQUESTS];
    bool wants_logits[MAX_REQUESTS], ended[MAX_REQUESTS];
    size_t n_submitted, n_rows;
} load_t;

static size_t below(load_t *load, size_t n)
{
    return (size_t)(philox_uniform(5, 6, load->draws++) * (double)n);
}

/* A prompt that begins as another one, or as its own. */
static void submit(load_t *load, scheduler_t *scheduler)
{
    size_t i = load->n_submitted++, longest = load->options.max_context - 1;
    longest = longest < MAX_PROMPT ? longest : MAX_PROMPT;
    size_t n = 1 + below(load, longest), like = i == 0 ? 0 : below(load, i);
    size_t shared = i == 0 ? 0 : below(load, n + 1);
    for (size_t t = 0; t < n; t++)
        load->prompts[i][t] = t < shared && t < load->n_prompt[like]
                                  ? load->prompts[like][t]
                                  : (int32_t)(1000 * (i + 1) + t);
    load->n_prompt[i] = n;
    load->wants_logits[i] = below(load, 4) == 0;
    load->first_logits[i] = below(load, n);
    request_t request = {.prompt_ids = load->prompts[i],
        .n_prompt = n,
        .max_tokens = below(load, 6),
        .want_prompt_logits = load->wants_logits[i],
        .first_prompt_logits = load->first_logits[i],
        .sampling = {.repetition_penalty = below(load, 8) == 0 ? 1.5 : 1}};
    uint64_t handle;
    fail_t fail = {0};
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), 0);
    assert_int_equal(handle, i);
}

/* Writes the entry's rows into the cache. Nobody else's rows lie where they go. */
static void write_rows(load_t *load, const scheduler_entry_t *entry)
{
    size_t tokens = load->options.block_tokens;
    for (size_t r = 0; r < entry->n_rows; r++) {
        size_t position = entry->first_position + r;
        load->cache[entry->blocks[position / tokens]][position % tokens] = entry->token_ids[r];
    }
    load->n_rows += entry->n_rows;
}

/* Before an entry's last row, the cache holds the sequence, token by token. */
static void check_keys(const load_t *load, const scheduler_entry_t *entry)
{
    size_t tokens = load->options.block_tokens, n = load->n_prompt[entry->handle];
    size_t end = entry->first_position + entry->n_rows;
    for (size_t position = 0; position < end && position < n; position++)
        assert_int_equal(load->cache[entry->blocks[position / tokens]][position % tokens],
            load->prompts[entry->handle][position]);
}

static void check_logits(const load_t *load, const scheduler_entry_t *entry)
{
    size_t handle = (size_t)entry->handle, first = load->first_logits[handle];
    size_t end = entry->first_position + entry->n_rows;
    assert_true(!load->wants_logits[handle] || entry->decode || load->done[handle] <= first ||
                entry->first_position == load->done[handle]);
    bool wanted = load->wants_logits[handle] && !entry->decode && end > first;
    assert_int_equal(entry->prompt_logits, wanted);
    if (wanted && first >= entry->first_position)
        assert_int_equal(entry->first_position + entry->first_logits_row, first);
}

static void run_step(load_t *load, scheduler_t *scheduler)
{
    size_t pending = scheduler_pending(scheduler);
    scheduler_step_t step = scheduler_plan(scheduler);
    assert_int_equal(step.n_entries > 0, pending > 0);
    for (size_t i = 0; i < step.n_entries; i++)
        write_rows(load, &step.entries[i]);
    for (size_t i = 0; i < step.n_entries; i++) {
        check_keys(load, &step.entries[i]);
        check_logits(load, &step.entries[i]);
    }
    for (size_t i = 0; i < step.n_entries; i++) {
        const scheduler_entry_t *entry = &step.entries[i];
        uint64_t handle = entry->handle;
        assert_true(entry->first_position >= load->done[handle]);
        assert_int_equal(entry->admitted, load->done[handle] == 0);
        load->done[handle] = entry->first_position + entry->n_rows;
        if (scheduler_advance(scheduler, entry, 1) != SCHEDULER_GOES_ON) {
            load->ended[handle] = true;
            assert_true(load->done[handle] >= load->n_prompt[handle]);
        }
    }
}

static size_t run_load(load_t *load, bool reuse)
{
    scheduler_t *scheduler;
    fail_t fail = {0};
    size_t block = 1 + below(load, MAX_BLOCK), n_blocks = 8 + below(load, MAX_BLOCKS - 7);
    load->options = (scheduler_options_t){.block_tokens = block,
        .n_blocks = n_blocks,
        .max_batch = 1 + below(load, 8),
        .prefill_chunk = 1 + below(load, 24),
        .max_prompt_logits = 1 + below(load, 6),
        .max_context = 2 + below(load, block * n_blocks - 1),
        .reuse_prefixes = reuse,
        .mode = DTYPE_F32};
    assert_int_equal(scheduler_open(&scheduler, &load->options, &fail), 0);
    size_t n_requests = 1 + below(load, MAX_REQUESTS);
    while (load->n_submitted < n_requests || scheduler_pending(scheduler) > 0) {
        if (load->n_submitted < n_requests && below(load, 3) > 0)
            submit(load, scheduler);
        if (load->n_submitted > 0 && below(load, 12) == 0) {
            uint64_t handle = below(load, load->n_submitted);
            load->ended[handle] = true;
            scheduler_cancel(scheduler, handle);
        }
        run_step(load, scheduler);
    }
    for (size_t i = 0; i < load->n_submitted; i++)
        assert_true(load->ended[i]);
    size_t reused = scheduler_reused_tokens(scheduler);
    scheduler_close(scheduler);
    return reused;
}

static void every_row_sees_its_own_sequence_whoever_computed_it(void **state)
{
    (void)state;
    load_t *load = calloc(1, sizeof *load);
    size_t reused = 0, rows = 0;
    for (size_t round = 0; round < 400; round++) {
        uint64_t draws = load->draws;
        *load = (load_t){.draws = draws};
        reused += run_load(load, true);
        rows += load->n_rows;
    }
    assert_true(reused > rows / 20);
    for (size_t round = 0; round < 20; round++) {
        uint64_t draws = load->draws;
        *load = (load_t){.draws = draws};
        assert_int_equal(run_load(load, false), 0);
    }
    free(load);
}

/* Two prompts at once: the second waits for the first one's block, and computes the rest. */
static void a_beginning_is_computed_once(void **state)
{
    (void)state;
    const scheduler_options_t options = {.block_tokens = 4,
        .n_blocks = 16,
        .max_batch = 4,
        .prefill_chunk = 6,
        .max_prompt_logits = 1,
        .max_context = 40,
        .reuse_prefixes = true,
        .mode = DTYPE_F32};
    static const int32_t first[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    static const int32_t second[10] = {1, 2, 3, 4, 5, 6, 7, 8, 19, 20};
    static const size_t rows[4] = {6, 0, 4, 2}; /* first, second in two steps */
    scheduler_t *scheduler;
    fail_t fail = {0};
    uint64_t handle;
    assert_int_equal(scheduler_open(&scheduler, &options, &fail), 0);
    request_t request = {.prompt_ids = first,
        .n_prompt = 10,
        .max_tokens = 9,
        .sampling = {.repetition_penalty = 1}};
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), 0);
    request.prompt_ids = second;
    assert_int_equal(scheduler_submit(scheduler, &request, &handle, &fail), 0);
    for (size_t s = 0; s < 3; s++) {
        size_t got[2] = {0, 0};
        scheduler_step_t step = scheduler_plan(scheduler);
        for (size_t i = 0; i < step.n_entries; i++)
            got[step.entries[i].handle] = step.entries[i].decode ? 0 : step.entries[i].n_rows;
        /* The first block was ready after one step, the second after two. */
        assert_int_equal(got[0], s == 0 ? rows[0] : s == 1 ? rows[2] : 0);
        assert_int_equal(got[1], s == 2 ? rows[3] : rows[1]);
        for (size_t i = 0; i < step.n_entries; i++)
            scheduler_advance(scheduler, &step.entries[i], 1);
    }
    assert_int_equal(scheduler_reused_tokens(scheduler), 8);
    scheduler_close(scheduler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_of_one_class_have_leaves_of_the_same_ends),
        cmocka_unit_test(classes_follow_the_order),
        cmocka_unit_test(kept_blocks_are_found_until_their_place_is_needed),
        cmocka_unit_test(every_row_sees_its_own_sequence_whoever_computed_it),
        cmocka_unit_test(a_beginning_is_computed_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
