// The softmax of bf16.
#include "kernels/cuda/softmax.cuh"

namespace flashflow::cuda::softmax {

template <>
cudaError_t LaunchElement<Dtype::kBf16>(const SoftmaxArgs& args, cudaStream_t stream) {
  return LaunchElementOf<__nv_bfloat16>(args, stream);
}

}  // namespace flashflow::cuda::softmax
