// Attention with a mask, of heads of any size: what fused_attention.h does not take.
#ifndef KERNELS_CUDA_MASKED_ATTENTION_H_
#define KERNELS_CUDA_MASKED_ATTENTION_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// q[batch, heads, queries, head_dim], k[batch, kv_heads, keys, head_dim], v[batch, kv_heads, keys, value_dim] ->
// y[batch, heads, queries, value_dim], all dense: softmax(scale * q k^T + mask) v, in f32 and rounded once. Query head
// h reads key/value head h / (heads / kv_heads).
//
// causal: query i sees keys 0 ... i + keys - queries. With a window w > 0 it sees none before i + keys - queries - w +
// 1. A mask hides keys with false or -infinity, as if they were not there; other floats are added to the scores. A
// query that sees no key gives zeros. Element (batch, head, query, key) of the mask lies at the sum of the indices
// times its strides, in elements; 0 where it is broadcast.
struct MaskedAttentionArgs {
  Dtype dtype = Dtype::kF32;  // of q, k, v and y: kF32, kF16 or kBf16
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  void* y = nullptr;  // may not overlap the others
  int batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0, head_dim = 0, value_dim = 0;
  bool causal = false;
  int window = 0;
  float scale = 1;
  const void* mask = nullptr;       // or null
  Dtype mask_dtype = Dtype::kBool;  // kBool, kF32, or dtype
  int64_t mask_strides[4] = {};     // batch, head, query, key
};

inline constexpr int kMaxMaskedHeadDim = 512;  // of keys and of values

// A query's bits depend on it and on its keys alone. A block a query, which reads its keys and values from the caches:
// correct, not fast. Supports (else cudaErrorNotSupported) head dims up to kMaxMaskedHeadDim. Launches on `stream`;
// allocates nothing and does not wait.
cudaError_t MaskedAttention(const MaskedAttentionArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_MASKED_ATTENTION_H_
