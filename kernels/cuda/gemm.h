// Matrix products with fused epilogues: the projections of a transformer.
#ifndef KERNELS_CUDA_GEMM_H_
#define KERNELS_CUDA_GEMM_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace flashflow::cuda {

enum class Activation {
  kNone,
  kGeluTanh,  // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
  kGeluErf,   // x / 2 * (1 + erf(x / sqrt(2)))
  kSilu,      // x / (1 + exp(-x))
};

// d = activation(a * w^T + bias) + residual, summed in f32 and rounded once:
//
//   d[i, j] = round(act(sum_k a[i, k] * w[j, k] + bias[j]) + residual[i, j])
//
// gated: w has 2n rows, and
//
//   d[i, j] = round(act(sum_k a[i, k] * w[j, k] + bias[j]) * (sum_k a[i, k] * w[n + j, k] + bias[n + j]))
//
// All matrices are row-major, `ld*` elements from row to row. a, w and bias are bf16, residual is bf16, d is bf16 or
// f32. d may be the residual itself; no other operands may overlap d.
struct GemmArgs {
  const void* a = nullptr;         // [m, k]
  const void* w = nullptr;         // [n, k], or [2n, k] where gated: a linear layer's weight as PyTorch keeps it
  const void* bias = nullptr;      // [n] or [2n], or null for none
  const void* residual = nullptr;  // [m, n], or null for none
  void* d = nullptr;               // [m, n]
  int m = 0, n = 0, k = 0;
  int64_t lda = 0, ldw = 0, ld_residual = 0, ldd = 0;
  Activation activation = Activation::kNone;
  bool gated = false;
  bool f32_output = false;
};

// How one launch of the sm_90a kernel is tiled; the default lets GemmSm90 choose from the shape.
struct GemmSm90Config {
  int tile_n = 0;  // 128, 160 or 192; 0 to choose
};

// The Hopper kernel: bf16 wgmma fed by the copy engine, tiles of 128 x tile_n. The order of each sum depends on k
// alone: an element's bits depend neither on m, n nor on the tile.
//
// Supports (else cudaErrorNotSupported):
//   residual where neither gated nor f32_output nor activated; gated with kSilu only, f32_output with kNone only
//   a, w, residual, d 16-byte aligned; lda, ldw, ld_residual and ldd times the element size multiples of 16 bytes
//   k and n multiples of 8, since the copy engine's bounds are exact to 16 bytes only; n of 4 where f32_output
// Launches on `stream`; allocates nothing and does not wait. An error of the launch is returned.
cudaError_t GemmSm90(const GemmArgs& args, const GemmSm90Config& config, cudaStream_t stream);

// The kernel for few rows of `a`, as in decoding: bound by reading `w` once. Tensor-core products of 16 rows; the order
// of a sum depends on k alone.
//
// On Hopper it reads `w` before the kernels ahead of it in the stream have ended: those must not write it.
//
// Supports (else cudaErrorNotSupported):
//   m <= 64, m <= 32 where gated; k, lda and ldw multiples of 8; a and w 16-byte aligned; any n, ld_residual and ldd
//   compute capability 8.0 or higher
// Launches on `stream`; allocates nothing and does not wait.
cudaError_t GemmSkinny(const GemmArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_GEMM_H_
