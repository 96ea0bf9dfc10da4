#include "engine/run/share_choice.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/size.h"
#include "engine/run/rank_roof.h"
#include "sharding/rank_shares.h"

#define MIB ((size_t)1 << 20)
#define HOST_READ_BYTES (512 * MIB) /* of all ranks of a host, larger than most caches */
#define LEAST_READ_BYTES (64 * MIB)
#define MOST_READ_BYTES (256 * MIB)

/* No more than half of what is free. */
static size_t read_bytes(const comm_t *comm)
{
    size_t ranks = (size_t)comm_host_ranks(comm);
    size_t bytes =
        size_min(size_max(HOST_READ_BYTES / ranks, LEAST_READ_BYTES), MOST_READ_BYTES) / MIB * MIB;
    size_t half = memory_available_bytes() / 2 / ranks / MIB * MIB;
    return half == 0 ? bytes : size_max(size_min(bytes, half), MIB);
}

/* Collective over all. */
static int measure(const share_group_t *group, team_t *team, size_t *shares, fail_t *fail)
{
    comm_t *comm = group->replica;
    size_t n = (size_t)comm_size(comm);
    double rate = 0, *rates = calloc(n, sizeof *rates);
    char text[128];
    if (rates == NULL)
        fail_set(fail, FAIL_MEMORY, "--shares auto: out of memory for %zu ranks", n);
    if (comm_agree(group->all, fail) == 0 &&
        rank_roof_bandwidth(group->all, team, read_bytes(comm), &rate, fail) == 0) {
        /* Whole bytes a second, at least one: what ranks agree on is an integer. */
        int64_t whole = rate < 1 ? 1 : (int64_t)rate;
        if (group->weight_sharers != NULL)
            whole = comm_min(group->weight_sharers, whole);
        rate = (double)whole;
        comm_allgather(comm, &rate, sizeof rate, rates);
        rank_shares_from_rates(rates, n, shares);
        rank_shares_text(shares, n, text, sizeof text);
        log_write(LOG_INFO, "--shares auto: rank 0 reads %.1f GB/s; shares %s", rates[0] * 1e-9,
            rank_shares_are_even(shares, n) ? "even" : text);
    }
    free(rates);
    return fail->status;
}

int share_choice(
    const share_group_t *group, team_t *team, const char *text, size_t *shares, fail_t *fail)
{
    size_t n = (size_t)comm_size(group->replica);
    for (size_t r = 0; r < n; r++)
        shares[r] = 1;
    if (text == NULL || strcmp(text, "even") == 0)
        return 0;
    if (strcmp(text, "auto") == 0)
        return n == 1 ? 0 : measure(group, team, shares, fail);
    rank_shares_parse(text, n, shares, fail);
    return comm_agree(group->all, fail);
}
