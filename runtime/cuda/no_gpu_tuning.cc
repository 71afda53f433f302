#include "absl/status/status.h"
#include "runtime/cuda/gpu_tuning.h"

namespace flashflow::runtime {

absl::StatusOr<std::unique_ptr<GpuTuning>> GpuTuning::Open(int64_t) {
  return absl::FailedPreconditionError(
      "this build has no CUDA: build it where there is a toolkit, or with --config=cuda, which fetches one");
}

}  // namespace flashflow::runtime
