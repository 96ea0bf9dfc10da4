/* Model directories for the tests of reading checkpoints: files written by hand, whole or broken,
 * in a temporary directory of the process. */
#ifndef CHOIR_TESTS_CHECKPOINT_FIXTURE_H
#define CHOIR_TESTS_CHECKPOINT_FIXTURE_H

#include <stddef.h>

#include "engine/base/status.h"
#include "sharding/checkpoint/checkpoint.h"

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

/* An entry of a header: a tensor of F32. */
#define F32_AT(name, shape, begin, end)                                                            \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

/* A header of two tensors and 32 bytes. */
#define TWO_TENSORS                                                                                \
    "{\"__metadata__\":{\"format\":\"pt\"},"                                                       \
    "\"b.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"                    \
    "\"a.bias\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}}   "

/* Path of a file in the directory; overwritten by the next call. */
const char *path_of(const char *name);
extern char directory[64];

void write_bytes(const char *name, const void *bytes, size_t n);
void write_text(const char *name, const char *text);
/* A safetensors file. data: [n_data], or NULL for zeros */
void write_tensors(const char *name, const char *header, const void *data, size_t n_data);

/* Set up and tear down for cmocka: the directory, all its files, both. */
int make_directory(void **state);
int remove_files(void **state);
int remove_directory(void **state);

checkpoint_t *open_directory(void);
/* A message is one line and holds all parts. */
void check_message(const fail_t *fail, const char *const *parts, size_t n);
/* Opening the directory fails. */
void expect_failure(int status, const char *part1, const char *part2, const char *part3);

#endif
