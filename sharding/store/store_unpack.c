#include "sharding/store/store_unpack.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/path.h"
#include "engine/base/size.h"
#include "sharding/store/store_output.h"

/* ---- Going through blocks -------------------------------------------------------------------- */

typedef struct scan scan_t;

struct scan {
    const store_job_t *job;
    const bool *mine; /* [n_segments] */
    /* With a block that is right, without the lock. A failure ends the scan. */
    int (*visit)(
        scan_t *scan, size_t segment, size_t block, const void *bytes, size_t n, fail_t *fail);
    /* With a message about one that is not, under the lock; NULL: that is a failure. */
    void (*bad)(scan_t *scan, const char *message);
    void *context;
    pthread_mutex_t lock;
    size_t segment, block; /* the next one */
    uint64_t done_bytes, total_bytes;
    size_t block_bytes; /* of the largest */
    bool stop;
    uint64_t *checksums; /* [n_frames] of blocks read, or NULL */
    fail_t *fail;        /* under the lock */
};

static bool take_block(scan_t *scan, size_t *segment, size_t *block)
{
    const store_manifest_t *manifest = store_manifest(scan->job->store);
    pthread_mutex_lock(&scan->lock);
    while (
        scan->segment < manifest->n_segments &&
        (!scan->mine[scan->segment] || scan->block == manifest->segments[scan->segment].n_blocks)) {
        scan->segment++;
        scan->block = 0;
    }
    if (scan->job->interrupted != NULL && scan->job->interrupted()) {
        fail_set(scan->fail, FAIL_INTERRUPTED,
            "interrupted; the same command begins again from the start");
        scan->stop = true;
    }
    bool found = scan->segment < manifest->n_segments && !scan->stop;
    *segment = scan->segment;
    *block = scan->block++;
    pthread_mutex_unlock(&scan->lock);
    return found;
}

static void settle_block(scan_t *scan, size_t bytes, bool read, const fail_t *fail)
{
    pthread_mutex_lock(&scan->lock);
    if (fail->status != 0 && !read && scan->bad != NULL && fail->status != FAIL_MEMORY) {
        scan->bad(scan, fail->message);
    } else if (fail->status != 0) {
        fail_set(scan->fail, fail->status, "%s", fail->message);
        scan->stop = true;
    }
    scan->done_bytes += bytes;
    if (scan->job->progress != NULL)
        scan->job->progress(scan->job->progress_context, scan->done_bytes, scan->total_bytes);
    pthread_mutex_unlock(&scan->lock);
}

static void scan_thread(void *context, size_t thread)
{
    scan_t *scan = context;
    store_t *store = scan->job->store;
    const store_manifest_t *manifest = store_manifest(store);
    size_t segment, block;
    void *bytes = malloc(scan->block_bytes + 1);
    (void)thread;
    if (bytes == NULL) {
        fail_t fail = {0};
        fail_set(&fail, FAIL_MEMORY, "store: out of memory for a block");
        settle_block(scan, 0, true, &fail);
    }
    while (bytes != NULL && take_block(scan, &segment, &block)) {
        const store_segment_t *s = &manifest->segments[segment];
        size_t n = store_block_bytes(s, block);
        uint64_t checksum = 0;
        fail_t fail = {0};
        bool read = store_read_block(store, segment, block, bytes, &checksum, &fail) == 0;
        if (scan->checksums != NULL)
            scan->checksums[s->first_frame + block] = checksum;
        if (read && scan->visit != NULL)
            scan->visit(scan, segment, block, bytes, n, &fail);
        settle_block(scan, n, read, &fail);
    }
    free(bytes);
}

/* Segments marked in scan->mine. */
static int run_scan(scan_t *scan, fail_t *fail)
{
    const store_manifest_t *manifest = store_manifest(scan->job->store);
    scan->fail = fail;
    for (size_t s = 0; s < manifest->n_segments; s++)
        if (scan->mine[s]) {
            scan->total_bytes += manifest->segments[s].bytes;
            scan->block_bytes = size_max(scan->block_bytes, manifest->segments[s].block_bytes);
        }
    pthread_mutex_init(&scan->lock, NULL);
    team_run(scan->job->team, scan_thread, scan);
    pthread_mutex_destroy(&scan->lock);
    return fail->status;
}

