// The norms of f16.
#include "kernels/cuda/norm.cuh"

namespace flashflow::cuda::norm {

template <>
cudaError_t LaunchElement<Dtype::kF16>(const NormArgs& args, cudaStream_t stream) {
  return LaunchElementOf<__half>(args, stream);
}

}  // namespace flashflow::cuda::norm
