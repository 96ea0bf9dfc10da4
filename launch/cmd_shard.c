/* choir shard: makes a store of a model directory, checks, lists and unpacks stores. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/fault.h"
#include "comm/rank_team.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/memory.h"
#include "engine/base/printable.h"
#include "engine/base/progress.h"
#include "launch/command.h"
#include "launch/model_dir.h"
#include "launch/signals.h"
#include "sharding/checkpoint/checkpoint.h"
#include "sharding/store/store.h"
#include "sharding/store/store_unpack.h"
#include "sharding/store/store_write.h"

typedef struct shard_flags {
    common_flags_t common;
    const char *out, *check, *list, *unpack;
    size_t level, file_mib, layers, threads;
} shard_flags_t;

#define MB 1e6
/* Most messages of bad blocks on each rank. */
#define MAX_PROBLEM_BYTES ((size_t)1 << 20)

/* ---- Progress -------------------------------------------------------------------------------- */

/* Rank 0 shows its own part for the whole: parts are about equal. */
typedef struct shard_progress {
    progress_t progress;
    const char *what;
    uint64_t begin_ns;
    uint64_t all_bytes; /* of all ranks */
} shard_progress_t;

static void begin_progress(
    shard_progress_t *p, const invocation_t *invocation, const char *what, uint64_t all_bytes)
{
    *p = (shard_progress_t){.what = what, .begin_ns = clock_ns(), .all_bytes = all_bytes};
    progress_open(&p->progress, comm_rank(invocation->comm) == 0 && !invocation->common->quiet);
}

static void show_progress(void *context, uint64_t done, uint64_t total)
{
    shard_progress_t *p = context;
    if (total > 0)
        progress_bar(&p->progress, p->what,
            (uint64_t)((double)done / (double)total * (double)p->all_bytes), p->all_bytes, "MB",
            MB);
}

/* ---- Threads --------------------------------------------------------------------------------- */

/* Collective. */
static int open_team(const invocation_t *invocation, team_t **team, fail_t *fail)
{
    const shard_flags_t *flags = invocation->flags;
    topology_t topology = {0};
    comm_t *comm = invocation->comm;
    *team = NULL;
    topology_read(&topology, fail);
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    rank_team_open(
        team, comm, rank_team_threads(comm, &topology, flags->threads), TOPOLOGY_BIND_NONE, fail);
    return comm_agree(comm, fail);
}

/* Collective. */
static int open_store(
    const invocation_t *invocation, const char *directory, store_t **store, fail_t *fail)
{
    store_open(store, directory, NULL, NULL, fail);
    if (comm_agree(invocation->comm, fail) != 0)
        return fail->status;
    return comm_agree_same(
        invocation->comm, store_manifest(*store)->checksum, "the store's manifest", fail);
}

static store_job_t job_of(
    const invocation_t *invocation, store_t *store, team_t *team, shard_progress_t *progress)
{
    return (store_job_t){.store = store,
        .rank = (size_t)comm_rank(invocation->comm),
        .n_ranks = (size_t)comm_size(invocation->comm),
        .team = team,
        .progress = show_progress,
        .progress_context = progress,
        .interrupted = signals_ended};
}

static uint64_t source_bytes(const store_manifest_t *manifest)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < manifest->n_sources; i++)
        bytes += manifest->sources[i].bytes;
    return bytes;
}

static double seconds_since(uint64_t begin_ns)
{
    return (double)(clock_ns() - begin_ns) * 1e-9;
}

/* ---- Making ---------------------------------------------------------------------------------- */

/* Collective. The ranks' tables to rank 0. */
static int gather_tables(comm_t *comm, store_write_t *write, fail_t *fail)
{
    size_t n_ranks = (size_t)comm_size(comm), total = 0;
    bool root = comm_rank(comm) == 0;
    size_t *counts = malloc(n_ranks * sizeof *counts);
    for (size_t r = 0; r < n_ranks && counts != NULL; r++)
        total += counts[r] = store_write_table_bytes(write, r);
    store_written_t *mine = malloc(store_write_table_bytes(write, write->rank) + 1);
    store_written_t *all = malloc((root ? total : 0) + 1);
    if (counts == NULL || mine == NULL || all == NULL)
        fail_set(fail, FAIL_MEMORY, "shard: out of memory for the list of blocks");
    if (comm_agree(comm, fail) == 0) {
        store_write_pack(write, mine);
        comm_gatherv_root(comm, mine, counts, all);
        if (root)
            store_write_unpack(write, all);
    }
    free(counts);
    free(mine);
    free(all);
    return fail->status;
}

