#include "comm/interfaces.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/proc_file.h"

#define RDMA_DEVICES "/sys/class/infiniband"

static interface_t *find(interface_t *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    return NULL;
}

/* ---- IP -------------------------------------------------------------------------------------- */

static void describe(interface_t *interface, unsigned flags)
{
    char path[PATH_MAX], line[64];
    snprintf(path, sizeof path, "/sys/class/net/%s/device", interface->name);
    if ((flags & IFF_LOOPBACK) != 0)
        interface->kind = INTERFACE_LOOPBACK;
    else
        interface->kind = access(path, F_OK) == 0 ? INTERFACE_ETHERNET : INTERFACE_VIRTUAL;
    interface->up = (flags & IFF_UP) != 0 && (flags & IFF_RUNNING) != 0;
    /* Mbit/s; drivers that do not know it report -1, or nothing. */
    snprintf(path, sizeof path, "/sys/class/net/%s/speed", interface->name);
    if (proc_line(path, line, sizeof line) && atof(line) > 0)
        interface->bits_per_s = atof(line) * 1e6;
}

static size_t read_ip(interface_t *list, size_t max)
{
    struct ifaddrs *all, *one;
    size_t n = 0;
    if (getifaddrs(&all) != 0)
        return 0;
    for (one = all; one != NULL; one = one->ifa_next) {
        interface_t *known = find(list, n, one->ifa_name);
        if (known == NULL) {
            if (n == max || (one->ifa_flags & IFF_UP) == 0)
                continue;
            known = &list[n++];
            *known = (interface_t){0};
            snprintf(known->name, sizeof known->name, "%.*s", (int)sizeof known->name - 1,
                one->ifa_name);
            describe(known, one->ifa_flags);
        }
        if (one->ifa_addr != NULL && one->ifa_addr->sa_family == AF_INET &&
            known->address[0] == '\0')
            inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)one->ifa_addr)->sin_addr,
                known->address, sizeof known->address);
    }
    freeifaddrs(all);
    return n;
}

/* /proc/self/net/dev: two lines of headings, then "NAME: " and 8 counters of what was received, the
 * bytes first, and 8 of what was sent. */
static void count_ip(interface_t *list, size_t n)
{
    char line[512];
    FILE *file = fopen("/proc/self/net/dev", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        char *name = line + strspn(line, " "), *colon = strchr(name, ':');
        uint64_t sent;
        if (colon == NULL)
            continue;
        *colon = '\0';
        interface_t *known = find(list, n, name);
        if (known != NULL &&
            sscanf(colon + 1, "%*s %*s %*s %*s %*s %*s %*s %*s %" SCNu64, &sent) == 1)
            known->sent_bytes = sent;
    }
    if (file != NULL)
        fclose(file);
}

/* ---- RDMA ------------------------------------------------------------------------------------ */

/* The device's first port. port_xmit_data counts words of 4 bytes. */
static bool read_rdma_device(const char *name, interface_t *device)
{
    char path[PATH_MAX], line[128];
    *device = (interface_t){.kind = INTERFACE_RDMA};
    snprintf(device->name, sizeof device->name, "%.*s", (int)sizeof device->name - 1, name);
    snprintf(path, sizeof path, RDMA_DEVICES "/%s/ports/1/state", name);
    if (!proc_line(path, line, sizeof line))
        return false;
    device->up = strstr(line, "ACTIVE") != NULL;
    snprintf(path, sizeof path, RDMA_DEVICES "/%s/ports/1/rate", name);
    if (proc_line(path, line, sizeof line))
        device->bits_per_s = atof(line) * 1e9; /* "100 Gb/sec (4X EDR)" */
    snprintf(path, sizeof path, RDMA_DEVICES "/%s/ports/1/counters/port_xmit_data", name);
    if (proc_line(path, line, sizeof line))
        device->sent_bytes = 4 * strtoull(line, NULL, 10);
    return true;
}

static size_t read_rdma(interface_t *list, size_t max)
{
    size_t n = 0;
    struct dirent *entry;
    DIR *devices = opendir(RDMA_DEVICES);
    while (devices != NULL && n < max && (entry = readdir(devices)) != NULL)
        if (entry->d_name[0] != '.')
            n += read_rdma_device(entry->d_name, &list[n]);
    if (devices != NULL)
        closedir(devices);
    return n;
}

size_t interfaces_read(interface_t *list, size_t max)
{
    size_t n = read_ip(list, max);
    count_ip(list, n);
    return n + read_rdma(list + n, max - n);
}

const char *interface_kind_name(int kind)
{
    static const char *const names[] = {"loopback", "ethernet", "virtual", "rdma"};
    return names[kind];
}

const interface_t *interfaces_carrier(const interface_t *before, size_t n_before,
    const interface_t *after, size_t n_after, uint64_t bytes)
{
    const interface_t *busiest = NULL;
    uint64_t most = bytes / 2;
    for (size_t i = 0; i < n_after; i++)
        for (size_t j = 0; j < n_before; j++) {
            if (strcmp(after[i].name, before[j].name) != 0 ||
                after[i].sent_bytes < before[j].sent_bytes)
                continue;
            uint64_t sent = after[i].sent_bytes - before[j].sent_bytes;
            if (sent >= most && sent > 0) {
                most = sent;
                busiest = &after[i];
            }
        }
    return busiest;
}
