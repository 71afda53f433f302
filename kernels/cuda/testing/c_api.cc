// The kernels as plain C functions, for programs that load them from a shared library (the benchmark). Each returns a
// cudaError_t as an int.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/softmax.h"

using flashflow::cuda::Activation;
using flashflow::cuda::AttentionArgs;
using flashflow::cuda::GemmArgs;

extern "C" {

// Contiguous operands. activation: 0 none, 1 GELU (tanh), 2 GELU (erf), 3 SiLU. tile_n: 0 lets the kernel choose, -1 is
// the kernel for few rows.
int ff_gemm(const void* a, const void* w, const void* bias, const void* residual, void* d, int m, int n, int k,
            int activation, int gated, int f32_output, int tile_n, void* stream) {
  GemmArgs args;
  args.a = a;
  args.w = w;
  args.bias = bias;
  args.residual = residual;
  args.d = d;
  args.m = m;
  args.n = n;
  args.k = k;
  args.lda = args.ldw = k;
  args.ldd = args.ld_residual = n;
  args.activation = static_cast<Activation>(activation);
  args.gated = gated != 0;
  args.f32_output = f32_output != 0;
  if (tile_n < 0) return GemmSkinny(args, static_cast<cudaStream_t>(stream));
  return GemmSm90(args, {tile_n}, static_cast<cudaStream_t>(stream));
}

// [batch, heads, tokens, head_dim], contiguous.
int ff_attention(void* q, void* k, void* v, void* o, int batch, int heads, int kv_heads, int q_tokens, int kv_tokens,
                 int head_dim, float scale, int causal, void* stream) {
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
  return FusedAttentionSm90(args, static_cast<cudaStream_t>(stream));
}

// Contiguous. residual, sum and beta may be null.
int ff_norm(const void* x, const void* residual, void* sum, const void* gamma, const void* beta, void* y, int rows,
            int columns, float epsilon, int rms, void* stream) {
  flashflow::cuda::NormArgs args;
  args.x = x;
  args.residual = residual;
  args.sum = sum;
  args.gamma = gamma;
  args.beta = beta;
  args.y = y;
  args.rows = rows;
  args.columns = columns;
  args.ld = columns;
  args.epsilon = epsilon;
  args.rms = rms != 0;
  return Norm(args, static_cast<cudaStream_t>(stream));
}

// Contiguous.
int ff_softmax(const void* x, void* y, int rows, int columns, float scale, void* stream) {
  flashflow::cuda::SoftmaxArgs args;
  args.x = x;
  args.y = y;
  args.rows = rows;
  args.columns = columns;
  args.ldx = args.ldy = columns;
  args.scale = scale;
  return Softmax(args, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