static void tell_made(
    const store_write_t *write, uint64_t kept, uint64_t stored, double seconds, int64_t peak)
{
    double total = (double)write->layout->total_bytes;
    log_write(LOG_INFO,
        "%s: %.1f MB from %.1f MB (%.3f), %zu blocks in %zu file%s, %.1f s, %.0f MB/s%s; memory per rank at most %.0f MB",
        write->out, (double)stored / MB, total / MB, (double)stored / total,
        write->layout->n_frames, write->layout->n_data, plural(write->layout->n_data), seconds,
        (total - (double)kept) / MB / seconds, kept > 0 ? ", the rest was there already" : "",
        (double)peak / MB);
}

/* Collective. Each rank's data files, one after the other; a failure of one rank ends all. */
static int write_data(comm_t *comm, store_write_t *write, fail_t *fail)
{
    for (size_t i = 0; i < store_write_rounds(write) && comm_agree(comm, fail) == 0; i++) {
        fault_at("shard");
        store_write_data(write, i, fail);
    }
    return comm_agree(comm, fail);
}

/* Collective. */
static int write_store(
    const invocation_t *invocation, const store_layout_t *layout, team_t *team, fail_t *fail)
{
    const shard_flags_t *flags = invocation->flags;
    comm_t *comm = invocation->comm;
    shard_progress_t progress;
    begin_progress(&progress, invocation, "sharding", layout->total_bytes);
    bool root = comm_rank(comm) == 0;
    uint64_t stored = 0;
    store_write_t write = {0};
    store_write_open(
        &write, layout, flags->out, (size_t)comm_rank(comm), (size_t)comm_size(comm), team, fail);
    write.progress = show_progress;
    write.progress_context = &progress;
    write.interrupted = signals_ended;
    if (root && fail->status == 0)
        store_write_begin(&write, UINT64_MAX, fail);
    if (comm_agree(comm, fail) == 0)
        write_data(comm, &write, fail);
    progress_close(&progress.progress);
    if (fail->status == 0 && gather_tables(comm, &write, fail) == 0) {
        uint64_t kept = (uint64_t)comm_sum(comm, (int64_t)write.kept_bytes);
        int64_t peak = comm_max(comm, (int64_t)memory_peak_bytes());
        if (root)
            store_write_finish(&write, &stored, fail);
        if (comm_agree(comm, fail) == 0)
            tell_made(&write, kept, stored, seconds_since(progress.begin_ns), peak);
    }
    store_write_close(&write);
    return fail->status;
}

/* Collective. */
static int make_store(const invocation_t *invocation, team_t *team, fail_t *fail)
{
    const shard_flags_t *flags = invocation->flags;
    comm_t *comm = invocation->comm;
    char directory[4096];
    const store_options_t options = {.level = (int)flags->level,
        .file_bytes = (uint64_t)flags->file_mib << 20,
        .layers = flags->layers};
    store_layout_t layout = {0};
    if (model_dir_find(flags->common.model, directory, sizeof directory, fail) == 0)
        store_layout_open(&layout, directory, &options, fail);
    if (comm_agree(comm, fail) == 0 &&
        comm_agree_same(comm, layout.resume_id, "files of the model directory", fail) == 0)
        write_store(invocation, &layout, team, fail);
    store_layout_close(&layout);
    return fail->status;
}

/* ---- Checking -------------------------------------------------------------------------------- */

/* Messages, one a line. */
typedef struct problems {
    char *text;
    size_t bytes, count;
    size_t last_bytes; /* of the last line, without its end */
} problems_t;

