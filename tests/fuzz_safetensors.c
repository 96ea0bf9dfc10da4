/* Fuzz target: the header of a safetensors file.
 *
 * With libFuzzer:   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I.
 * tests/fuzz_safetensors.c sharding/checkpoint/safetensors.c engine/base/{json,status}.c -ljansson -o
 * fuzz_safetensors Without:          cc -g -O1 -fsanitize=address,undefined -D_GNU_SOURCE
 * -DCHOIR_FUZZ_MAIN -I. (the same files) fuzz_safetensors [ROUNDS] mutates built-in headers with a
 * fixed seed; or, as libFuzzer's own program does, fuzz_safetensors FILE... runs single inputs.
 *
 * An input is taken twice: as a whole file, and as header text of a file whose size its first two
 * bytes give. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sharding/checkpoint/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Stops the program on a broken promise, which is what fuzzers look for. */
static void require(int condition)
{
    if (!condition)
        __builtin_trap();
}

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
#include "tests/fuzz_main.h"

static const char *const seeds[] = {
    "\x20\0{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"a.bias\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}}  ",
    "\x08\0{\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},"
    "\"e\":{\"dtype\":\"F8_E4M3\",\"shape\":[0,5],\"data_offsets\":[8,8]}}",
    "\x00\0{}",
};
static const size_t seed_bytes[] = {sizeof "\x20\0" - 1, sizeof "\x08\0" - 1, sizeof "\x00\0" - 1};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* Replaces, removes, repeats or inserts a few bytes. Returns the new size, at most `room`. */
static size_t mutate(uint8_t *data, size_t size, size_t room, uint64_t *state)
{
    static const char likely[] = "0123456789{}[],:\"\\x-.eE \n\x80\xff";
    for (uint64_t i = next_random(state) % 4 + 1; i-- > 0 && size > 2;) {
        size_t at = next_random(state) % size, n = next_random(state) % 8 + 1;
        uint8_t byte = (uint8_t)likely[next_random(state) % (sizeof likely - 1)];
        switch (next_random(state) % 4) {
        case 0:
            data[at] = byte;
            break;
        case 1:
            n = n < size - at ? n : size - at;
            memmove(data + at, data + at + n, size - at - n);
            size -= n;
            break;
        case 2:
            n = n < room - size ? n : room - size;
            memmove(data + at + n, data + at, size - at);
            size += n;
            break;
        default:
            if (size < room) {
                memmove(data + at + 1, data + at, size - at);
                data[at] = byte;
                size++;
            }
        }
    }
    return size;
}

static void run_rounds(unsigned long rounds)
{
    uint64_t state = 1;
    for (unsigned long round = 0; round < rounds; round++) {
        uint8_t data[512];
        size_t seed = round % (sizeof seeds / sizeof *seeds);
        /* The size's two bytes may be zero, so strlen counts from behind them. */
        size_t size = seed_bytes[seed] + strlen(seeds[seed] + seed_bytes[seed]);
        memcpy(data, seeds[seed], size);
        size = mutate(data, size, sizeof data, &state);
        /* Exactly as large as the input, so that a sanitizer sees any read beyond it. */
        uint8_t *exact = malloc(size + (size == 0));
        require(exact != NULL);
        memcpy(exact, data, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%lu rounds\n", rounds);
}

int main(int argc, char **argv)
{
    return fuzz_main(argc, argv, 100000, run_rounds);
}

#endif
