// An NVIDIA GPU as the runtime's device, if there is one.
#ifndef RUNTIME_CUDA_OPEN_CUDA_H_
#define RUNTIME_CUDA_OPEN_CUDA_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/core/device.h"

namespace flashflow::runtime {

// GPU number `ordinal` of this process. FailedPrecondition says why there is none to use: this build, the driver, the
// library of kernels, or the GPU. ResourceExhausted where it has no memory left.
absl::StatusOr<std::unique_ptr<Device>> OpenCudaDevice(int ordinal);

// The first thing that OpenCudaDevice does: the library of kernels is loaded, once a process. FailedPrecondition as
// there.
absl::Status LoadCuda();

}  // namespace flashflow::runtime

#endif  // RUNTIME_CUDA_OPEN_CUDA_H_
