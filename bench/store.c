/* How fast blocks of a shard store are made and read, on one core, without files.
 *
 *   bench_store [COLUMNS [MODEL.safetensors [LEVEL]]]
 *
 * Blocks of 16 rows of COLUMNS bf16 values (3584 when not given): of a checkpoint's tensors behind
 * its header, or normal values at four scales, 0.02 first. 64 MB, more than a cache. Making is
 * split, compression and checksums; reading is what a rank does with a frame: its checksum, zstd,
 * merging the planes. Five repetitions of each, the time being the thread's own, so that other
 * processes disturb less; median, slowest and fastest in GB of bf16 a second. Beside it, in the
 * same repetition, what memcpy makes of the same bytes, the scale for this machine at this moment.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/dtype.h"
#include "sharding/store/store_codec.h"

#define REPETITIONS 5
#define TOTAL_BYTES ((size_t)64 << 20)
#define ROWS 16

typedef struct bench {
    size_t block_bytes, n_blocks, bound;
    int level;
    unsigned char *blocks, *again, *frames;
    size_t *frame_bytes; /* [n_blocks] */
    store_codec_t *codec;
    fail_t fail;
} bench_t;

static double thread_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void fill_normal(uint16_t *values, size_t n)
{
    static const double scales[] = {0.02, 1.0 / 60, 0.3, 1};
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < n; i++) {
        double uniform[2];
        for (int k = 0; k < 2; k++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            uniform[k] = ((double)(state >> 11) + 0.5) * 0x1p-53;
        }
        double normal = sqrt(-2 * log(uniform[0])) * cos(6.283185307179586 * uniform[1]);
        values[i] = bf16_from_f32((float)(scales[i * 4 / n] * normal));
    }
}

/* Bytes read, behind the header. */
static size_t fill_from(const char *path, unsigned char *bytes, size_t n)
{
    FILE *file = fopen(path, "rb");
    uint64_t header;
    if (file == NULL || fread(&header, 8, 1, file) != 1 ||
        fseek(file, (long)(8 + header), SEEK_SET) != 0) {
        fprintf(stderr, "bench_store: %s: cannot read\n", path);
        exit(1);
    }
    n = fread(bytes, 1, n, file);
    fclose(file);
    return n;
}

static void encode(bench_t *b)
{
    for (size_t i = 0; i < b->n_blocks; i++) {
        store_frame_head_t head = {.block = (uint32_t)i, .planes = STORE_PLANES_BF16};
        store_codec_encode(b->codec, b->level, b->blocks + i * b->block_bytes, b->block_bytes,
            &head, b->frames + i * b->bound, &b->frame_bytes[i], &b->fail);
    }
}

static void decode(bench_t *b)
{
    for (size_t i = 0; i < b->n_blocks && b->fail.status == 0; i++) {
        store_frame_head_t head;
        const unsigned char *frame = b->frames + i * b->bound;
        if (store_frame_open(&head, frame, b->frame_bytes[i], "frame", &b->fail) == 0)
            store_codec_decode(
                b->codec, &head, frame, b->again + i * b->block_bytes, "frame", &b->fail);
    }
}

static void copy(bench_t *b)
{
    memcpy(b->again, b->blocks, b->n_blocks * b->block_bytes);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_rates(const char *what, double *seconds, double bytes)
{
    qsort(seconds, REPETITIONS, sizeof *seconds, compare_doubles);
    printf("%-8s %6.2f GB/s  (%.2f to %.2f)\n", what, bytes / 1e9 / seconds[REPETITIONS / 2],
        bytes / 1e9 / seconds[REPETITIONS - 1], bytes / 1e9 / seconds[0]);
}

static void run(bench_t *b)
{
    static void (*const steps[])(bench_t *) = {encode, decode, copy};
    static const char *const names[] = {"making", "reading", "memcpy"};
    double seconds[3][REPETITIONS], bytes = (double)b->n_blocks * (double)b->block_bytes;
    size_t stored = 0;
    memset(b->again, 1, b->n_blocks * b->block_bytes); /* pages in place */
    memset(b->frames, 1, b->n_blocks * b->bound);
    for (size_t r = 0; r < REPETITIONS; r++)
        for (size_t s = 0; s < 3; s++) {
            double begin = thread_seconds();
            steps[s](b);
            seconds[s][r] = thread_seconds() - begin;
            if (s == 1 && memcmp(b->blocks, b->again, b->n_blocks * b->block_bytes) != 0) {
                fprintf(stderr, "bench_store: blocks differ after a round trip\n");
                exit(1);
            }
        }
    for (size_t i = 0; i < b->n_blocks; i++)
        stored += b->frame_bytes[i];
    printf("blocks of %zu bytes, level %d, zstd %s: %.4f of the bytes\n", b->block_bytes, b->level,
        store_codec_library(), (double)stored / bytes);
    for (size_t s = 0; s < 3; s++)
        print_rates(names[s], seconds[s], bytes);
}

int main(int argc, char **argv)
{
    size_t columns = argc > 1 ? strtoul(argv[1], NULL, 10) : 3584;
    bench_t b = {
        .block_bytes = ROWS * columns * 2, .level = argc > 3 ? (int)strtoul(argv[3], NULL, 10) : 0};
    if (columns == 0 || b.block_bytes > STORE_MAX_BLOCK_BYTES || b.level > STORE_MAX_LEVEL) {
        fprintf(stderr, "usage: bench_store [COLUMNS [MODEL.safetensors [LEVEL]]]\n");
        return 2;
    }
    b.n_blocks = TOTAL_BYTES / b.block_bytes;
    b.bound = store_frame_bound(b.block_bytes, STORE_PLANES_BF16);
    b.blocks = malloc(b.n_blocks * b.block_bytes);
    b.again = malloc(b.n_blocks * b.block_bytes);
    b.frames = malloc(b.n_blocks * b.bound);
    b.frame_bytes = malloc(b.n_blocks * sizeof *b.frame_bytes);
    if (b.blocks == NULL || b.again == NULL || b.frames == NULL || b.frame_bytes == NULL ||
        store_codec_open(&b.codec, &b.fail) != 0) {
        fprintf(stderr, "bench_store: out of memory\n");
        return 1;
    }
    if (argc > 2 && argv[2][0] != 0)
        b.n_blocks = fill_from(argv[2], b.blocks, b.n_blocks * b.block_bytes) / b.block_bytes;
    else
        fill_normal((uint16_t *)(void *)b.blocks, b.n_blocks * ROWS * columns);
    run(&b);
    store_codec_close(b.codec);
    free(b.blocks);
    free(b.again);
    free(b.frames);
    free(b.frame_bytes);
    return b.fail.status != 0;
}
