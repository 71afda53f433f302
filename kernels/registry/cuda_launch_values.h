// What launchers of CUDA kernels turn into the values that kernels/cuda takes.
#ifndef KERNELS_REGISTRY_CUDA_LAUNCH_VALUES_H_
#define KERNELS_REGISTRY_CUDA_LAUNCH_VALUES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compiler/ir/dtype.h"
#include "kernels/cuda/api.h"
#include "kernels/registry/launcher.h"

namespace flashflow::kernels {

inline cudaStream_t StreamOf(const LaunchContext& context) { return static_cast<cudaStream_t>(context.device); }

// Of a launch: Unimplemented for sizes that no kernel takes on this GPU and InvalidArgument for what a kernel finds
// wrong, both naming the operands; Internal for all else.
absl::Status ToStatus(const cuda::Api& api, const LaunchContext& context, cudaError_t error);

cuda::Dtype CudaDtype(DType dtype);

// Kernels count in int. Unimplemented for what is beyond.
absl::StatusOr<int> Int(int64_t value);

}  // namespace flashflow::kernels

#endif  // KERNELS_REGISTRY_CUDA_LAUNCH_VALUES_H_
