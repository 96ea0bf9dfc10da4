/* The share of a machine's processor time that Linux control groups leave to this process.
 * Local, thread safe. */
#ifndef CHOIR_COMM_CGROUP_H
#define CHOIR_COMM_CGROUP_H

#include <stddef.h>

/* CPUs' worth of time that the tightest quota of this process's control group and its parents
 * grants, rounded up; 0 when there is no quota or it is unknown. Reads version 2 (cpu.max) and
 * version 1 (cpu.cfs_quota_us). membership: normally "/proc/self/cgroup"; mount: normally
 * "/sys/fs/cgroup". */
size_t cgroup_cpus(const char *membership, const char *mount);

#endif
