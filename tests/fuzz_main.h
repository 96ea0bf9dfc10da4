/* A fuzz target's own program, where it is not built with libFuzzer (CHOIR_FUZZ_MAIN): rounds on
 * inputs of its own, or single files. Included by fuzz_*.c alone. */
#ifndef CHOIR_TESTS_FUZZ_MAIN_H
#define CHOIR_TESTS_FUZZ_MAIN_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fuzz_file(const char *path)
{
    char *text;
    size_t bytes;
    fail_t fail = {0};
    if (file_read(path, (size_t)256 << 20, &text, &bytes, &fail) != 0) {
        fprintf(stderr, "%s\n", fail.message);
        return 1;
    }
    LLVMFuzzerTestOneInput((const uint8_t *)text, bytes);
    free(text);
    return 0;
}

/* "[ROUNDS]" or "FILE...". */
static int fuzz_main(
    int argc, char **argv, unsigned long default_rounds, void (*run_rounds)(unsigned long))
{
    char *end = NULL;
    unsigned long rounds = argc == 2 ? strtoul(argv[1], &end, 10) : default_rounds;
    if (argc == 1 || (argc == 2 && end != argv[1] && *end == 0)) {
        run_rounds(rounds);
        return 0;
    }
    int failed = 0;
    for (int i = 1; i < argc; i++)
        failed |= fuzz_file(argv[i]);
    return failed;
}

#endif
