// CUDA's errors as statuses.
#ifndef RUNTIME_CUDA_CUDA_STATUS_H_
#define RUNTIME_CUDA_CUDA_STATUS_H_

#include <string_view>

#include "absl/status/status.h"
#include "kernels/cuda/api.h"

namespace flashflow::runtime {

// OK, or what was being done and the error's description: ResourceExhausted for memory, Internal for all else.
absl::Status CudaStatus(const cuda::Api& api, cudaError_t error, std::string_view doing);

}  // namespace flashflow::runtime

#endif  // RUNTIME_CUDA_CUDA_STATUS_H_
