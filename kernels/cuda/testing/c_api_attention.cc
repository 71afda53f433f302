// Attention as plain C functions, for programs that load them from the shared library. Each returns a
// cudaError_t as an int.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/fused_attention.h"

using flashflow::cuda::AttentionArgs;

extern "C" {

// bf16 [batch, heads, tokens, head_dim], contiguous. kernel: 90, 80, or 0 for the fastest that takes it.
int ff_attention(void* q, void* k, void* v, void* o, int batch, int heads, int kv_heads, int q_tokens, int kv_tokens,
                 int head_dim, float scale, int causal, int window, int kernel, void* stream) {
  AttentionArgs args;
  const auto tensor = [&](void* data, int count, int tokens) {
    return flashflow::cuda::AttentionTensor{data, int64_t{count} * tokens * head_dim, head_dim,
                                            int64_t{tokens} * head_dim};
  };
  args.q = tensor(q, heads, q_tokens);
  args.k = tensor(k, kv_heads, kv_tokens);
  args.v = tensor(v, kv_heads, kv_tokens);
  args.o = tensor(o, heads, q_tokens);
  args.batch = batch;
  args.heads = heads;
  args.kv_heads = kv_heads;
  args.q_tokens = q_tokens;
  args.kv_tokens = kv_tokens;
  args.head_dim = head_dim;
  args.scale = scale;
  args.causal = causal != 0;
  args.window = window;
  const auto run = kernel == 90   ? flashflow::cuda::FusedAttentionSm90
                   : kernel == 80 ? flashflow::cuda::FusedAttentionSm80
                                  : flashflow::cuda::FusedAttention;
  return run(args, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
