/* Network interfaces of this host: names, reported speeds, and bytes sent, which show which one
 * carried a transfer. Local functions without state. */
#ifndef CHOIR_COMM_INTERFACES_H
#define CHOIR_COMM_INTERFACES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INTERFACES_MAX 12
#define INTERFACE_NAME_BYTES 24

typedef enum interface_kind {
    INTERFACE_LOOPBACK,
    INTERFACE_ETHERNET, /* a device of its own that carries IP: IP over InfiniBand too */
    INTERFACE_VIRTUAL,  /* bridges, pairs of containers */
    INTERFACE_RDMA      /* InfiniBand, RoCE: moves data past the kernel */
} interface_kind_t;

typedef struct interface {
    char name[INTERFACE_NAME_BYTES]; /* "eth0"; of RDMA the device, "mlx5_0" */
    char address[40];                /* IPv4, or empty */
    double bits_per_s;               /* as the driver says; 0 when it does not */
    uint64_t sent_bytes;             /* since the host started */
    int32_t kind;                    /* interface_kind_t */
    int32_t up;                      /* 0 or 1 */
} interface_t;

/* Fills list [max] with interfaces of IP that are up, then RDMA devices; returns how many. */
size_t interfaces_read(interface_t *list, size_t max);

/* "loopback", "ethernet", "virtual", "rdma". */
const char *interface_kind_name(int kind);

/* Of two readings of the same host, the interface that sent at least half of `bytes` in between,
 * the busiest one; NULL when none did: shared memory, or a device that does not count. */
const interface_t *interfaces_carrier(const interface_t *before, size_t n_before,
    const interface_t *after, size_t n_after, uint64_t bytes);

#endif
