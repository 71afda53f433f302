#include <algorithm>
#include <cstdint>

#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/fused_attention_sm90.cuh"

namespace flashflow::cuda {
namespace {

using attention_sm90::kBlockColumns;
using attention_sm90::kBlockKeys;
using attention_sm90::kWarpgroupQueries;

cudaError_t Encode(const AttentionTensor& tensor, const AttentionArgs& args, int tokens, int heads, int box_tokens,
                   CUtensorMap* map) {
  TensorMapDesc desc;
  desc.data = tensor.data;
  desc.rank = 4;
  desc.extents[0] = args.head_dim;
  desc.extents[1] = tokens;
  desc.extents[2] = heads;
  desc.extents[3] = args.batch;
  desc.strides[0] = 1;
  desc.strides[1] = tensor.token_stride;
  desc.strides[2] = tensor.head_stride;
  desc.strides[3] = tensor.batch_stride;
  desc.box[0] = kBlockColumns;
  desc.box[1] = box_tokens;
  desc.box[2] = desc.box[3] = 1;
  desc.swizzle_bytes = 128;
  return EncodeTensorMap(desc, map);
}

template <class T>
cudaError_t Launch(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream) {
  CUtensorMap map_q, map_k, map_v, map_o;
  if (cudaError_t error = Encode(args.q, args, args.q_tokens, args.heads, kWarpgroupQueries, &map_q)) return error;
  if (cudaError_t error = Encode(args.k, args, args.kv_tokens, args.kv_heads, kBlockKeys, &map_k)) return error;
  if (cudaError_t error = Encode(args.v, args, args.kv_tokens, args.kv_heads, kBlockKeys, &map_v)) return error;
  if (cudaError_t error = Encode(args.o, args, args.q_tokens, args.heads, kWarpgroupQueries, &map_o)) return error;

  attention_sm90::Params params;
  params.heads = args.heads;
  params.queries_per_kv_head = args.heads / args.kv_heads;
  params.q_tokens = args.q_tokens;
  params.kv_tokens = args.kv_tokens;
  params.query_tiles = (args.q_tokens + T::kTileQueries - 1) / T::kTileQueries;
  params.all_heads = args.batch * args.heads;
  params.scale_log2 = args.scale * kLog2E;
  // Strictly longest first is the most even. It also has every head's keys and values in use at once, so where those
  // exceed half of L2, some tiles of each head share them: more where a tile has few queries to use a block of keys
  // for.
  const int64_t kv_bytes = int64_t{4} * args.batch * args.kv_heads * args.kv_tokens * args.head_dim;
  params.band_tiles = kv_bytes <= l2_bytes / 2 ? 1 : 8 / T::kWarpgroups;

  return LaunchOverlapped(attention_sm90::FusedAttentionKernel<T>, std::min(params.query_tiles * params.all_heads, sms),
                          1, T::kThreads, T::kSharedBytes, stream, map_q, map_k, map_v, map_o, params);
}

bool Supported(const AttentionTensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.batch_stride % 8 == 0 &&
         tensor.token_stride % 8 == 0 && tensor.head_stride % 8 == 0;
}

}  // namespace

cudaError_t FusedAttentionSm90(const AttentionArgs& args, cudaStream_t stream) {
  for (const AttentionTensor* tensor : {&args.q, &args.k, &args.v, &args.o}) {
    if (tensor->data == nullptr) return cudaErrorInvalidValue;
    if (!Supported(*tensor)) return cudaErrorNotSupported;
  }
  if (args.batch < 1 || args.kv_heads < 1 || args.heads < 1 || args.heads % args.kv_heads != 0 || args.q_tokens < 1 ||
      args.kv_tokens < 1 || !(args.scale > 0) || (args.causal && args.kv_tokens < args.q_tokens)) {
    return cudaErrorInvalidValue;
  }
  if (args.head_dim < 8 || args.head_dim > 128 || args.head_dim % 8 != 0) return cudaErrorNotSupported;

  int device = 0, sms = 0, major = 0, l2_bytes = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device)) return error;
  if (major != 9) return cudaErrorNotSupported;

  using attention_sm90::Traits;
  if (args.head_dim > 64) {
    return args.causal ? Launch<Traits<128, 2, 2, true>>(args, sms, l2_bytes, stream)
                       : Launch<Traits<128, 2, 2, false>>(args, sms, l2_bytes, stream);
  }
  // Three warpgroups share each block of keys; where that leaves multiprocessors idle, two.
  const int64_t warpgroups = (args.q_tokens + kWarpgroupQueries - 1) / kWarpgroupQueries;
  if ((warpgroups + 2) / 3 * args.batch * args.heads >= sms) {
    return args.causal ? Launch<Traits<64, 3, 4, true>>(args, sms, l2_bytes, stream)
                       : Launch<Traits<64, 3, 4, false>>(args, sms, l2_bytes, stream);
  }
  return args.causal ? Launch<Traits<64, 2, 4, true>>(args, sms, l2_bytes, stream)
                     : Launch<Traits<64, 2, 4, false>>(args, sms, l2_bytes, stream);
}

}  // namespace flashflow::cuda
