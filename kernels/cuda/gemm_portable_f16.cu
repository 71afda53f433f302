// The portable GEMM of f16.
#include "kernels/cuda/gemm_portable.cuh"

namespace flashflow::cuda::gemm_portable {

template <>
cudaError_t LaunchElement<Dtype::kF16>(const GemmArgs& args, cudaStream_t stream) {
  return LaunchElementOf<__half>(args, stream);
}

}  // namespace flashflow::cuda::gemm_portable
