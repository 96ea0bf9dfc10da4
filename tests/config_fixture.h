/* A directory with a config.json for tests of engine/model/config.h. */
#ifndef CHOIR_TESTS_CONFIG_FIXTURE_H
#define CHOIR_TESTS_CONFIG_FIXTURE_H

#include "engine/model/config.h"

/* Of a group of tests: makes the directory, and removes it. */
int make_directory(void **state);
int remove_directory(void **state);

void write_text(const char *name, const char *text);
void remove_file(const char *name);
/* A small config.json with the members of `changes`, a JSON object, set; those that are the string
 * "ABSENT" removed. */
void write_config(const char *changes);
/* Writes one that is right, and reads it. */
config_t load(const char *changes);
/* Reads what is there. */
int load_directory(config_t *config, fail_t *fail);

#endif
