#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/path.h"
#include "sharding/store/store_output.h"
#include "sharding/store/store_write.h"

static int copy_file(const store_write_t *write, const char *name, store_file_t *file, fail_t *fail)
{
    char *path = path_join(write->layout->directory, name), *text = NULL;
    size_t bytes;
    if (path == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", name);
    if (file_read(path, STORE_MAX_COPIED_BYTES, &text, &bytes, fail) == 0) {
        *file = (store_file_t){name, bytes, store_checksum(text, bytes)};
        store_output_file(write->partial, name, text, bytes, fail);
    }
    free(text);
    free(path);
    return fail->status;
}

/* Where the frames are, and the digests of segments and sources. */
static void fill_manifest(const store_write_t *write, store_manifest_t *manifest,
    uint64_t *checksums, uint64_t *stored_bytes)
{
    const store_layout_t *layout = write->layout;
    *stored_bytes = 0;
    for (size_t d = 0; d < layout->n_data; d++) {
        uint64_t offset = STORE_HEAD_BYTES;
        size_t n = 0;
        for (size_t p = layout->data_parts[d]; p < layout->data_parts[d + 1]; p++) {
            const store_part_t *part = &layout->parts[p];
            size_t first = layout->segments[part->segment].first_frame + part->first_block;
            for (size_t f = first; f < first + part->n_blocks; f++) {
                manifest->frames[f] = (store_frame_t){offset, write->written[f].frame_checksum,
                    (uint32_t)write->written[f].bytes, (uint32_t)d};
                offset += write->written[f].bytes;
                checksums[n++] = write->written[f].frame_checksum;
            }
        }
        manifest->data[d].bytes = offset + STORE_TAIL_BYTES;
        manifest->data[d].checksum = store_digest_of(checksums, n);
        *stored_bytes += manifest->data[d].bytes;
    }
    for (size_t s = 0; s < layout->n_segments; s++) {
        store_segment_t *segment = &manifest->segments[s];
        for (size_t b = 0; b < segment->n_blocks; b++)
            checksums[b] = write->written[segment->first_frame + b].block_checksum;
        segment->digest = store_digest_of(checksums, segment->n_blocks);
    }
    for (size_t i = 0, s = 0; i < layout->n_sources; i++) {
        size_t n = 0;
        for (; s < layout->n_segments && layout->segments[s].source == i; s++)
            checksums[n++] = manifest->segments[s].digest;
        manifest->sources[i] = (store_file_t){
            layout->sources[i].name, layout->sources[i].bytes, store_digest_of(checksums, n)};
    }
}

static int write_manifest(const store_write_t *write, store_manifest_t *manifest, fail_t *fail)
{
    char *text = NULL;
    size_t bytes;
    if (store_manifest_write(manifest, &text, &bytes, fail) == 0)
        store_output_file(write->partial, STORE_MANIFEST, text, bytes, fail);
    free(text);
    return fail->status;
}

int store_write_finish(store_write_t *write, uint64_t *stored_bytes, fail_t *fail)
{
    const store_layout_t *layout = write->layout;
    char(*names)[STORE_DATA_NAME_BYTES] = malloc((layout->n_data + 1) * sizeof *names);
    uint64_t *checksums = malloc((layout->n_frames + layout->n_segments + 1) * sizeof *checksums);
    store_manifest_t manifest = {.id = layout->id,
        .level = layout->options.level,
        .n_copied = layout->n_copied,
        .n_data = layout->n_data,
        .n_sources = layout->n_sources,
        .n_segments = layout->n_segments,
        .n_frames = layout->n_frames,
        .copied = calloc(layout->n_copied + 1, sizeof(store_file_t)),
        .data = calloc(layout->n_data + 1, sizeof(store_file_t)),
        .sources = calloc(layout->n_sources + 1, sizeof(store_file_t)),
        .segments = malloc((layout->n_segments + 1) * sizeof(store_segment_t)),
        .frames = malloc((layout->n_frames + 1) * sizeof(store_frame_t))};
    if (names == NULL || checksums == NULL || manifest.copied == NULL || manifest.data == NULL ||
        manifest.sources == NULL || manifest.segments == NULL || manifest.frames == NULL) {
        fail_set(fail, FAIL_MEMORY, "shard: out of memory for the manifest");
    } else {
        memcpy(manifest.segments, layout->segments, layout->n_segments * sizeof *manifest.segments);
        for (size_t d = 0; d < layout->n_data; d++) {
            store_data_name(d, names[d]);
            manifest.data[d].name = names[d];
        }
        fill_manifest(write, &manifest, checksums, stored_bytes);
        for (size_t i = 0; i < layout->n_copied && fail->status == 0; i++)
            copy_file(write, layout->copied[i], &manifest.copied[i], fail);
        if (fail->status == 0 && write_manifest(write, &manifest, fail) == 0)
            store_partial_publish(write->partial, write->out, fail);
    }
    store_manifest_clear(&manifest);
    free(checksums);
    free(names);
    return fail->status;
}
