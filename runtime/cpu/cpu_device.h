// The CPU as a device: host memory on huge pages, a thread pool, the kernels of kernels/cpu.
#ifndef RUNTIME_CPU_CPU_DEVICE_H_
#define RUNTIME_CPU_CPU_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "runtime/core/device.h"

namespace flashflow::runtime {

inline constexpr int kMaxThreads = 1024;

// How many threads compute, the caller of a step included: `threads`, or where that is 0 DefaultThreads().
// InvalidArgument if it is negative or more than kMaxThreads.
absl::StatusOr<int> ThreadCount(int threads);

// threads: as ThreadCount, with its errors.
absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(int threads);

// What the memory of this machine gives `threads` threads (0 as above) that read it, in bytes per second: the best of
// a few sweeps over a buffer that no cache holds. Takes about a second.
absl::StatusOr<double> MeasureCpuReadBandwidth(int threads);

}  // namespace flashflow::runtime

#endif  // RUNTIME_CPU_CPU_DEVICE_H_
