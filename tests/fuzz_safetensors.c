/* Fuzz target: the header of a safetensors file.
 *
 * Sources (fuzzing.h): sharding/checkpoint/safetensors.c
 *
 * An input is taken twice: as a whole file, and as header text of a file whose size its first two
 * bytes give. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sharding/checkpoint/safetensors.h"
#include "tests/fuzzing.h"

static void check_parse(const char *text, size_t n, uint64_t file_bytes)
{
    safetensors_t header;
    fail_t fail = {0};
    int status = safetensors_parse(&header, "file", text, n, file_bytes, &fail);
    require(status == fail.status);
    if (status != 0) {
        require(fail.message[0] != 0 && strchr(fail.message, '\n') == NULL);
        require(header.root == NULL && header.tensors == NULL);
        return;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < header.n_tensors; i++) {
        const checkpoint_tensor_t *tensor = &header.tensors[i];
        require(tensor->n_dims <= CHECKPOINT_MAX_DIMS);
        require(tensor->offset_bytes >= SAFETENSORS_PREFIX_BYTES + n);
        require(tensor->offset_bytes <= file_bytes);
        require(tensor->size_bytes <= file_bytes - tensor->offset_bytes);
        require(safetensors_find(&header, tensor->name) == tensor);
        require(i == 0 || strcmp(header.tensors[i - 1].name, tensor->name) < 0);
        bytes += tensor->size_bytes;
    }
    require(bytes == file_bytes - SAFETENSORS_PREFIX_BYTES - n);
    safetensors_metadata(&header, "format");
    safetensors_clear(&header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char prefix[SAFETENSORS_PREFIX_BYTES] = {0};
    memcpy(prefix, data, size < sizeof prefix ? size : sizeof prefix);
    size_t header_bytes;
    fail_t fail = {0};
    if (safetensors_header_bytes(prefix, size, "file", &header_bytes, &fail) == 0)
        check_parse((const char *)data + sizeof prefix, header_bytes, size);
    if (size >= 2) {
        uint64_t data_bytes = (uint64_t)data[0] | (uint64_t)data[1] << 8;
        check_parse(
            (const char *)data + 2, size - 2, SAFETENSORS_PREFIX_BYTES + (size - 2) + data_bytes);
    }
    return 0;
}

#ifdef CHOIR_FUZZ_MAIN
static const char *const seeds[] = {
    "\x20\0{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"a.bias\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}}  ",
    "\x08\0{\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},"
    "\"e\":{\"dtype\":\"F8_E4M3\",\"shape\":[0,5],\"data_offsets\":[8,8]}}",
    "\x00\0{}",
};
static const size_t seed_bytes[] = {sizeof "\x20\0" - 1, sizeof "\x08\0" - 1, sizeof "\x00\0" - 1};

static void run_round(void *context, unsigned long i, uint64_t *state)
{
    (void)context;
    const fuzz_words_t put = {.bytes = "0123456789{}[],:\"\\x-.eE \n\x80\xff"};
    uint8_t data[512];
    size_t seed = i % (sizeof seeds / sizeof *seeds);
    /* The size's two bytes may be zero, so strlen counts from behind them. */
    size_t size = seed_bytes[seed] + strlen(seeds[seed] + seed_bytes[seed]);
    memcpy(data, seeds[seed], size);
    fuzz_input(data, fuzz_mutate(data, 0, size, sizeof data, &put, state));
}

int main(int argc, char **argv)
{
    return fuzz_main(argc, argv, 100000, run_round, NULL);
}

#endif
