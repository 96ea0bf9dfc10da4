#include "tests/store_fixture.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/dtype.h"
#include "engine/base/size.h"
#include "engine/base/team.h"
#include "sharding/checkpoint/checkpoint.h"
#include "sharding/store/store.h"
#include "sharding/store/store_unpack.h"
#include "sharding/store/store_write.h"

static void die(const char *what, const char *name)
{
    fprintf(stderr, "store fixture: %s: %s\n", what, name);
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes + 1);
    if (memory == NULL)
        die("out of memory", "test");
    return memory;
}

/* ---- Paths and files ------------------------------------------------------------------------- */

fixture_path_t fixture_folder(void)
{
    fixture_path_t path;
    const char *base = getenv("TMPDIR");
    snprintf(path.text, sizeof path.text, "%s/choir-store-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(path.text) == NULL)
        die("cannot make a folder", path.text);
    return path;
}

fixture_path_t fixture_join(const char *folder, const char *name)
{
    fixture_path_t path;
    int n = snprintf(path.text, sizeof path.text, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof path.text)
        die("path too long", name);
    return path;
}

void fixture_remove(const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0)
        return;
    if (!S_ISDIR(info.st_mode)) {
        unlink(path);
        return;
    }
    chmod(path, 0700);
    size_t n;
    char **names = fixture_names(path, &n);
    for (size_t i = 0; i < n; i++)
        fixture_remove(fixture_join(path, names[i]).text);
    fixture_free_names(names, n);
    rmdir(path);
}

fixture_path_t fixture_here;

int fixture_set_up(void **state)
{
    (void)state;
    fixture_here = fixture_folder();
    return 0;
}

int fixture_tear_down(void **state)
{
    (void)state;
    fixture_remove(fixture_here.text);
    return 0;
}

fixture_path_t fixture_in(const char *name)
{
    return fixture_join(fixture_here.text, name);
}

unsigned char *fixture_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (file == NULL || fstat(fileno(file), &info) != 0)
        die("cannot open", path);
    *bytes = (size_t)info.st_size;
    unsigned char *data = allocate(*bytes);
    if (fread(data, 1, *bytes, file) != *bytes)
        die("cannot read", path);
    fclose(file);
    return data;
}

void fixture_write(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(bytes, 1, n, file) != n || fclose(file) != 0)
        die("cannot write", path);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **fixture_names(const char *folder, size_t *n)
{
    char **names = NULL;
    DIR *listing = opendir(folder);
    if (listing == NULL)
        die("cannot list", folder);
    *n = 0;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        names = realloc(names, (*n + 1) * sizeof *names);
        if (names == NULL || (names[*n] = strdup(entry->d_name)) == NULL)
            die("out of memory", folder);
        (*n)++;
    }
    closedir(listing);
    if (*n > 0)
        qsort(names, *n, sizeof *names, compare_names);
    return names;
}

