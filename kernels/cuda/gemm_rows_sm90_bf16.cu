// The Hopper kernels for up to 64 rows of bf16.
#include "kernels/cuda/gemm_rows_sm90.cuh"

namespace flashflow::cuda::gemm_rows_sm90 {

template <>
cudaError_t LaunchElement<Dtype::kBf16>(const GemmArgs& args, const GemmRowsSm90Config& config, cudaStream_t stream) {
  return LaunchElementOf<__nv_bfloat16>(args, config, stream);
}

}  // namespace flashflow::cuda::gemm_rows_sm90
