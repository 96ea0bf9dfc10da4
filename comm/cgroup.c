#include "comm/cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/proc_file.h"

static bool read_line(const char *directory, const char *name, char *line, size_t line_bytes)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/%s", directory, name) < (int)sizeof path &&
           proc_line(path, line, line_bytes);
}

static size_t cpus_of(long long quota_us, long long period_us)
{
    return quota_us > 0 && period_us > 0 ? (size_t)((quota_us + period_us - 1) / period_us) : 0;
}

/* One group's own quota. Version 2 keeps quota and period in one line, "max" standing for none;
 * version 1 in two files, a negative quota standing for none. */
static size_t directory_cpus(const char *directory)
{
    char quota[64], period[64];
    if (read_line(directory, "cpu.max", quota, sizeof quota)) {
        long long quota_us, period_us;
        return sscanf(quota, "%lld %lld", &quota_us, &period_us) == 2 ? cpus_of(quota_us, period_us)
                                                                      : 0;
    }
    if (read_line(directory, "cpu.cfs_quota_us", quota, sizeof quota) &&
        read_line(directory, "cpu.cfs_period_us", period, sizeof period))
        return cpus_of(atoll(quota), atoll(period));
    return 0;
}

/* The tightest quota from ROOT/PATH up to ROOT. In a container PATH may not exist below ROOT, and
 * then ROOT itself is the container's group. */
static size_t tightest(const char *root, const char *path)
{
    char directory[PATH_MAX];
    size_t cpus = 0, root_length = strlen(root);
    if (snprintf(directory, sizeof directory, "%s%s", root, path) >= (int)sizeof directory)
        return 0;
    for (;;) {
        size_t found = directory_cpus(directory);
        if (found != 0 && (cpus == 0 || found < cpus))
            cpus = found;
        char *slash = strrchr(directory, '/');
        if (slash == NULL || (size_t)(slash - directory) < root_length)
            return cpus;
        *slash = '\0';
    }
}

/* Whether the comma-separated list holds "cpu"; cuts the list up. */
static bool has_cpu(char *controllers)
{
    char *rest = NULL;
    for (char *name = strtok_r(controllers, ",", &rest); name != NULL;
         name = strtok_r(NULL, ",", &rest))
        if (strcmp(name, "cpu") == 0)
            return true;
    return false;
}

/* A line of /proc/self/cgroup: "ID:CONTROLLERS:PATH", without controllers for version 2. */
static size_t line_cpus(char *line, const char *mount)
{
    char root[PATH_MAX];
    char *controllers = strchr(line, ':');
    char *path = controllers == NULL ? NULL : strchr(controllers + 1, ':');
    if (path == NULL)
        return 0;
    *path++ = '\0';
    controllers++;
    path[strcspn(path, "\n")] = '\0';
    if (*controllers == '\0')
        return tightest(mount, path);
    /* "cpu" or "cpu,cpuacct": directories are named after the list, with "cpu" as a link to it. */
    if (!has_cpu(controllers) || snprintf(root, sizeof root, "%s/cpu", mount) >= (int)sizeof root)
        return 0;
    return tightest(root, path);
}

size_t cgroup_cpus(const char *membership, const char *mount)
{
    FILE *file = fopen(membership, "r");
    if (file == NULL)
        return 0;
    char line[PATH_MAX];
    size_t cpus = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        size_t found = line_cpus(line, mount);
        if (found != 0 && (cpus == 0 || found < cpus))
            cpus = found;
    }
    fclose(file);
    return cpus;
}
