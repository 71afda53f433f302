#include "runtime/cuda/cuda_status.h"

#include "absl/strings/str_cat.h"

namespace flashflow::runtime {

absl::Status CudaStatus(const cuda::Api& api, cudaError_t error, std::string_view doing) {
  if (error == cudaSuccess) return absl::OkStatus();
  api.get_last_error();  // what can be recovered from is forgotten, so that no later call reports it again
  const std::string message = absl::StrCat("CUDA: ", doing, ": ", api.get_error_string(error));
  if (error == cudaErrorMemoryAllocation) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

}  // namespace flashflow::runtime
