/* What the tests of shard stores have in common: model directories with random weights, making and
 * checking stores, comparing and changing files. Functions that cannot do their part end the test
 * program with a message. */
#ifndef CHOIR_TESTS_STORE_FIXTURE_H
#define CHOIR_TESTS_STORE_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "sharding/store/store_layout.h"

/* A tensor to be written: [rows, columns], or [rows] when columns is 0, or [] when both are. */
typedef struct fixture_tensor {
    const char *name, *dtype; /* "BF16", "F16", "F32", "F64", "I8" */
    size_t rows, columns;
    double scale; /* standard deviation of normal values; 0: random bits */
} fixture_tensor_t;

/* A folder for one test below the system's place for such, removed by fixture_remove. */
typedef struct fixture_path {
    char text[512];
} fixture_path_t;
fixture_path_t fixture_folder(void);
fixture_path_t fixture_join(const char *folder, const char *name);
void fixture_remove(const char *path);

/* For tests that have one folder at a time: what cmocka calls around each of them, the folder, and
 * a path in it. */
int fixture_set_up(void **state);
int fixture_tear_down(void **state);
extern fixture_path_t fixture_here;
fixture_path_t fixture_in(const char *name);

uint64_t fixture_random(uint64_t *state);
/* n normal values as bf16 bits. */
void fixture_normal(uint16_t *values, size_t n, double scale, uint64_t *state);

/* Writes a safetensors file. */
void fixture_safetensors(
    const char *path, const fixture_tensor_t *tensors, size_t n, uint64_t seed);
/* A model directory of one file, with a small config.json. */
void fixture_model(const char *folder, const fixture_tensor_t *tensors, size_t n, uint64_t seed);
/* A few tensors of all kinds in two files, with an index that leaves one out. */
void fixture_mixed_model(const char *folder, uint64_t seed);

/* Makes a store with so many threads, and as so many ranks one after the other. */
typedef struct fixture_options {
    store_options_t store;
    size_t threads, ranks;
    uint64_t free_bytes; /* 0: what the file system has */
    bool (*interrupted)(void);
} fixture_options_t;
fixture_options_t fixture_options(void);
int fixture_shard(
    const char *model, const char *out, const fixture_options_t *options, fail_t *fail);
int fixture_unpack(const char *store, const char *out, fail_t *fail);

/* Number of problems that a check of everything finds; *message: the first of them. Opening that
 * fails counts as one. */
size_t fixture_check(const char *store, size_t threads, char *message, size_t message_bytes);
/* Reads every tensor through checkpoint_t. */
int fixture_load(const char *model, fail_t *fail);

/* A whole file, to be freed. */
unsigned char *fixture_read(const char *path, size_t *bytes);
void fixture_write(const char *path, const void *bytes, size_t n);
/* Names of the files in a folder, sorted; to be freed with fixture_free_names. */
char **fixture_names(const char *folder, size_t *n);
void fixture_free_names(char **names, size_t n);
/* Whether two folders hold the same names with the same bytes. */
bool fixture_same(const char *a, const char *b);

/* The manifest with one text replaced, and its checksum made right again. */
void fixture_edit_manifest(const char *store, const char *from, const char *to);

#endif
