// How many threads and how much memory this process may use, the limits of its container included.
#ifndef RUNTIME_CPU_HOST_RESOURCES_H_
#define RUNTIME_CPU_HOST_RESOURCES_H_

#include <cstdint>
#include <optional>
#include <string>

namespace flashflow::runtime {

// The physical cores in this process's affinity mask (a second hardware thread of a core adds no arithmetic), at most
// what a container's CPU quota grants; at least 1.
int DefaultThreads();

// Bytes that can be allocated without swapping, at most what a container's memory limit leaves.
int64_t AvailableMemoryBytes();

// The container's limits as its control group's files below `root` state them, versions 1 and 2; nullopt where there
// is none.
std::optional<int> CpuQuota(const std::string& root = "/sys/fs/cgroup");
std::optional<int64_t> MemoryLeftInGroup(const std::string& root = "/sys/fs/cgroup");
// MemAvailable of /proc/meminfo, in bytes.
std::optional<int64_t> MemAvailable(const std::string& meminfo = "/proc/meminfo");

}  // namespace flashflow::runtime

#endif  // RUNTIME_CPU_HOST_RESOURCES_H_
