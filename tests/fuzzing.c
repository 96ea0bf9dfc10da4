#include "tests/fuzzing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/json.h"
#include "engine/base/size.h"

uint64_t fuzz_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* A quarter of all words is one byte of any value. */
static size_t pick_word(const fuzz_words_t *words, uint64_t *state, char *byte, const char **word)
{
    *word = byte;
    if (fuzz_random(state) % 4 == 0)
        *byte = (char)fuzz_random(state);
    else if (words->bytes != NULL)
        *byte = words->bytes[fuzz_random(state) % strlen(words->bytes)];
    else
        *word = words->words[fuzz_random(state) % words->n_words];
    return *word == byte ? 1 : strlen(*word);
}

size_t fuzz_mutate(uint8_t *data, size_t from, size_t size, size_t room, const fuzz_words_t *words,
    uint64_t *state)
{
    for (uint64_t i = fuzz_random(state) % 4 + 1; i-- > 0 && size > from + 2;) {
        size_t at = from + fuzz_random(state) % (size - from), n = fuzz_random(state) % 12 + 1;
        char byte;
        const char *word;
        size_t length = pick_word(words, state, &byte, &word);
        switch (fuzz_random(state) % 6) {
        case 0:
            n = size_min(n, size - at);
            memmove(data + at, data + at + n, size - at - n);
            size -= n;
            break;
        case 1:
            n = size_min(n, room - size);
            memmove(data + at + n, data + at, size - at);
            size += n;
            break;
        case 2:
            length = size_min(length, room - size);
            memmove(data + at + length, data + at, size - at);
            memcpy(data + at, word, length);
            size += length;
            break;
        default:
            memcpy(data + at, word, size_min(length, size - at));
        }
    }
    return size;
}

void fuzz_input(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size + (size == 0));
    require(exact != NULL);
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static int run_file(const char *path)
{
    char *text;
    size_t bytes;
    fail_t fail = {0};
    if (file_read(path, (size_t)256 << 20, &text, &bytes, &fail) != 0) {
        fprintf(stderr, "%s\n", fail.message);
        return 1;
    }
    fuzz_input((const uint8_t *)text, bytes);
    free(text);
    return 0;
}

int fuzz_main(int argc, char **argv, unsigned long default_rounds,
    void (*round)(void *context, unsigned long i, uint64_t *state), void *context)
{
    char *end = NULL;
    unsigned long rounds = argc == 2 ? strtoul(argv[1], &end, 10) : default_rounds, done = 0;
    if (argc == 1 || (argc == 2 && end != argv[1] && *end == 0)) {
        const char *limit = getenv("CHOIR_FUZZ_SECONDS");
        time_t last = time(NULL) + (limit == NULL ? 0 : atoi(limit));
        for (uint64_t state = 1; done < rounds || (limit != NULL && time(NULL) < last); done++)
            round(context, done, &state);
        printf("%lu rounds\n", done);
        return 0;
    }
    int failed = 0;
    for (int i = 1; i < argc; i++)
        failed |= run_file(argv[i]);
    return failed;
}
