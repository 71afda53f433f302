// What a device gives a kernel: the facts that decide which configurations of a kernel can run on it at all.
#ifndef KERNELS_REGISTRY_DEVICE_LIMITS_H_
#define KERNELS_REGISTRY_DEVICE_LIMITS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace flashflow::kernels {

struct DeviceLimits {
  std::string name;  // of the device, as tuning records are keyed
  std::string kind;  // "cpu" or "cuda"
  std::string arch;  // "sm_90a", "x86-64"

  // Of a GPU.
  int compute_capability = 0;          // 10 * major + minor: 90
  int sm_count = 0;                    // streaming multiprocessors
  int64_t shared_bytes_per_block = 0;  // that a block can opt in to
  int64_t registers_per_block = 0;     // 32-bit
  int registers_per_thread = 0;
  int threads_per_block = 0;

  // Of a CPU: the largest register tile of a matrix product, in rows of x and in panels of 16 columns; the same of the
  // tile for few rows, which reads more panels side by side; a core's L2 cache, 0 where it is not known.
  int tile_rows = 0, tile_panels = 0;
  int stream_rows = 0, stream_panels = 0;
  int64_t l2_bytes = 0;
};

// Of a GPU by its architecture, "sm_80" to "sm_120" with or without a letter behind it (CUDA C++ Programming Guide,
// "Technical Specifications per Compute Capability"). InvalidArgument for an architecture that is not in the table, or
// sm_count below 1.
absl::StatusOr<DeviceLimits> CudaLimits(std::string_view name, std::string_view arch, int sm_count);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_DEVICE_LIMITS_H_
