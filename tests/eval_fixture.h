/* A folder for tests of evaluation, and files in it. */
#ifndef CHOIR_TESTS_EVAL_FIXTURE_H
#define CHOIR_TESTS_EVAL_FIXTURE_H

#include <jansson.h>

/* Of a group of tests: makes the folder, and removes it. */
int open_folder(void **state);
int close_folder(void **state);

/* The path of a name in the folder; good for three more calls. */
const char *path_of(const char *name);
/* Its path. */
const char *write_file(const char *name, const char *text);
json_t *parse(const char *text);

#endif
