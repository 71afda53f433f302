#include "kernels/registry/cuda_launch_values.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace flashflow::kernels {

absl::Status ToStatus(const cuda::Api& api, cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  api.get_last_error();
  if (error == cudaErrorNotSupported) {
    return absl::UnimplementedError("no kernel for these sizes on this GPU: run the model on the CPU");
  }
  return absl::InternalError(absl::StrCat("CUDA: ", api.get_error_string(error)));
}

cuda::Dtype CudaDtype(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return cuda::Dtype::kF32;
    case DType::kF16:
      return cuda::Dtype::kF16;
    case DType::kBF16:
      return cuda::Dtype::kBf16;
    case DType::kI8:
      return cuda::Dtype::kS8;
    case DType::kI32:
      return cuda::Dtype::kS32;
    case DType::kI64:
      return cuda::Dtype::kS64;
    case DType::kBool:
      return cuda::Dtype::kBool;
  }
  return cuda::Dtype::kF32;
}

absl::StatusOr<int> Int(int64_t value) {
  if (value >= 0 && value <= std::numeric_limits<int>::max()) return static_cast<int>(value);
  return absl::UnimplementedError(absl::StrCat("a size of ", value, " is beyond what CUDA kernels count"));
}

}  // namespace flashflow::kernels
