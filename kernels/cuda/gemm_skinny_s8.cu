// The kernels for few rows of s8.
#include "kernels/cuda/gemm_skinny.cuh"

namespace flashflow::cuda::gemm_skinny {

template <>
cudaError_t LaunchElement<Dtype::kS8>(const GemmArgs& args, cudaStream_t stream) {
  return args.gated ? LaunchRows<int8_t, true>(args, stream) : LaunchRows<int8_t, false>(args, stream);
}

}  // namespace flashflow::cuda::gemm_skinny
