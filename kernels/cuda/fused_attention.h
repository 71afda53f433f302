// Attention without the score matrix ever leaving the chip.
#ifndef KERNELS_CUDA_FUSED_ATTENTION_H_
#define KERNELS_CUDA_FUSED_ATTENTION_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace flashflow::cuda {

// A bf16 tensor [batch, tokens, heads, head_dim] in device memory: head_dim is contiguous, the other strides, in
// elements, are the caller's. So one type covers [B, T, H, D], [B, H, T, D] and slices of a merged QKV projection.
struct AttentionTensor {
  void* data = nullptr;
  int64_t batch_stride = 0, token_stride = 0, head_stride = 0;
};

// o = softmax(scale * q k^T + mask) v, per batch row and head; query head h reads key/value head h / (heads /
// kv_heads). causal: query i sees keys 0 ... i + kv_tokens - q_tokens, so the last query sees them all; kv_tokens >=
// q_tokens.
//
// Scores and sums are f32; the unnormalized probabilities are rounded to bf16 for the product with v, and o once.
struct AttentionArgs {
  AttentionTensor q, k, v, o;
  int batch = 0, heads = 0, kv_heads = 0, q_tokens = 0, kv_tokens = 0, head_dim = 0;
  float scale = 0;  // positive; usually 1 / sqrt(head_dim)
  bool causal = true;
};

// The Hopper kernel for prefill. A row of o is computed in one order of keys, whatever rows and heads are beside it.
//
// Supports (else cudaErrorNotSupported):
//   head_dim a multiple of 8 in [8, 128] (64 and 128 are best: others compute on zeros)
//   q, k, v, o 16-byte aligned, their strides multiples of 8 elements
//   all counts >= 1; heads a multiple of kv_heads
// o may not overlap the others. Launches on `stream`; allocates nothing and does not wait.
cudaError_t FusedAttentionSm90(const AttentionArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_FUSED_ATTENTION_H_
