#include "engine/base/path.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *path_join(const char *directory, const char *name)
{
    char *path;
    size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    return asprintf(&path, "%s%s%s", directory, slash, name) < 0 ? NULL : path;
}

bool path_exists(const char *directory, const char *name)
{
    char *path = path_join(directory, name);
    bool exists = path != NULL && access(path, F_OK) == 0;
    free(path);
    return exists;
}
