// The portable GEMM of bf16.
#include "kernels/cuda/gemm_portable.cuh"

namespace flashflow::cuda::gemm_portable {

template <>
cudaError_t LaunchElement<Dtype::kBf16>(const GemmArgs& args, cudaStream_t stream) {
  return LaunchElementOf<__nv_bfloat16>(args, stream);
}

}  // namespace flashflow::cuda::gemm_portable
