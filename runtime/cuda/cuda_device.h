// NVIDIA GPUs as a device of the runtime.
#ifndef RUNTIME_CUDA_CUDA_DEVICE_H_
#define RUNTIME_CUDA_CUDA_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/api.h"
#include "runtime/core/device.h"

namespace flashflow::runtime {

// GPU number `ordinal`, through `api`, which must outlive it. All work goes to one stream of its own. It records
// launches as CUDA graphs, draws tokens, and reads weights through page-locked memory, checksums and copies side by
// side. FailedPrecondition where there is no such GPU, or none that this build has kernels for; ResourceExhausted
// where it has no memory left.
absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const cuda::Api& api, int ordinal);

}  // namespace flashflow::runtime

#endif  // RUNTIME_CUDA_CUDA_DEVICE_H_
