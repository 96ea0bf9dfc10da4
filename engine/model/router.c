#include "engine/model/router.h"

#include <math.h>

/* ---- Top k ----------------------------------------------------------------------------------- */

/* The algorithms of libstdc++'s <algorithm>, from what they do: which elements they compare and move,
 * since that decides between equal values. */

#define FEW 16 /* elements that sort leaves to insertion */

static bool before(const router_entry_t *a, const router_entry_t *b)
{
    return (isnan(a->value) && !isnan(b->value)) || a->value > b->value;
}

static void swap(router_entry_t *a, router_entry_t *b)
{
    router_entry_t kept = *a;
    *a = *b;
    *b = kept;
}

/* Moves the value down from the hole to a leaf, along the children that come later in order, and up
 * again to its place. The heap's first element is the last in order. */
static void sift(router_entry_t *heap, size_t hole, size_t n, router_entry_t value)
{
    size_t top = hole, child = hole;
    while (child < (n - 1) / 2) {
        child = 2 * child + 2;
        if (before(&heap[child], &heap[child - 1]))
            child--;
        heap[hole] = heap[child];
        hole = child;
    }
    if (n % 2 == 0 && n >= 2 && child == (n - 2) / 2) {
        child = 2 * child + 1;
        heap[hole] = heap[child];
        hole = child;
    }
    for (; hole > top && before(&heap[(hole - 1) / 2], &value); hole = (hole - 1) / 2)
        heap[hole] = heap[(hole - 1) / 2];
    heap[hole] = value;
}

/* The first `kept` of n in order become a heap at the front. */
static void select_by_heap(router_entry_t *entries, size_t kept, size_t n)
{
    for (size_t i = kept / 2; kept > 1 && i-- > 0;)
        sift(entries, i, kept, entries[i]);
    for (size_t i = kept; i < n; i++)
        if (before(&entries[i], &entries[0])) {
            router_entry_t value = entries[i];
            entries[i] = entries[0];
            sift(entries, 0, kept, value);
        }
}

static void sort_heap(router_entry_t *heap, size_t n)
{
    while (n > 1) {
        router_entry_t value = heap[--n];
        heap[n] = heap[0];
        sift(heap, 0, n, value);
    }
}

static void insert_all(router_entry_t *entries, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        router_entry_t value = entries[i];
        bool first = before(&value, &entries[0]);
        size_t to = i;
        for (; first ? to > 0 : before(&value, &entries[to - 1]); to--)
            entries[to] = entries[to - 1];
        entries[to] = value;
    }
}

/* Parts n > 3 elements around the median of the second, the middle and the last; the first element of
 * the upper part. */
static size_t part(router_entry_t *entries, size_t n)
{
    router_entry_t *a = &entries[1], *b = &entries[n / 2], *c = &entries[n - 1], *pivot;
    if (before(a, b))
        pivot = before(b, c) ? b : before(a, c) ? c : a;
    else
        pivot = before(a, c) ? a : before(b, c) ? c : b;
    swap(&entries[0], pivot);
    size_t low = 1, high = n;
    for (;; low++) {
        while (before(&entries[low], &entries[0]))
            low++;
        do
            high--;
        while (before(&entries[0], &entries[high]));
        if (low >= high)
            return low;
        swap(&entries[low], &entries[high]);
    }
}

static size_t most_rounds(size_t n)
{
    size_t log2 = 0;
    while (n >> (log2 + 1) != 0)
        log2++;
    return 2 * log2;
}

/* Entry number `target` comes to its place, those before it to the front. */
static void select_nth(router_entry_t *entries, size_t target, size_t n)
{
    size_t begin = 0, end = n;
    for (size_t rounds = most_rounds(n); end - begin > 3; rounds--) {
        if (rounds == 0) {
            select_by_heap(entries + begin, target + 1 - begin, end - begin);
            swap(&entries[begin], &entries[target]);
            return;
        }
        size_t cut = begin + part(entries + begin, end - begin);
        if (cut <= target)
            begin = cut;
        else
            end = cut;
    }
    insert_all(entries + begin, end - begin);
}

static void part_all(router_entry_t *entries, size_t n, size_t rounds)
{
    for (; n > FEW; rounds--) {
        if (rounds == 0) {
            select_by_heap(entries, n, n);
            sort_heap(entries, n);
            return;
        }
        size_t cut = part(entries, n);
        part_all(entries + cut, n - cut, rounds - 1);
        n = cut;
    }
}

/* Insertion of all stays within the first few where the parts are in order. */
static void sort(router_entry_t *entries, size_t n)
{
    part_all(entries, n, most_rounds(n));
    insert_all(entries, n < FEW ? n : FEW);
    for (size_t i = FEW; i < n; i++) {
        router_entry_t value = entries[i];
        size_t to = i;
        for (; before(&value, &entries[to - 1]); to--)
            entries[to] = entries[to - 1];
        entries[to] = value;
    }
}

void router_top_k(size_t k, size_t n, router_entry_t *entries)
{
    if (k * 64 <= n) {
        select_by_heap(entries, k, n);
        sort_heap(entries, k);
        return;
    }
    select_nth(entries, k - 1, n);
    if (k > 1)
        sort(entries, k - 1);
}

/* ---- Weights --------------------------------------------------------------------------------- */

enum { LANES = 8, WAYS = 4 };

/* Fewer than 8 numbers: four accumulators, whose first takes what is left over. */
static float sum_few(size_t k, const double *values)
{
    float ways[WAYS] = {0};
    size_t whole = k / WAYS * WAYS;
    for (size_t i = 0; i < k; i++)
        ways[i < whole ? i % WAYS : 0] += (float)values[i];
    return ((ways[0] + ways[1]) + ways[2]) + ways[3];
}

/* As the sum of RMSNorm (docs/pytorch-orders.md, 3), of at most ROUTER_MAX_CHOSEN numbers, which fill one
 * of its levels. */
static float sum_many(size_t k, const double *values)
{
    float lanes[WAYS][LANES] = {{0}}, sum = 0;
    size_t vectors = k / LANES, whole = vectors / WAYS * WAYS;
    for (size_t v = 0; v < vectors; v++)
        for (size_t lane = 0; lane < LANES; lane++)
            lanes[v < whole ? v % WAYS : 0][lane] += (float)values[v * LANES + lane];
    for (size_t way = 1; way < WAYS; way++)
        for (size_t lane = 0; lane < LANES; lane++)
            lanes[0][lane] += lanes[way][lane];
    for (size_t i = vectors * LANES; i < k; i++)
        sum += (float)values[i];
    for (size_t lane = 0; lane < LANES; lane++)
        sum += lanes[0][lane];
    return sum;
}

static double sum_f64(size_t k, const double *values)
{
    double sum = 0;
    for (size_t i = 0; i < k; i++)
        sum += values[i];
    return sum;
}

void router_weights(dtype_t mode, bool normalised, size_t k, double *values)
{
    if (mode == DTYPE_F64) {
        double sum = normalised ? sum_f64(k, values) : 1;
        for (size_t i = 0; i < k; i++)
            values[i] /= sum;
        return;
    }
    float sum = !normalised ? 1 : k < LANES ? sum_few(k, values) : sum_many(k, values);
    for (size_t i = 0; i < k; i++) {
        float value = (float)values[i] / sum;
        values[i] = mode == DTYPE_BF16 ? f32_from_bf16(bf16_from_f32(value)) : value;
    }
}