static void add_problem(void *context, const char *message)
{
    problems_t *problems = context;
    char shown[2048];
    size_t n = printable(shown, sizeof shown, message, strlen(message));
    problems->count++;
    /* All blocks of a file that is not there have the same message. */
    if (n > 0 && problems->last_bytes == n &&
        memcmp(problems->text + problems->bytes - n - 1, shown, n) == 0)
        return;
    if (problems->bytes + n + 1 > MAX_PROBLEM_BYTES)
        return;
    char *grown = realloc(problems->text, problems->bytes + n + 1);
    if (grown == NULL)
        return; /* still counted */
    problems->text = grown;
    memcpy(grown + problems->bytes, shown, n);
    grown[problems->bytes + n] = '\n';
    problems->bytes += n + 1;
    problems->last_bytes = n;
}

/* Collective. All ranks' messages to standard output, in the order of the ranks. */
static int print_problems(comm_t *comm, const problems_t *problems, fail_t *fail)
{
    size_t n_ranks = (size_t)comm_size(comm), total = 0;
    size_t *counts = malloc(n_ranks * sizeof *counts);
    if (counts == NULL)
        fail_set(fail, FAIL_MEMORY, "shard: out of memory");
    if (comm_agree(comm, fail) == 0) {
        comm_allgather(comm, &problems->bytes, sizeof *counts, counts);
        for (size_t r = 0; r < n_ranks; r++)
            total += counts[r];
    }
    char *all = malloc(total + 1);
    if (all == NULL)
        fail_set(fail, FAIL_MEMORY, "shard: out of memory");
    if (comm_agree(comm, fail) == 0) {
        comm_gatherv_root(comm, problems->bytes > 0 ? problems->text : all, counts, all);
        if (comm_rank(comm) == 0)
            fwrite(all, 1, total, stdout);
    }
    free(all);
    free(counts);
    return fail->status;
}

/* Collective. `problems` already has the errors of files, from rank 0 alone. */
static int check_blocks(const invocation_t *invocation, store_t *store, team_t *team,
    problems_t *problems, fail_t *fail)
{
    comm_t *comm = invocation->comm;
    const store_manifest_t *manifest = store_manifest(store);
    shard_progress_t progress;
    begin_progress(&progress, invocation, "checking", source_bytes(manifest));
    store_job_t job = job_of(invocation, store, team, &progress);
    store_findings_t findings;
    fault_at("check");
    store_check(&job, add_problem, problems, &findings, fail);
    progress_close(&progress.progress);
    /* Whether the headers, which are valid by now, agree with the manifest. */
    checkpoint_t *checkpoint = NULL;
    fail_t found = {0};
    if (comm_rank(comm) == 0 && fail->status == 0 && problems->count == 0 &&
        checkpoint_open(&checkpoint, store_directory(store), &found) != 0)
        add_problem(problems, found.message);
    checkpoint_close(checkpoint);
    if (comm_agree(comm, fail) != 0)
        return fail->status;
    int64_t bad = comm_sum(comm, (int64_t)problems->count);
    int64_t blocks = comm_sum(comm, (int64_t)findings.n_blocks);
    double seconds = seconds_since(progress.begin_ns);
    if (print_problems(comm, problems, fail) != 0)
        return fail->status;
    if (bad > 0)
        return fail_set(fail, FAIL_FORMAT,
            "%s: %lld of its %lld blocks and files are damaged; make the store again",
            store_directory(store), (long long)bad,
            (long long)blocks + (long long)(manifest->n_data + manifest->n_copied));
    log_write(LOG_INFO, "%s: all %lld blocks are right, %.1f MB in %.1f s, %.0f MB/s",
        store_directory(store), (long long)blocks, (double)source_bytes(manifest) / MB, seconds,
        (double)source_bytes(manifest) / MB / seconds);
    return 0;
}

static void ignore_problem(void *context, const char *message)
{
    (void)context, (void)message;
}

/* Collective. */
static int check_store(const invocation_t *invocation, team_t *team, fail_t *fail)
{
    const shard_flags_t *flags = invocation->flags;
    problems_t problems = {0};
    store_t *store = NULL;
    comm_t *comm = invocation->comm;
    bool root = comm_rank(comm) == 0;
    store_open(&store, flags->check, root ? add_problem : ignore_problem, &problems, fail);
    if (comm_agree(comm, fail) == 0 &&
        comm_agree_same(comm, store_manifest(store)->checksum, "the store's manifest", fail) == 0)
        check_blocks(invocation, store, team, &problems, fail);
    store_close(store);
    free(problems.text);
    return fail->status;
}

