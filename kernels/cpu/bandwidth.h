// What reading memory can give: the yardstick for kernels that stream weights.
#ifndef KERNELS_CPU_BANDWIDTH_H_
#define KERNELS_CPU_BANDWIDTH_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// Bytes per second at which all of the pool's threads together read a buffer of `buffer_bytes` (on huge pages, each
// thread its own part, front to back), the best of `repeats` sweeps. The buffer must be several times the last-level
// cache that the machine really gives this process for the figure to be the memory's.
absl::StatusOr<double> MeasureReadBandwidth(size_t buffer_bytes, int repeats, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_BANDWIDTH_H_