/* ---- Checking -------------------------------------------------------------------------------- */

typedef struct check {
    store_problem_fn problem;
    void *context;
    store_findings_t *findings;
} check_t;

static void count_bad(scan_t *scan, const char *message)
{
    check_t *check = scan->context;
    check->findings->n_bad++;
    check->problem(check->context, message);
}

/* Each rank gets about as many bytes; mine: [n_segments], written */
static int share_segments(const store_job_t *job, bool *mine, fail_t *fail)
{
    const store_manifest_t *manifest = store_manifest(job->store);
    uint64_t *loads = calloc(job->n_ranks, sizeof *loads);
    if (loads == NULL)
        return fail_set(fail, FAIL_MEMORY, "store: out of memory");
    for (size_t s = 0; s < manifest->n_segments; s++) {
        size_t least = 0;
        for (size_t r = 1; r < job->n_ranks; r++)
            if (loads[r] < loads[least])
                least = r;
        loads[least] += manifest->segments[s].bytes;
        mine[s] = least == job->rank;
    }
    free(loads);
    return 0;
}

static void check_digests(const store_job_t *job, scan_t *scan, bool *mine)
{
    const store_manifest_t *manifest = store_manifest(job->store);
    const char *directory = store_directory(job->store);
    char message[FAIL_MESSAGE_BYTES];
    check_t *check = scan->context;
    for (size_t s = 0; s < manifest->n_segments; s++) {
        const store_segment_t *segment = &manifest->segments[s];
        uint64_t found =
            mine[s] ? store_digest_of(scan->checksums + segment->first_frame, segment->n_blocks)
                    : segment->digest;
        if (found == segment->digest || check->findings->n_bad > 0)
            continue; /* caused by a bad block, which has been reported */
        snprintf(message, sizeof message, "%s: tensor %s: expected the digest %s, found %s",
            directory, segment->name, store_hex(segment->digest).text, store_hex(found).text);
        count_bad(scan, message);
    }
}

static int check_sources(const store_job_t *job, scan_t *scan, fail_t *fail)
{
    const store_manifest_t *manifest = store_manifest(job->store);
    uint64_t *digests = malloc((manifest->n_segments + 1) * sizeof *digests);
    if (digests == NULL)
        return fail_set(fail, FAIL_MEMORY, "store: out of memory");
    for (size_t i = 0, s = 0; i < manifest->n_sources; i++) {
        size_t n = 0;
        for (; s < manifest->n_segments && manifest->segments[s].source == i; s++)
            digests[n++] = manifest->segments[s].digest;
        uint64_t found = store_digest_of(digests, n);
        char message[FAIL_MESSAGE_BYTES];
        if (found == manifest->sources[i].checksum)
            continue;
        snprintf(message, sizeof message, "%s: source %s: expected the checksum %s, found %s",
            store_directory(job->store), manifest->sources[i].name,
            store_hex(manifest->sources[i].checksum).text, store_hex(found).text);
        count_bad(scan, message);
    }
    free(digests);
    return 0;
}

int store_check(const store_job_t *job, store_problem_fn problem, void *context,
    store_findings_t *findings, fail_t *fail)
{
    const store_manifest_t *manifest = store_manifest(job->store);
    check_t check = {.problem = problem, .context = context, .findings = findings};
    bool *mine = calloc(manifest->n_segments + 1, sizeof *mine);
    scan_t scan = {.job = job,
        .mine = mine,
        .bad = count_bad,
        .context = &check,
        .checksums = calloc(manifest->n_frames + 1, sizeof(uint64_t))};
    *findings = (store_findings_t){0};
    if (mine == NULL || scan.checksums == NULL)
        fail_set(fail, FAIL_MEMORY, "store: out of memory");
    else if (share_segments(job, mine, fail) == 0 && run_scan(&scan, fail) == 0) {
        for (size_t s = 0; s < manifest->n_segments; s++)
            findings->n_blocks += mine[s] ? manifest->segments[s].n_blocks : 0;
        check_digests(job, &scan, mine);
        if (job->rank == 0)
            check_sources(job, &scan, fail);
    }
    free(scan.checksums);
    free(mine);
    return fail->status;
}

