// Times kernels on this machine's GPU. Where the build has no CUDA toolkit, there is none.
#ifndef RUNTIME_CUDA_GPU_TUNING_H_
#define RUNTIME_CUDA_GPU_TUNING_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/registry/problem.h"
#include "runtime/core/autotuner.h"

namespace flashflow::runtime {

struct GpuFacts {
  std::string name;  // as the driver gives it
  std::string arch;  // "sm_90"
  int sm_count = 0;
};

// Used by one thread at a time; must outlive its timers, of which one is used at a time.
class GpuTuning {
 public:
  // bytes: more than the L2 cache holds; memory that timed kernels take turns with. FailedPrecondition says why there
  // is no GPU to time on; ResourceExhausted if it has not so much memory.
  static absl::StatusOr<std::unique_ptr<GpuTuning>> Open(int64_t bytes);
  virtual ~GpuTuning() = default;

  virtual const GpuFacts& facts() const = 0;
  // For problems "linear" and "fused_linear" of f32, f16, bf16 and i8. A sample is the mean of a CUDA graph's launches,
  // each of the next layer that the memory holds. InvalidArgument for another problem, or one of which the memory holds
  // no two layers.
  virtual absl::StatusOr<std::unique_ptr<Timer>> CreateTimer(const kernels::Problem& problem) = 0;
};

}  // namespace flashflow::runtime

#endif  // RUNTIME_CUDA_GPU_TUNING_H_
