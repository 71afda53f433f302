#include "kernels/cuda/softmax.h"

namespace flashflow::cuda {
namespace softmax {

// Defined a type a file, softmax_*.cu.
template <Dtype kDtype>
cudaError_t LaunchElement(const SoftmaxArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kBf16>(const SoftmaxArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kF16>(const SoftmaxArgs& args, cudaStream_t stream);
template <>
cudaError_t LaunchElement<Dtype::kF32>(const SoftmaxArgs& args, cudaStream_t stream);

}  // namespace softmax

cudaError_t Softmax(const SoftmaxArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.columns < 1 || args.x == nullptr || args.y == nullptr || args.ldx < args.columns ||
      args.ldy < args.columns || !(args.scale > 0)) {
    return cudaErrorInvalidValue;
  }
  switch (args.dtype) {
    case Dtype::kBf16:
      return softmax::LaunchElement<Dtype::kBf16>(args, stream);
    case Dtype::kF16:
      return softmax::LaunchElement<Dtype::kF16>(args, stream);
    case Dtype::kF32:
      return softmax::LaunchElement<Dtype::kF32>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