/* ---- Listing --------------------------------------------------------------------------------- */

static uint64_t stored_bytes(const store_manifest_t *manifest, const store_segment_t *segment)
{
    uint64_t bytes = 0;
    for (size_t b = 0; b < segment->n_blocks; b++)
        bytes += manifest->frames[segment->first_frame + b].bytes;
    return bytes;
}

static void print_segment(const store_manifest_t *manifest, const store_segment_t *segment)
{
    char shape[CHECKPOINT_MAX_DIMS * 22 + 1] = "";
    size_t used = 0;
    for (size_t d = 0; d < segment->n_dims; d++)
        used += (size_t)snprintf(
            shape + used, sizeof shape - used, d > 0 ? "x%zu" : "%zu", segment->shape[d]);
    uint64_t stored = stored_bytes(manifest, segment);
    printf("%-48s %-5s %-16s %14llu %14llu %6.3f %7zu", printable_name(segment->name).text,
        segment->dtype, shape, (unsigned long long)segment->bytes, (unsigned long long)stored,
        segment->bytes == 0 ? 0 : (double)stored / (double)segment->bytes, segment->n_blocks);
    if (segment->n_blocks > 0)
        printf("  %s",
            printable_name(manifest->data[manifest->frames[segment->first_frame].data].name).text);
    printf("\n");
}

static int list_store(const invocation_t *invocation, fail_t *fail)
{
    const shard_flags_t *flags = invocation->flags;
    store_t *store = NULL;
    if (comm_rank(invocation->comm) != 0)
        return 0;
    if (store_open(&store, flags->list, NULL, NULL, fail) != 0)
        return fail->status;
    const store_manifest_t *manifest = store_manifest(store);
    uint64_t stored = 0, bytes = source_bytes(manifest);
    printf("%-48s %-5s %-16s %14s %14s %6s %7s  %s\n", "tensor", "dtype", "shape", "bytes",
        "stored", "ratio", "blocks", "in (and after)");
    for (size_t s = 0; s < manifest->n_segments; s++)
        if (manifest->segments[s].offset > 0)
            print_segment(manifest, &manifest->segments[s]);
    for (size_t i = 0; i < manifest->n_data; i++)
        stored += manifest->data[i].bytes;
    printf("\n%-48s %16s  %s\n", "source file", "bytes", "checksum");
    for (size_t i = 0; i < manifest->n_sources; i++)
        printf("%-48s %16llu  %s\n", printable_name(manifest->sources[i].name).text,
            (unsigned long long)manifest->sources[i].bytes,
            store_hex(manifest->sources[i].checksum).text);
    printf("\n%zu data files, %llu bytes for %llu: %.4f; %zu files copied; store %s, level %d\n",
        manifest->n_data, (unsigned long long)stored, (unsigned long long)bytes,
        (double)stored / (double)bytes, manifest->n_copied, store_hex(manifest->checksum).text,
        manifest->level);
    store_close(store);
    return 0;
}

/* ---- Unpacking ------------------------------------------------------------------------------- */

/* Collective. */
static int unpack_store(const invocation_t *invocation, team_t *team, fail_t *fail)
{
    const shard_flags_t *flags = invocation->flags;
    comm_t *comm = invocation->comm;
    bool root = comm_rank(comm) == 0;
    store_t *store = NULL;
    if (open_store(invocation, flags->unpack, &store, fail) != 0) {
        store_close(store);
        return fail->status;
    }
    uint64_t bytes = source_bytes(store_manifest(store));
    shard_progress_t progress;
    begin_progress(&progress, invocation, "unpacking", bytes);
    store_job_t job = job_of(invocation, store, team, &progress);
    char *partial = store_unpack_partial(store, flags->out);
    if (partial == NULL)
        fail_set(fail, FAIL_MEMORY, "shard: out of memory");
    else if (root)
        store_unpack_begin(store, flags->out, partial, UINT64_MAX, fail);
    if (comm_agree(comm, fail) == 0)
        store_unpack_sources(&job, partial, fail);
    progress_close(&progress.progress);
    if (comm_agree(comm, fail) == 0 && root)
        store_unpack_finish(store, flags->out, partial, fail);
    if (comm_agree(comm, fail) == 0)
        log_write(LOG_INFO, "%s: %.1f MB in %.1f s", flags->out, (double)bytes / MB,
            seconds_since(progress.begin_ns));
    free(partial);
    store_close(store);
    return fail->status;
}

