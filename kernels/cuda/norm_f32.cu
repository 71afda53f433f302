// The norms of f32.
#include "kernels/cuda/norm.cuh"

namespace flashflow::cuda::norm {

template <>
cudaError_t LaunchElement<Dtype::kF32>(const NormArgs& args, cudaStream_t stream) {
  return LaunchElementOf<float>(args, stream);
}

}  // namespace flashflow::cuda::norm
