// The softmax of f32.
#include "kernels/cuda/softmax.cuh"

namespace flashflow::cuda::softmax {

template <>
cudaError_t LaunchElement<Dtype::kF32>(const SoftmaxArgs& args, cudaStream_t stream) {
  return LaunchElementOf<float>(args, stream);
}

}  // namespace flashflow::cuda::softmax
