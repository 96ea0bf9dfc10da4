#include "engine/base/proc_file.h"

#include <stdio.h>
#include <string.h>

bool proc_value(const char *path, const char *key, char *value, size_t value_bytes)
{
    char line[4096];
    FILE *file = fopen(path, "r");
    bool found = false;
    value[0] = '\0';
    while (!found && file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *begin = key == NULL ? line : strchr(line, ':');
        found = key == NULL || (begin != NULL && strncmp(line, key, strlen(key)) == 0);
        if (!found)
            continue;
        line[strcspn(line, "\n")] = '\0';
        begin += key == NULL ? 0 : 1 + strspn(begin + 1, " \t");
        snprintf(value, value_bytes, "%.*s", (int)value_bytes - 1, begin);
    }
    if (file != NULL)
        fclose(file);
    return found;
}

bool proc_line(const char *path, char *line, size_t line_bytes)
{
    return proc_value(path, NULL, line, line_bytes);
}
