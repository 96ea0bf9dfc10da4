/* What fuzz targets share.
 *
 * A target is built of fuzz_NAME.c, the sources that its head names, engine/base/{array,file_at,input,json,log,printable,status}.c
 * and -ljansson. With libFuzzer:
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -I. ...
 * Without, it has a program of its own in tests/fuzzing.c:
 *   cc -g -O1 -fsanitize=address,undefined -DCHOIR_FUZZ_MAIN -D_GNU_SOURCE -I. tests/fuzzing.c ...
 *
 *   fuzz_NAME [ROUNDS]   mutates inputs of its own with a fixed seed, for CHOIR_FUZZ_SECONDS at least where that is set
 *   fuzz_NAME FILE...    runs single inputs, as libFuzzer's own program does */
#ifndef CHOIR_TESTS_FUZZING_H
#define CHOIR_TESTS_FUZZING_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Stops the program on a broken promise, which is what fuzzers look for. */
static inline void require(int condition)
{
    if (!condition)
        __builtin_trap();
}

uint64_t fuzz_random(uint64_t *state);

/* What mutations put in: single bytes, or words; the other one is NULL. */
typedef struct fuzz_words {
    const char *bytes;
    const char *const *words;
    size_t n_words;
} fuzz_words_t;

/* Overwrites, removes, repeats or inserts a few bytes, one to four times, from `from` on. Returns the new size, at
 * most `room`. */
size_t fuzz_mutate(uint8_t *data, size_t from, size_t size, size_t room, const fuzz_words_t *words,
    uint64_t *state);

/* Runs a copy that is exactly as large as the input, so that a sanitizer sees any read beyond it. */
void fuzz_input(const uint8_t *data, size_t size);

/* The target's main. round(context, i, state): mutates an input and runs it. */
int fuzz_main(int argc, char **argv, unsigned long default_rounds,
    void (*round)(void *context, unsigned long i, uint64_t *state), void *context);

#endif
