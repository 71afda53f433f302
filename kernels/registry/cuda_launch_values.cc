#include "kernels/registry/cuda_launch_values.h"

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/registry/launch_checks.h"

namespace flashflow::kernels {

absl::Status ToStatus(const cuda::Api& api, const LaunchContext& context, cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  api.get_last_error();
  if (error != cudaErrorNotSupported && error != cudaErrorInvalidValue) {
    return absl::InternalError(absl::StrCat("CUDA: ", api.get_error_string(error)));
  }
  std::string operands;
  for (const TensorView& view : context.inputs) {
    absl::StrAppend(&operands, operands.empty() ? "" : ", ", view.data == nullptr ? "none" : Describe(view));
  }
  if (const CacheView* cache = context.cache; cache != nullptr) {
    absl::StrAppend(&operands, ", heads of ", cache->head_dim, " in pages of ", cache->page_size);
  }
  if (error == cudaErrorInvalidValue) {
    return absl::InvalidArgumentError(absl::StrCat("its CUDA kernel refuses ", operands));
  }
  return absl::UnimplementedError(
      absl::StrCat("no CUDA kernel on this GPU takes ", operands, ": run the model on the CPU"));
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
