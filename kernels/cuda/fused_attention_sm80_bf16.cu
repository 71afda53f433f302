#include "kernels/cuda/fused_attention_sm80.cuh"

namespace flashflow::cuda::attention_sm80 {

template <>
cudaError_t Launch<__nv_bfloat16>(const AttentionParams& params, bool paged, cudaStream_t stream) {
  return LaunchElement<__nv_bfloat16>(params, paged, stream);
}

}  // namespace flashflow::cuda::attention_sm80
