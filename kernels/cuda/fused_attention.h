// Attention without the score matrix ever leaving the chip.
#ifndef KERNELS_CUDA_FUSED_ATTENTION_H_
#define KERNELS_CUDA_FUSED_ATTENTION_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// A tensor [batch, tokens, heads, head_dim] in device memory: head_dim is contiguous, the other strides, in
// elements, are the caller's. So one type covers [B, T, H, D], [B, H, T, D] and slices of a merged QKV projection.
struct AttentionTensor {
  void* data = nullptr;
  int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
};

// o = softmax(scale * q k^T + mask) v, per batch row and head; query head h reads key/value head h / (heads /
// kv_heads). causal: query i sees keys 0 ... i + kv_tokens - q_tokens, so the last query sees them all; kv_tokens >=
// q_tokens. With a window w > 0 (causal only) it sees the last w of these.
//
// Batches of unequal rows: with q_start and kv_start, row b has queries q_start[b] <= i < q_start[b + 1] and keys
// kv_start[b] <= j < kv_start[b + 1] of tensors [tokens, heads, head_dim], whose batch_stride is not used; q_tokens and
// kv_tokens are then the most that a row has. A query that sees no key, as of a row with fewer keys than queries, has
// no defined result: it may be NaN.
//
// Scores and sums are f32. bf16 and f16: the unnormalized probabilities are rounded to the type for the product with v,
// and o once.
struct AttentionArgs {
  Dtype dtype = Dtype::kBf16;  // kBf16, kF16 or kF32: of all four tensors
  AttentionTensor q, k, v, o;
  int batch = 0, heads = 0, kv_heads = 0, q_tokens = 0, kv_tokens = 0, head_dim = 0;
  float scale = 0;  // positive; usually 1 / sqrt(head_dim)
  bool causal = true;
  int window = 0;
  const int32_t* q_start = nullptr;  // [batch + 1] in device memory, both or neither
  const int32_t* kv_start = nullptr;
};

// Prefill attention by the fastest of the kernels below that takes the arguments on this GPU. A row of o is computed in
// one order of keys, whatever rows and heads are beside it. o may not overlap the others. Launches on `stream`;
// allocates nothing and does not wait.
cudaError_t FusedAttention(const AttentionArgs& args, cudaStream_t stream);

// The Hopper kernel. Supports (else cudaErrorNotSupported):
//   bf16; rows of equal length
//   head_dim a multiple of 8 in [8, 128] (others than 64, 80, 96 and 128 compute on zeros)
//   q, k, v, o 16-byte aligned, their strides multiples of 8 elements
//   all counts >= 1; heads a multiple of kv_heads
cudaError_t FusedAttentionSm90(const AttentionArgs& args, cudaStream_t stream);

// For compute capability 8.0 and up. bf16 and f16; alignments, strides and head_dim as above; rows of unequal length
// too.
cudaError_t FusedAttentionSm80(const AttentionArgs& args, cudaStream_t stream);

// In f32 arithmetic, never TF32, a block a query: for f32, and where nothing else is left. head_dim a multiple of 8 up
// to 256; pointers and strides of whole 16 bytes; any GPU.
cudaError_t FusedAttentionPlain(const AttentionArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_FUSED_ATTENTION_H_
