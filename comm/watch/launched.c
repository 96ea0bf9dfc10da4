#include "comm/watch/launched.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "comm/watch/process.h"

#define ENVIRONMENT_BYTES ((size_t)1 << 17)

static const char *const rank_names[] = {
    "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"};
static const char *const size_names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"};

static int first_number(const char *const *names, size_t n, int otherwise)
{
    for (size_t i = 0; i < n; i++) {
        const char *text = getenv(names[i]);
        if (text != NULL && text[0] != 0)
            return atoi(text);
    }
    return otherwise;
}

int launched_rank(void)
{
    return first_number(rank_names, sizeof rank_names / sizeof *rank_names, 0);
}

int launched_size(void)
{
    return first_number(size_names, sizeof size_names / sizeof *size_names, 1);
}

/* The rank in another process's environment, -1 when it is not there. */
static int rank_of(int pid)
{
    char path[64], *text = malloc(ENVIRONMENT_BYTES);
    int rank = -1, file;
    size_t n = 0;
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    if (text == NULL || (file = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
        free(text);
        return -1;
    }
    for (ssize_t got;
         n < ENVIRONMENT_BYTES - 1 && (got = read(file, text + n, ENVIRONMENT_BYTES - 1 - n)) > 0;)
        n += (size_t)got;
    close(file);
    text[n] = 0;
    for (size_t i = 0; i < sizeof rank_names / sizeof *rank_names && rank < 0; i++) {
        size_t length = strlen(rank_names[i]);
        for (const char *at = text; at < text + n && rank < 0; at += strlen(at) + 1)
            if (strncmp(at, rank_names[i], length) == 0 && at[length] == '=')
                rank = atoi(at + length + 1);
    }
    free(text);
    return rank;
}

/* Whether both processes run the same program. */
static bool same_program(int pid)
{
    char path[64];
    struct stat own, other;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return stat("/proc/self/exe", &own) == 0 && stat(path, &other) == 0 &&
           own.st_dev == other.st_dev && own.st_ino == other.st_ino;
}

bool launched_find_stopped(launched_peer_t *peer)
{
    DIR *all = opendir("/proc");
    int launcher = (int)getppid();
    peer->pid = 0;
    for (struct dirent *entry; all != NULL && (entry = readdir(all)) != NULL;) {
        int pid = atoi(entry->d_name);
        if (pid <= 0 || pid == (int)getpid() || (peer->pid != 0 && pid > peer->pid))
            continue;
        process_t process = process_look(pid);
        if ((process.state == 'T' || process.state == 't') && process.parent == launcher &&
            same_program(pid))
            *peer = (launched_peer_t){.pid = pid, .rank = rank_of(pid)};
    }
    if (all != NULL)
        closedir(all);
    return peer->pid != 0;
}

bool launched_may_speak(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int launcher = (int)getppid();
    int speaker = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    /* An abstract socket, in no folder: the first to bind the name has it. */
    int n = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "choir-%d-%llu", launcher,
        (unsigned long long)process_look(launcher).started);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    return speaker < 0 || bind(speaker, (const struct sockaddr *)&name, bytes) == 0 ||
           errno != EADDRINUSE;
}