/* ---- Command --------------------------------------------------------------------------------- */

static int check_flags(const invocation_t *invocation, fail_t *fail)
{
    const shard_flags_t *flags = invocation->flags;
    int n = (flags->check != NULL) + (flags->list != NULL) + (flags->unpack != NULL);
    if (n > 1 || (n == 1 && flags->common.model != NULL))
        return fail_set(
            fail, FAIL_USAGE, "expected one of --model, --check, --list and --unpack, found more");
    if (flags->out == NULL && (n == 0 || flags->unpack != NULL))
        return fail_set(
            fail, FAIL_USAGE, "expected --out %s, found none", n == 0 ? "STORE" : "DIR");
    if (flags->out != NULL && (flags->check != NULL || flags->list != NULL))
        return fail_set(fail, FAIL_USAGE, "--out: expected it with --model or --unpack only");
    if (flags->out != NULL && flags->out[0] == 0)
        return fail_set(fail, FAIL_USAGE, "--out: expected a path, found \"\"");
    return 0;
}

static int cmd_shard(invocation_t *invocation, fail_t *fail)
{
    const shard_flags_t *flags = invocation->flags;
    team_t *team = NULL;
    if (check_flags(invocation, fail) != 0)
        return fail->status;
    if (flags->list != NULL)
        return list_store(invocation, fail);
    if (open_team(invocation, &team, fail) != 0)
        return fail->status;
    signals_install(NULL);
    if (flags->check != NULL)
        check_store(invocation, team, fail);
    else if (flags->unpack != NULL)
        unpack_store(invocation, team, fail);
    else
        make_store(invocation, team, fail);
    signals_remove();
    rank_team_close(team, invocation->comm);
    return fail->status;
}

#define AT(member) offsetof(shard_flags_t, member)

static const arg_t shard_args[] = {
    FLAG_TEXT("--out", AT(out), "STORE",
        "Make a shard store of --model, in a new folder. After an interruption the same command resumes. With --unpack: where the model directory goes."),
    FLAG_SIZE("--level", AT(level), "N", 0, 19,
        "Default 0: entropy coding only, which is fast and smallest for usual weights. 1 to 19: also try zstd's levels, for weights that repeat."),
    FLAG_SIZE("--file-size", AT(file_mib), "MIB", 1, 1048576,
        "Largest size of a data file. Ranks divide the work by data files. Default 1024."),
    FLAG_SIZE("--layers", AT(layers), "N", 1, 1000000,
        "Begin a new data file every N layers, and keep tensors outside of layers in other files."),
    FLAG_TEXT("--check", AT(check), "STORE",
        "Compare every checksum of a store; names file, tensor and rows of any damage."),
    FLAG_TEXT("--list", AT(list), "STORE", "Print the contents of a store."),
    FLAG_TEXT("--unpack", AT(unpack), "STORE",
        "Write the store's original model directory, byte for byte, to --out."),
    FLAG_THREADS(AT(threads)),
};
static const arg_group_t own = ARG_GROUP("Store", shard_args);

static const arg_part_t parts[] = {
    {&flags_model, 0},
    {&own, 0},
    PARTS_END,
};

static const arg_rule_t rules[] = {
    {.why = "with --check", .with = " --check ", .flags = " --level --file-size --layers "},
    {.why = "with --list", .with = " --list ", .flags = " --level --file-size --layers --threads "},
    {.why = "with --unpack", .with = " --unpack ", .flags = " --level --file-size --layers "},
    RULES_END,
};

static const shard_flags_t defaults = {.common = COMMON_DEFAULTS, .file_mib = 1024};

const command_t command_shard = {"shard",
    "choir shard --model DIR --out STORE | --check STORE | --unpack STORE --out DIR",
    "make a compressed, checksummed store of a model, or check one", parts, &defaults,
    sizeof defaults, rules, cmd_shard};
