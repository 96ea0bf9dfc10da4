#include "sharding/checkpoint/checkpoint_files.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/path.h"

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), n_suffix = strlen(suffix);
    return n >= n_suffix && strcmp(name + n - n_suffix, suffix) == 0;
}

/* The likely mistake, when the directory holds weights of another kind. */
static const char *other_weights_hint(const char *directory)
{
    static const struct {
        const char *suffix, *hint;
    } hints[] = {
        {".safetensors", "; it holds other .safetensors files, is the index missing?"},
        {".gguf", "; .gguf files cannot be read, use the safetensors of the original model"},
        {".bin", "; pytorch_model.bin cannot be read, convert it to safetensors"},
    };
    size_t best = sizeof hints / sizeof *hints;
    DIR *listing = opendir(directory);
    if (listing == NULL)
        return "";
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        for (size_t i = 0; i < best; i++)
            if (has_suffix(entry->d_name, hints[i].suffix))
                best = i;
    closedir(listing);
    return best < sizeof hints / sizeof *hints ? hints[best].hint : "";
}

/* ---- Index ----------------------------------------------------------------------------------- */

/* An entry of weight_map. */
typedef struct index_entry {
    const char *file, *tensor;
} index_entry_t;

static int compare_entries(const void *a, const void *b)
{
    const index_entry_t *x = a, *y = b;
    int order = strcmp(x->file, y->file);
    return order != 0 ? order : strcmp(x->tensor, y->tensor);
}

/* entries: [json_object_size(map)], written in the order of files */
static int read_entries(const char *path, json_t *map, index_entry_t *entries, fail_t *fail)
{
    size_t n = 0;
    const char *tensor;
    json_t *value;
    json_object_foreach (map, tensor, value) {
        const char *file = json_string_value(value);
        if (file == NULL || file[0] == 0 || strchr(file, '/') != NULL)
            return fail_set(fail, FAIL_FORMAT,
                "%s: weight_map: %s: expected the name of a file beside the index, found %s", path,
                tensor, file != NULL ? file : "something else");
        entries[n++] = (index_entry_t){file, tensor};
    }
    qsort(entries, n, sizeof *entries, compare_entries);
    return 0;
}

static int list_indexed(checkpoint_files_t *files, const char *path, fail_t *fail)
{
    if (json_python_file_read(path, &files->index, fail) != 0)
        return fail->status;
    json_t *map = json_object_get(files->index, "weight_map");
    size_t n = json_object_size(map);
    if (n == 0)
        return fail_set(fail, FAIL_FORMAT,
            "%s: weight_map: expected an object with a file name for each tensor, found %s", path,
            map == NULL           ? "none"
            : json_is_object(map) ? "an empty one"
                                  : "something else");
    index_entry_t *entries = malloc(n * sizeof *entries);
    files->names = malloc(n * sizeof *files->names);
    files->needed = malloc(n * sizeof *files->needed);
    if (entries == NULL || files->names == NULL || files->needed == NULL)
        fail_set(fail, FAIL_MEMORY, "%s: no memory for %zu tensors", path, n);
    else
        read_entries(path, map, entries, fail);
    for (size_t i = 0; i < n && fail->status == 0; i++)
        if (i == 0 || strcmp(entries[i].file, entries[i - 1].file) != 0) {
            files->names[files->n] = entries[i].file;
            files->needed[files->n++] = entries[i].tensor;
        }
    free(entries);
    return fail->status;
}

static int list_single(checkpoint_files_t *files, fail_t *fail)
{
    files->names = malloc(sizeof *files->names);
    if (files->names == NULL)
        return fail_set(fail, FAIL_MEMORY, "checkpoint: no memory for a file's name");
    files->names[files->n++] = CHECKPOINT_SINGLE_FILE;
    return 0;
}

int checkpoint_files_list(checkpoint_files_t *files, const char *directory, fail_t *fail)
{
    *files = (checkpoint_files_t){0};
    bool has_index = path_exists(directory, CHECKPOINT_INDEX_FILE);
    if (path_exists(directory, CHECKPOINT_SINGLE_FILE)) {
        files->index_ignored = has_index;
        list_single(files, fail);
    } else if (has_index) {
        char *path = path_join(directory, CHECKPOINT_INDEX_FILE);
        if (path == NULL)
            fail_set(fail, FAIL_MEMORY, "checkpoint: no memory for a file's name");
        else
            list_indexed(files, path, fail);
        free(path);
    } else {
        fail_set(fail, FAIL_FILE,
            "%s: expected " CHECKPOINT_SINGLE_FILE " or " CHECKPOINT_INDEX_FILE ", found neither%s",
            directory, other_weights_hint(directory));
    }
    if (fail->status != 0)
        checkpoint_files_clear(files);
    return fail->status;
}

void checkpoint_files_clear(checkpoint_files_t *files)
{
    free(files->names);
    free(files->needed);
    json_decref(files->index);
    *files = (checkpoint_files_t){0};
}