/* ---- Unpacking ------------------------------------------------------------------------------- */

char *store_unpack_partial(const store_t *store, const char *out)
{
    return store_partial_name(out, store_manifest(store)->checksum);
}

int store_unpack_begin(
    const store_t *store, const char *out, const char *partial, uint64_t free_bytes, fail_t *fail)
{
    const store_manifest_t *manifest = store_manifest(store);
    bool made;
    uint64_t needed = 1000000;
    for (size_t i = 0; i < manifest->n_sources; i++)
        needed += manifest->sources[i].bytes;
    if (store_partial_begin(out, partial, &made, fail) != 0)
        return fail->status;
    if (free_bytes == UINT64_MAX)
        free_bytes = store_partial_room(partial);
    if (made && needed > free_bytes) {
        rmdir(partial);
        return fail_set(fail, FAIL_FILE, "%s: expected %.0f MB of room, found %.0f MB free", out,
            (double)needed / 1e6, (double)free_bytes / 1e6);
    }
    return 0;
}

static int write_block(
    scan_t *scan, size_t segment, size_t block, const void *bytes, size_t n, fail_t *fail)
{
    const store_segment_t *s = &store_manifest(scan->job->store)->segments[segment];
    return store_output_write(
        scan->context, s->offset + (uint64_t)block * s->block_bytes, bytes, n, fail);
}

static int unpack_source(
    const store_job_t *job, size_t source, const char *partial, bool *mine, fail_t *fail)
{
    const store_manifest_t *manifest = store_manifest(job->store);
    store_output_t output;
    scan_t scan = {.job = job, .mine = mine, .visit = write_block, .context = &output};
    for (size_t s = 0; s < manifest->n_segments; s++)
        mine[s] = manifest->segments[s].source == source;
    if (store_output_open(&output, partial, manifest->sources[source].name, fail) == 0 &&
        store_output_resize(&output, manifest->sources[source].bytes, fail) == 0)
        run_scan(&scan, fail);
    return store_output_close(&output, fail);
}

int store_unpack_sources(const store_job_t *job, const char *partial, fail_t *fail)
{
    const store_manifest_t *manifest = store_manifest(job->store);
    bool *mine = calloc(manifest->n_segments + 1, sizeof *mine);
    if (mine == NULL)
        return fail_set(fail, FAIL_MEMORY, "store: out of memory");
    for (size_t i = job->rank; i < manifest->n_sources && fail->status == 0; i += job->n_ranks)
        unpack_source(job, i, partial, mine, fail);
    free(mine);
    return fail->status;
}

static int unpack_copied(
    const store_t *store, const char *partial, const store_file_t *file, fail_t *fail)
{
    char *from = path_join(store_directory(store), file->name), *text = NULL;
    size_t bytes;
    if (from == NULL)
        return fail_set(fail, FAIL_MEMORY, "store: out of memory");
    if (file_read(from, STORE_MAX_COPIED_BYTES, &text, &bytes, fail) == 0)
        store_output_file(partial, file->name, text, bytes, fail);
    free(from);
    free(text);
    return fail->status;
}

int store_unpack_finish(const store_t *store, const char *out, const char *partial, fail_t *fail)
{
    const store_manifest_t *manifest = store_manifest(store);
    for (size_t i = 0; i < manifest->n_copied && fail->status == 0; i++)
        unpack_copied(store, partial, &manifest->copied[i], fail);
    if (fail->status == 0)
        store_partial_publish(partial, out, fail);
    return fail->status;
}
