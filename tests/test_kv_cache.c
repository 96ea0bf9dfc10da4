/* The KV cache's memory: as many bytes as computed, a place of its own for every block, and refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/memory.h"
#include "engine/kernels/kernels.h"
#include "engine/model/kv_cache.h"

enum { LAYERS = 3, HEADS = 2, BLOCKS = KV_GROUP + 5 };

static const dtype_t modes[] = {DTYPE_BF16, DTYPE_F32, DTYPE_F64};
static const size_t head_dims[] = {1, 7, 64, 80, 128};

static kv_cache_t open_cache(dtype_t mode, size_t head_dim)
{
    kv_cache_t cache;
    fail_t fail = {0};
    assert_int_equal(kv_cache_open(&cache, mode, LAYERS, HEADS, head_dim, BLOCKS, &fail), 0);
    return cache;
}

static void blocks_hold_whole_panels_and_no_more(void **state)
{
    (void)state;
    for (size_t m = 0; m < 3; m++)
        for (size_t i = 0; i < sizeof head_dims / sizeof *head_dims; i++) {
            kv_cache_t cache = open_cache(modes[m], head_dims[i]);
            size_t d = head_dims[i], e = dtype_bytes(modes[m]);
            assert_int_equal(cache.k_block_bytes, KV_BLOCK * kernel_padded_inputs(modes[m], d) * e);
            assert_int_equal(cache.v_block_bytes, KV_BLOCK * kernel_padded_outputs(d) * e);
            assert_int_equal(
                cache.bytes, LAYERS * HEADS * BLOCKS * (cache.k_block_bytes + cache.v_block_bytes));
            assert_int_equal(cache.bytes, kv_cache_bytes(modes[m], LAYERS, HEADS, d, BLOCKS));
            assert_int_equal((uintptr_t)cache.blocks % 64, 0);
            assert_int_equal(cache.k_block_bytes % 64, 0);
            assert_int_equal(cache.v_block_bytes % 64, 0);
            kv_cache_close(&cache);
        }
}

typedef char *block_of_t(const kv_cache_t *cache, size_t layer, size_t head, size_t block);

/* Fills every block with a number of its own, and looks whether all are still there. */
static void check_places(const kv_cache_t *cache, block_of_t *block_of, size_t bytes)
{
    for (int look = 0; look < 2; look++)
        for (size_t l = 0, n = 1; l < LAYERS; l++)
            for (size_t h = 0; h < HEADS; h++)
                for (size_t b = 0; b < BLOCKS; b++, n++) {
                    char *block = block_of(cache, l, h, b);
                    if (!look)
                        memset(block, (int)n, bytes);
                    for (size_t i = 0; look && i < bytes; i++)
                        assert_int_equal(block[i], (char)n);
                }
}

static void every_block_has_a_place_of_its_own(void **state)
{
    (void)state;
    for (size_t m = 0; m < 3; m++) {
        kv_cache_t cache = open_cache(modes[m], 40);
        check_places(&cache, kv_cache_k, cache.k_block_bytes);
        check_places(&cache, kv_cache_v, cache.v_block_bytes);
        assert_ptr_equal(kv_cache_v(&cache, LAYERS - 1, HEADS - 1, BLOCKS - 1),
            cache.blocks + cache.bytes - cache.v_block_bytes);
        /* Whole groups of blocks, and a rest. */
        size_t both = cache.k_block_bytes + cache.v_block_bytes;
        assert_ptr_equal(
            kv_cache_k(&cache, 0, 0, KV_GROUP), cache.blocks + KV_GROUP * LAYERS * HEADS * both);
        assert_ptr_equal(
            kv_cache_k(&cache, 0, 1, 1), cache.blocks + KV_GROUP * both + cache.k_block_bytes);
        /* K and V do not share memory. */
        check_places(&cache, kv_cache_k, cache.k_block_bytes);
        kv_cache_close(&cache);
    }
}

static void a_rank_may_have_no_heads(void **state)
{
    (void)state;
    kv_cache_t cache;
    fail_t fail = {0};
    assert_int_equal(kv_cache_open(&cache, DTYPE_BF16, LAYERS, 0, 64, BLOCKS, &fail), 0);
    assert_int_equal(cache.bytes, 0);
    kv_cache_close(&cache);
}

static void memory_that_is_refused_is_an_error_and_nothing_is_kept(void **state)
{
    (void)state;
    kv_cache_t cache;
    fail_t fail = {0};
    memory_fail_nth(1);
    assert_int_equal(
        kv_cache_open(&cache, DTYPE_F32, LAYERS, HEADS, 64, BLOCKS, &fail), FAIL_MEMORY);
    memory_fail_nth(0);
    assert_non_null(strstr(fail.message, "KV cache"));
    assert_null(cache.blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_hold_whole_panels_and_no_more),
        cmocka_unit_test(every_block_has_a_place_of_its_own),
        cmocka_unit_test(a_rank_may_have_no_heads),
        cmocka_unit_test(memory_that_is_refused_is_an_error_and_nothing_is_kept),
    };
    return cmocka_run_group_tests_name("kv_cache", tests, NULL, NULL);
}
