// The Hopper kernels for up to 64 rows of s8.
#include "kernels/cuda/gemm_rows_sm90.cuh"

namespace flashflow::cuda::gemm_rows_sm90 {

template <>
cudaError_t LaunchElement<Dtype::kS8>(const GemmArgs& args, const GemmRowsSm90Config& config, cudaStream_t stream) {
  return LaunchElementOf<int8_t>(args, config, stream);
}

}  // namespace flashflow::cuda::gemm_rows_sm90
