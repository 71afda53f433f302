#include "kernels/cuda/fused_attention_sm90.cuh"

namespace flashflow::cuda::attention_sm90 {

template <>
cudaError_t Launch<64>(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream) {
  // Three warpgroups share each block of keys; where that leaves multiprocessors idle, two.
  const int64_t warpgroups = (args.q_tokens + kWarpgroupQueries - 1) / kWarpgroupQueries;
  return (warpgroups + 2) / 3 * args.batch * args.heads >= sms ? LaunchShape<64, 3, 4>(args, sms, l2_bytes, stream)
                                                               : LaunchShape<64, 2, 4>(args, sms, l2_bytes, stream);
}

template <>
cudaError_t LaunchPaged<64>(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream) {
  // Likewise: what rows there are only the device knows, but not how many tokens.
  return int64_t{args.tokens} * args.heads / (3 * kWarpgroupQueries) >= sms
             ? LaunchPagedShape<64, 3, 4>(args, sms, l2_bytes, stream)
             : LaunchPagedShape<64, 2, 4>(args, sms, l2_bytes, stream);
}

}  // namespace flashflow::cuda::attention_sm90
