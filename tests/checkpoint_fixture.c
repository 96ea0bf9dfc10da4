#include "tests/checkpoint_fixture.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

char directory[64];
static char path_buffer[512];

const char *path_of(const char *name)
{
    snprintf(path_buffer, sizeof path_buffer, "%s/%s", directory, name);
    return path_buffer;
}

void write_bytes(const char *name, const void *bytes, size_t n)
{
    FILE *file = fopen(path_of(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

void write_text(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

/* Length, header, data. */
void write_tensors(const char *name, const char *header, const void *data, size_t n_data)
{
    size_t n_header = strlen(header);
    char *bytes = calloc(8 + n_header + n_data, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (char)(n_header >> 8 * i);
    memcpy(bytes + 8, header, n_header);
    if (data != NULL)
        memcpy(bytes + 8 + n_header, data, n_data);
    write_bytes(name, bytes, 8 + n_header + n_data);
    free(bytes);
}

int make_directory(void **state)
{
    (void)state;
    strcpy(directory, P_tmpdir "/choir-checkpoint-XXXXXX");
    return mkdtemp(directory) == NULL;
}

int remove_files(void **state)
{
    (void)state;
    DIR *listing = opendir(directory);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlink(path_of(entry->d_name));
    closedir(listing);
    return 0;
}

int remove_directory(void **state)
{
    remove_files(state);
    return rmdir(directory);
}

checkpoint_t *open_directory(void)
{
    checkpoint_t *checkpoint;
    fail_t fail = {0};
    if (checkpoint_open(&checkpoint, directory, &fail) != 0)
        fail_msg("%s", fail.message);
    return checkpoint;
}

void check_message(const fail_t *fail, const char *const *parts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(fail->message, parts[i]) == NULL)
            fail_msg("expected \"%s\" in \"%s\"", parts[i], fail->message);
    assert_null(strchr(fail->message, '\n'));
}

void expect_failure(int status, const char *part1, const char *part2, const char *part3)
{
    checkpoint_t *checkpoint;
    fail_t fail = {0};
    assert_int_equal(checkpoint_open(&checkpoint, directory, &fail), status);
    assert_null(checkpoint);
    check_message(&fail, (const char *[]){part1, part2, part3}, 3);
}
