// The softmax of f16.
#include "kernels/cuda/softmax.cuh"

namespace flashflow::cuda::softmax {

template <>
cudaError_t LaunchElement<Dtype::kF16>(const SoftmaxArgs& args, cudaStream_t stream) {
  return LaunchElementOf<__half>(args, stream);
}

}  // namespace flashflow::cuda::softmax
