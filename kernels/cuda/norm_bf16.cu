// The norms of bf16.
#include "kernels/cuda/norm.cuh"

namespace flashflow::cuda::norm {

template <>
cudaError_t LaunchElement<Dtype::kBf16>(const NormArgs& args, cudaStream_t stream) {
  return LaunchElementOf<__nv_bfloat16>(args, stream);
}

}  // namespace flashflow::cuda::norm
