// The kernels for few rows of bf16.
#include "kernels/cuda/gemm_skinny.cuh"

namespace flashflow::cuda::gemm_skinny {

template <>
cudaError_t LaunchElement<Dtype::kBf16>(const GemmArgs& args, cudaStream_t stream) {
  return args.gated ? LaunchRows<__nv_bfloat16, true>(args, stream) : LaunchRows<__nv_bfloat16, false>(args, stream);
}

}  // namespace flashflow::cuda::gemm_skinny
