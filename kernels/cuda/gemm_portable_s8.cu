// The portable GEMM of s8.
#include "kernels/cuda/gemm_portable.cuh"

namespace flashflow::cuda::gemm_portable {

template <>
cudaError_t LaunchElement<Dtype::kS8>(const GemmArgs& args, cudaStream_t stream) {
  return LaunchElementOf<int8_t>(args, stream);
}

}  // namespace flashflow::cuda::gemm_portable
