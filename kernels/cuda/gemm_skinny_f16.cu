// The kernels for few rows of f16.
#include "kernels/cuda/gemm_skinny.cuh"

namespace flashflow::cuda::gemm_skinny {

template <>
cudaError_t LaunchElement<Dtype::kF16>(const GemmArgs& args, cudaStream_t stream) {
  return args.gated ? LaunchRows<__half, true>(args, stream) : LaunchRows<__half, false>(args, stream);
}

}  // namespace flashflow::cuda::gemm_skinny
