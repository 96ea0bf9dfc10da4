#include "engine/doctor/doctor_host.h"

#include <gnu/libc-version.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/base/memory.h"
#include "engine/base/proc_file.h"

#define KIB 1024
#define FILE_PIECE 65536

static uint64_t digest_file(const char *path)
{
    char piece[FILE_PIECE];
    FILE *file = fopen(path, "rb");
    XXH3_state_t *state = XXH3_createState();
    uint64_t digest = 0;
    if (file != NULL && state != NULL) {
        size_t n;
        XXH3_64bits_reset(state);
        while ((n = fread(piece, 1, sizeof piece, file)) > 0)
            XXH3_64bits_update(state, piece, n);
        digest = XXH3_64bits_digest(state);
    }
    XXH3_freeState(state);
    if (file != NULL)
        fclose(file);
    return digest;
}

/* ---- Libraries ------------------------------------------------------------------------------- */

/* Of a path as mapped, links resolved, ".../libNAME.so.VERSION": adds "libNAME VERSION". */
static void add_library(char *text, const char *path)
{
    static const char *const names[] = {"libmpi", "libhwloc", "libjansson", "libpcre2-8",
        "libutf8proc", "libsleef", "libzstd", "libxxhash"};
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    const char *end = strstr(name, ".so.");
    size_t used = strlen(text);
    for (size_t i = 0; end != NULL && i < sizeof names / sizeof *names; i++) {
        size_t length = strlen(names[i]);
        if ((size_t)(end - name) != length || strncmp(name, names[i], length) != 0)
            continue;
        if (strstr(text, names[i]) == NULL)
            snprintf(text + used, DOCTOR_TEXT_BYTES - used, ", %s %s", names[i], end + 4);
    }
}

/* In the order of their addresses, which is no order to compare by: by name. */
static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void read_libraries(char *text)
{
    enum { MOST = 256, PATH_BYTES = 256 };
    char line[1024], (*paths)[PATH_BYTES] = calloc(MOST, PATH_BYTES);
    size_t n = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    snprintf(text, DOCTOR_TEXT_BYTES, "libc %s", gnu_get_libc_version());
    while (maps != NULL && paths != NULL && n < MOST && fgets(line, sizeof line, maps) != NULL) {
        char *slash = strchr(line, '/');
        line[strcspn(line, "\n")] = '\0';
        if (slash != NULL && strstr(slash, ".so.") != NULL)
            snprintf(paths[n++], PATH_BYTES, "%.*s", PATH_BYTES - 1, strrchr(slash, '/') + 1);
    }
    if (maps != NULL)
        fclose(maps);
    if (paths != NULL)
        qsort(paths, n, PATH_BYTES, by_name);
    for (size_t i = 0; i < n; i++)
        add_library(text, paths[i]);
    free(paths);
}

/* ---- The parts ------------------------------------------------------------------------------- */

static void read_memory(doctor_host_t *host)
{
    char text[64];
    struct statvfs shm;
    struct rlimit lock;
    host->memory_available_bytes = memory_available_bytes();
    proc_value("/proc/meminfo", "MemTotal", text, sizeof text);
    host->memory_total_bytes = strtoull(text, NULL, 10) * KIB;
    if (statvfs("/dev/shm", &shm) == 0) {
        host->shm_bytes = (uint64_t)shm.f_blocks * shm.f_frsize;
        host->shm_free_bytes = (uint64_t)shm.f_bavail * shm.f_frsize;
    }
    host->memlock_bytes = DOCTOR_UNLIMITED;
    if (getrlimit(RLIMIT_MEMLOCK, &lock) == 0 && lock.rlim_cur != RLIM_INFINITY)
        host->memlock_bytes = lock.rlim_cur;
}

/* The chosen word of "always [madvise] never". */
static doctor_pages_t read_pages(void)
{
    char line[128];
    proc_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line);
    if (strstr(line, "[always]") != NULL)
        return DOCTOR_PAGES_ALWAYS;
    if (strstr(line, "[madvise]") != NULL)
        return DOCTOR_PAGES_ADVISED;
    return strstr(line, "[never]") != NULL ? DOCTOR_PAGES_NEVER : DOCTOR_PAGES_UNKNOWN;
}

static void read_cpu(doctor_host_t *host)
{
    char text[64], driver[64];
    proc_value("/proc/cpuinfo", "model name", host->cpu, sizeof host->cpu);
    proc_value("/proc/cpuinfo", "cpu MHz", text, sizeof text);
    host->mhz = atof(text);
    proc_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", text, sizeof text);
    proc_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver", driver, sizeof driver);
    if (text[0] != '\0')
        snprintf(host->governor, sizeof host->governor, "%.14s/%.15s", text, driver);
}

/* Containers may forbid it, and MPI then copies large messages twice. */
static bool may_copy(void)
{
    char from = 1, to = 0;
    struct iovec remote = {&from, 1}, local = {&to, 1};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

void doctor_host_read(doctor_host_t *host)
{
    char boot[64];
    memset(host, 0, sizeof *host); /* padding too: it is sent */
    gethostname(host->name, sizeof host->name - 1);
    read_cpu(host);
    read_libraries(host->libraries);
    proc_line("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    host->boot = boot[0] == '\0' ? 0 : XXH3_64bits(boot, strlen(boot));
    host->program = digest_file("/proc/self/exe");
    read_memory(host);
    host->pages = read_pages();
    host->copies = may_copy();
    host->is_root = geteuid() == 0;
    host->in_slurm = getenv("SLURM_JOB_ID") != NULL;
    host->pretends = getenv("CHOIR_RANKS_PER_NODE") != NULL;
    host->n_interfaces = (int32_t)interfaces_read(host->interfaces, INTERFACES_MAX);
}

const char *doctor_pages_name(int pages)
{
    static const char *const names[] = {"unknown", "always", "madvise", "never"};
    return names[pages];
}
