// Rotary position embedding of queries and keys, and keys and values into the paged KV cache, in one launch.
#ifndef KERNELS_CUDA_ROPE_APPEND_H_
#define KERNELS_CUDA_ROPE_APPEND_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"
#include "kernels/cuda/paged_rows.h"

namespace flashflow::cuda {

// Token t's vectors of head_dim channels, one for each head, lie side by side from data + t * stride elements on: so
// one type covers separate tensors and the parts of a merged projection.
struct TokenHeads {
  void* data = nullptr;
  int64_t stride = 0;
};

// q_out = rotated q; the cache's slots of the tokens get rotated k, and v. With cos and sin, y[i] = x[i] * cos[t, i] -
// x[i + head_dim / 2] * sin[t, i] in the first half and x[i] * cos[t, i] + x[i - head_dim / 2] * sin[t, i] in the
// second (the half-split form of Su et al., RoFormer), in f32 and rounded once; without, y = x.
struct RopeAppendArgs {
  Dtype dtype = Dtype::kBf16;       // of q, k, v, q_out and the cache
  Dtype angle_dtype = Dtype::kF32;  // of cos and sin: kF32, or dtype
  TokenHeads q, q_out;              // `heads` heads; q_out may be q. heads == 0: keys and values alone
  TokenHeads k, v;                  // `kv_heads` heads
  const void* cos = nullptr;        // [tokens, head_dim], both or neither
  const void* sin = nullptr;
  void* cache = nullptr;  // one layer: [pages][2 (k, v)][kv_heads][page_size][head_dim]
  PagedRows rows;
  int tokens = 0, heads = 0, kv_heads = 0, head_dim = 0, page_size = 0;
};

// On Hopper it reads `rows` before the kernels ahead of it in the stream have ended: those must not write what it
// points to.
//
// Supports (else cudaErrorNotSupported): f32, f16, bf16; head_dim even. It reads and writes 16 bytes at a time where
// head_dim is a multiple of 16 and all pointers and strides are of 16 bytes, else one element. Launches on `stream`;
// allocates nothing and does not wait. tokens == 0 is fine: nothing is launched.
cudaError_t RopeAppend(const RopeAppendArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_ROPE_APPEND_H_
