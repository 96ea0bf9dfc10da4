#include "engine/run/capacity.h"

#include <stdint.h>
#include <stdio.h>

#include "engine/base/log.h"
#include "engine/base/size.h"

#define LONGEST_BY_DEFAULT 32768
#define TOKENS_PER_SEQUENCE 1024
#define GIB 1073741824.0

static size_t tokens_in(const capacity_t *capacity, size_t bytes)
{
    return capacity->cache_bytes_per_token == 0 ? SIZE_MAX
                                                : bytes / capacity->cache_bytes_per_token;
}

size_t capacity_choose_tokens(const capacity_t *capacity, size_t block_tokens)
{
    size_t longest = size_min(capacity->max_positions, LONGEST_BY_DEFAULT);
    size_t batch = capacity->max_batch * size_min(capacity->max_positions, TOKENS_PER_SEQUENCE);
    size_t tokens = size_max(longest, batch);
    if (capacity->available_bytes != 0) {
        size_t available = capacity->available_bytes;
        size_t taken = capacity->weight_bytes + capacity->draft_bytes;
        size_t left = available - size_min(available, taken);
        tokens = size_max(longest, size_min(batch, tokens_in(capacity, available / 4)));
        tokens = size_min(tokens, tokens_in(capacity, left / 2));
        tokens = size_max(tokens, size_min(longest, TOKENS_PER_SEQUENCE));
    }
    return size_round_up(tokens, block_tokens);
}

int capacity_check(const capacity_t *capacity, size_t cache_tokens, size_t scratch_bytes,
    size_t n_ranks, fail_t *fail)
{
    size_t cache_bytes = 0, needed = 0;
    bool fits = size_mul(cache_tokens, capacity->cache_bytes_per_token, &cache_bytes) &&
                size_add(cache_bytes, capacity->weight_bytes, &needed) &&
                size_add(needed, scratch_bytes, &needed) &&
                size_add(needed, capacity->draft_bytes, &needed);
    if (!fits)
        return fail_set(fail, FAIL_MEMORY,
            "memory: a KV cache of %zu tokens of %zu bytes is more than can be counted",
            cache_tokens, capacity->cache_bytes_per_token);
    if (capacity->available_bytes == 0 || needed <= capacity->available_bytes)
        return 0;
    double available = (double)capacity->available_bytes * (double)n_ranks;
    char draft[64] = "";
    if (capacity->draft_bytes > 0)
        snprintf(
            draft, sizeof draft, ", %.2f for the draft model", (double)capacity->draft_bytes / GIB);
    return fail_set(fail, FAIL_MEMORY,
        "memory: %zu rank%s of this machine need%s %.2f GiB (each %.2f for weights%s, %.2f for the KV cache of %zu tokens, %.2f for buffers), and %.2f GiB are free; %s would help",
        n_ranks, plural(n_ranks), n_ranks == 1 ? "s" : "", (double)needed * (double)n_ranks / GIB,
        (double)capacity->weight_bytes / GIB, draft, (double)cache_bytes / GIB, cache_tokens,
        (double)scratch_bytes / GIB, available / GIB,
        capacity->advice != NULL ? capacity->advice : "fewer --kv-tokens or more machines");
}