void fixture_free_names(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

bool fixture_same(const char *a, const char *b)
{
    size_t n_a, n_b;
    char **names_a = fixture_names(a, &n_a), **names_b = fixture_names(b, &n_b);
    bool same = n_a == n_b;
    for (size_t i = 0; i < n_a && same; i++) {
        size_t bytes_a, bytes_b;
        same = strcmp(names_a[i], names_b[i]) == 0;
        if (!same)
            break;
        unsigned char *data_a = fixture_read(fixture_join(a, names_a[i]).text, &bytes_a);
        unsigned char *data_b = fixture_read(fixture_join(b, names_b[i]).text, &bytes_b);
        same = bytes_a == bytes_b && memcmp(data_a, data_b, bytes_a) == 0;
        free(data_a);
        free(data_b);
    }
    fixture_free_names(names_a, n_a);
    fixture_free_names(names_b, n_b);
    return same;
}

/* ---- Models ---------------------------------------------------------------------------------- */

uint64_t fixture_random(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = *state;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static double normal(uint64_t *state)
{
    double u = ((double)(fixture_random(state) >> 11) + 0.5) * 0x1p-53;
    double v = (double)(fixture_random(state) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

void fixture_normal(uint16_t *values, size_t n, double scale, uint64_t *state)
{
    for (size_t i = 0; i < n; i++)
        values[i] = bf16_from_f32((float)(scale * normal(state)));
}

static size_t element_bytes(const char *dtype)
{
    return strcmp(dtype, "F64") == 0   ? 8
           : strcmp(dtype, "F32") == 0 ? 4
           : strcmp(dtype, "I8") == 0  ? 1
                                       : 2;
}

static size_t count_of(const fixture_tensor_t *tensor)
{
    if (tensor->rows == 0 && tensor->columns == 0)
        return 1;
    return tensor->rows * (tensor->columns == 0 ? 1 : tensor->columns);
}

static void fill(const fixture_tensor_t *tensor, unsigned char *bytes, uint64_t *state)
{
    size_t n = count_of(tensor), size = element_bytes(tensor->dtype);
    dtype_t dtype = size == 8                            ? DTYPE_F64
                    : size == 4                          ? DTYPE_F32
                    : strcmp(tensor->dtype, "BF16") == 0 ? DTYPE_BF16
                                                         : DTYPE_F16;
    if (tensor->scale == 0 || size == 1) {
        for (size_t i = 0; i < n * size; i++)
            bytes[i] = (unsigned char)fixture_random(state);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        double value = tensor->scale * normal(state);
        dtype_convert(bytes + i * size, dtype, &value, DTYPE_F64, 1);
    }
}

void fixture_safetensors(const char *path, const fixture_tensor_t *tensors, size_t n, uint64_t seed)
{
    char *header = allocate(n * 256 + 64);
    size_t used = 1, offset = 0;
    strcpy(header, "{");
    for (size_t i = 0; i < n; i++) {
        const fixture_tensor_t *t = &tensors[i];
        size_t bytes = count_of(t) * element_bytes(t->dtype);
        char shape[64] = "";
        if (t->rows != 0 || t->columns != 0)
            snprintf(shape, sizeof shape, t->columns == 0 ? "%zu" : "%zu,%zu", t->rows, t->columns);
        used += (size_t)sprintf(header + used,
            "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
            i == 0 ? "" : ",", t->name, t->dtype, shape, offset, offset + bytes);
        offset += bytes;
    }
    header[used++] = '}';
    while (used % 8 != 0)
        header[used++] = ' ';
    unsigned char *file = allocate(8 + used + offset);
    uint64_t length = used;
    memcpy(file, &length, 8);
    memcpy(file + 8, header, used);
    size_t at = 8 + used;
    for (size_t i = 0; i < n; i++) {
        fill(&tensors[i], file + at, &seed);
        at += count_of(&tensors[i]) * element_bytes(tensors[i].dtype);
    }
    fixture_write(path, file, at);
    free(file);
    free(header);
}

static void begin_model(const char *folder)
{
    static const char config[] = "{\"model_type\": \"fixture\", \"hidden_size\": 24}\n";
    if (mkdir(folder, 0755) != 0)
        die("cannot make", folder);
    fixture_write(fixture_join(folder, "config.json").text, config, sizeof config - 1);
}

void fixture_model(const char *folder, const fixture_tensor_t *tensors, size_t n, uint64_t seed)
{
    begin_model(folder);
    fixture_safetensors(fixture_join(folder, "model.safetensors").text, tensors, n, seed);
}

void fixture_mixed_model(const char *folder, uint64_t seed)
{
    static const fixture_tensor_t first[] = {
        {"double", "F64", 5, 7, 1},
        {"single", "F32", 48, 9, 1.5},
        {"scalar", "F32", 0, 0, 1},
        {"model.embed_tokens.weight", "BF16", 200, 24, 0.02},
        {"model.layers.0.a.weight", "BF16", 33, 100, 0.05},
        {"empty", "BF16", 0, 5, 1},
        {"model.layers.0.bits", "BF16", 40, 24, 0},
        {"half", "F16", 17, 30, 0.1},
    };
    static const fixture_tensor_t second[] = {
        {"bias", "BF16", 300, 0, 0.3},
        {"model.layers.1.a.weight", "BF16", 16, 64, 1e-4},
        {"stray", "BF16", 20, 20, 1},
        {"bytes", "I8", 1000, 3, 0},
    };
    static const char index[] =
        "{\"weight_map\": {\"model.embed_tokens.weight\": \"m-1.safetensors\","
        "\"model.layers.0.a.weight\": \"m-1.safetensors\","
        "\"model.layers.0.bits\": \"m-1.safetensors\", \"half\": \"m-1.safetensors\","
        "\"empty\": \"m-1.safetensors\","
        "\"single\": \"m-1.safetensors\", \"double\": \"m-1.safetensors\","
        "\"scalar\": \"m-1.safetensors\", \"bias\": \"m-2.safetensors\","
        "\"bytes\": \"m-2.safetensors\", \"model.layers.1.a.weight\": \"m-2.safetensors\"}}\n";
    begin_model(folder);
    fixture_safetensors(
        fixture_join(folder, "m-1.safetensors").text, first, sizeof first / sizeof *first, seed);
    fixture_safetensors(fixture_join(folder, "m-2.safetensors").text, second,
        sizeof second / sizeof *second, seed + 1);
    fixture_write(
        fixture_join(folder, "model.safetensors.index.json").text, index, sizeof index - 1);
}

/* ---- Stores ---------------------------------------------------------------------------------- */

fixture_options_t fixture_options(void)
{
    return (fixture_options_t){.store.file_bytes = (uint64_t)1 << 30, .threads = 2, .ranks = 1};
}

static int write_as_rank(const store_layout_t *layout, const char *out, size_t rank,
    const fixture_options_t *options, team_t *team, store_written_t *tables, size_t *used,
    fail_t *fail)
{
    store_write_t write;
    if (store_write_open(&write, layout, out, rank, options->ranks, team, fail) != 0)
        return fail->status;
    if (rank == 0)
        store_write_begin(
            &write, options->free_bytes == 0 ? UINT64_MAX : options->free_bytes, fail);
    write.interrupted = options->interrupted;
    for (size_t i = 0; i < store_write_rounds(&write) && fail->status == 0; i++)
        store_write_data(&write, i, fail);
    if (fail->status == 0) {
        store_write_pack(&write, tables + *used);
        *used += store_write_table_bytes(&write, rank) / sizeof *tables;
        /* The ranks take turns here, so the last one has all tables. */
        if (rank + 1 == options->ranks) {
            uint64_t stored;
            store_write_unpack(&write, tables);
            store_write_finish(&write, &stored, fail);
        }
    }
    store_write_close(&write);
    return fail->status;
}

int fixture_shard(
    const char *model, const char *out, const fixture_options_t *options, fail_t *fail)
{
    store_layout_t layout;
    team_t *team = NULL;
    size_t used = 0;
    if (store_layout_open(&layout, model, &options->store, fail) != 0)
        return fail->status;
    store_written_t *tables = allocate(layout.n_frames * sizeof *tables);
    if (team_open(&team, options->threads, true, fail) != 0)
        die("no threads", fail->message);
    for (size_t r = 0; r < options->ranks && fail->status == 0; r++)
        write_as_rank(&layout, out, r, options, team, tables, &used, fail);
    team_close(team);
    free(tables);
    store_layout_close(&layout);
    return fail->status;
}

int fixture_unpack(const char *directory, const char *out, fail_t *fail)
{
    store_t *store = NULL;
    team_t *team = NULL;
    if (store_open(&store, directory, NULL, NULL, fail) != 0)
        return fail->status;
    if (team_open(&team, 2, true, fail) != 0)
        die("no threads", fail->message);
    store_job_t job = {.store = store, .n_ranks = 1, .team = team};
    char *partial = store_unpack_partial(store, out);
    if (store_unpack_begin(store, out, partial, UINT64_MAX, fail) == 0 &&
        store_unpack_sources(&job, partial, fail) == 0)
        store_unpack_finish(store, out, partial, fail);
    free(partial);
    team_close(team);
    store_close(store);
    return fail->status;
}

typedef struct first_problem {
    size_t count, room;
    char *message;
} first_problem_t;

static void note_problem(void *context, const char *message)
{
    first_problem_t *first = context;
    if (first->count++ == 0)
        snprintf(first->message, first->room, "%s", message);
}

size_t fixture_check(const char *directory, size_t threads, char *message, size_t message_bytes)
{
    first_problem_t first = {.room = message_bytes, .message = message};
    store_t *store = NULL;
    team_t *team = NULL;
    store_findings_t findings;
    fail_t fail = {0};
    message[0] = 0;
    if (store_open(&store, directory, note_problem, &first, &fail) != 0) {
        note_problem(&first, fail.message);
        return first.count;
    }
    if (team_open(&team, threads, true, &fail) != 0)
        die("no threads", fail.message);
    store_job_t job = {.store = store, .n_ranks = 1, .team = team};
    if (store_check(&job, note_problem, &first, &findings, &fail) != 0)
        note_problem(&first, fail.message);
    team_close(team);
    store_close(store);
    checkpoint_t *checkpoint = NULL;
    if (first.count == 0 && checkpoint_open(&checkpoint, directory, &fail) != 0)
        note_problem(&first, fail.message);
    checkpoint_close(checkpoint);
    return first.count;
}

int fixture_load(const char *model, fail_t *fail)
{
    checkpoint_t *checkpoint = NULL;
    if (checkpoint_open(&checkpoint, model, fail) != 0)
        return fail->status;
    for (size_t i = 0; i < checkpoint_count(checkpoint) && fail->status == 0; i++) {
        const checkpoint_tensor_t *tensor = checkpoint_at(checkpoint, i);
        char *bytes = allocate((size_t)tensor->size_bytes);
        checkpoint_read_bytes(checkpoint, tensor, 0, tensor->size_bytes, bytes, fail);
        free(bytes);
    }
    checkpoint_close(checkpoint);
    return fail->status;
}

void fixture_edit_manifest(const char *store, const char *from, const char *to)
{
    static const size_t tail = sizeof ",\"checksum\":\"0123456789abcdef\"}\n" - 1;
    fixture_path_t path = fixture_join(store, STORE_MANIFEST);
    size_t bytes;
    char *text = (char *)fixture_read(path.text, &bytes);
    text[bytes] = 0;
    char *place = strstr(text, from);
    if (place == NULL)
        die("the manifest does not hold", from);
    size_t before = (size_t)(place - text), length = bytes - tail - strlen(from) + strlen(to);
    char *edited = allocate(length + tail + 1);
    memcpy(edited, text, before);
    memcpy(edited + before, to, strlen(to));
    memcpy(
        edited + before + strlen(to), place + strlen(from), bytes - tail - before - strlen(from));
    sprintf(
        edited + length, ",\"checksum\":\"%s\"}\n", store_hex(store_checksum(edited, length)).text);
    fixture_write(path.text, edited, length + tail);
    free(edited);
    free(text);
}
