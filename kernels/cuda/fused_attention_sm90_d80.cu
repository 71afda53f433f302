#include "kernels/cuda/fused_attention_sm90.cuh"

namespace flashflow::cuda::attention_sm90 {

template <>
cudaError_t Launch<80>(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream) {
  return LaunchShape<80, 2, 2>(args, sms, l2_bytes, stream);
}

template <>
cudaError_t LaunchPaged<80>(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream) {
  return LaunchPagedShape<80, 2, 2>(args, sms, l2_bytes, stream);
}

}  // namespace flashflow::cuda::attention_sm90
