#include "kernels/cuda/fused_attention_sm80.cuh"

namespace flashflow::cuda::attention_sm80 {

template <>
cudaError_t Launch<__half>(const AttentionParams& params, bool paged, cudaStream_t stream) {
  return LaunchElement<__half>(params, paged, stream);
}

}  // namespace flashflow::cuda::attention_sm80
