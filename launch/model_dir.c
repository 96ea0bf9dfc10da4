#include "launch/model_dir.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/hub_cache.h"

#define DEMO "configs/demo"

/* path = "base/relative/configs/demo", if that is there. */
static bool try_base(const char *base, const char *relative, char *path, size_t path_bytes)
{
    int length = snprintf(path, path_bytes, "%s/%s" DEMO, base, relative);
    return length > 0 && (size_t)length < path_bytes && access(path, F_OK) == 0;
}

/* The folder of this program. */
static bool program_dir(char *directory, size_t bytes)
{
    ssize_t length = readlink("/proc/self/exe", directory, bytes - 1);
    if (length <= 0)
        return false;
    directory[length] = 0;
    char *slash = strrchr(directory, '/');
    if (slash == NULL)
        return false;
    *slash = 0;
    return true;
}

static int take_given(
    const char *flag, const char *given, char *path, size_t path_bytes, fail_t *fail)
{
    if (given[0] == 0 || strlen(given) >= path_bytes)
        return fail_set(fail, FAIL_USAGE, "%s: expected a directory, found \"%.80s\"", flag, given);
    strcpy(path, given);
    return access(path, F_OK) == 0
               ? 0
               : fail_set(fail, FAIL_FILE, "%s: %s: no such model directory", flag, given);
}

static void resolve(
    const char *flag, const char *given, char *path, size_t path_bytes, fail_t *fail)
{
    if (access(given, F_OK) != 0 && hub_is_name(given))
        hub_find(given, path, path_bytes, fail);
    else
        take_given(flag, given, path, path_bytes, fail);
    if (fail->status == 0)
        hub_check_directory(path, path_bytes, fail);
}

int model_dir_resolve(
    comm_t *comm, const char *flag, const char **model, char *path, size_t path_bytes, fail_t *fail)
{
    struct {
        char given[PATH_MAX], found[PATH_MAX];
    } first = {"", ""}; /* rank 0's */
    const char *given = *model != NULL ? *model : "";
    if (comm_rank(comm) == 0 && *model != NULL) {
        resolve(flag, given, path, path_bytes, fail);
        snprintf(first.given, sizeof first.given, "%s", given);
        snprintf(first.found, sizeof first.found, "%s", path);
    }
    comm_bcast(comm, &first, sizeof first);
    /* A rank that is given something else looks for itself, so that the difference is noticed. */
    if (comm_rank(comm) != 0 && *model != NULL) {
        if (strcmp(given, first.given) == 0)
            snprintf(path, path_bytes, "%s", first.found);
        else
            resolve(flag, given, path, path_bytes, fail);
    }
    if (*model != NULL)
        *model = path;
    return comm_agree(comm, fail);
}

int model_dir_find(const char *given, char *path, size_t path_bytes, fail_t *fail)
{
    if (given != NULL)
        return take_given("--model", given, path, path_bytes, fail);
    char program[PATH_MAX];
    const char *home = getenv("CHOIR_HOME");
    if (home != NULL && try_base(home, "", path, path_bytes))
        return 0;
    if (program_dir(program, sizeof program) &&
        (try_base(program, "../", path, path_bytes) ||
            try_base(program, "../share/choir/", path, path_bytes)))
        return 0;
    if (try_base(CHOIR_SOURCE_DIR, "", path, path_bytes))
        return 0;
    return fail_set(fail, FAIL_FILE,
        "expected --model DIR, found none; and the demo model is neither in $CHOIR_HOME/" DEMO
        " nor beside the program");
}
