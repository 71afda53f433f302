// Matrix products with fused epilogues: the projections of a transformer.
#ifndef KERNELS_CUDA_GEMM_H_
#define KERNELS_CUDA_GEMM_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

enum class Activation {
  kNone,
  kGeluTanh,  // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
  kGeluErf,   // x / 2 * (1 + erf(x / sqrt(2)))
  kSilu,      // x / (1 + exp(-x))
};

// LayerNorm or RMSNorm of the rows of a product's operand, as NormArgs has it.
struct RowNorm {
  const float* gamma = nullptr;  // [k]; null: no norm
  const float* beta = nullptr;   // [k], or null for none; null for RMSNorm
  float epsilon = 0;
  bool rms = false;
};

// d = activation(a * w^T + bias) + residual, summed in f32 and rounded once:
//
//   d[i, j] = round(act(sum_k a[i, k] * w[j, k] + bias[j]) + residual[i, j])
//
// gated: w has 2n rows, and
//
//   d[i, j] = round(act(sum_k a[i, k] * w[j, k] + bias[j]) * (sum_k a[i, k] * w[n + j, k] + bias[n + j]))
//
// All matrices are row-major, `ld*` elements from row to row. d may be the residual itself; no other operands may
// overlap d. By `dtype`, that of a and w:
//
//   kBf16, kF16, kF32: residual is of that type, d too or f32 (`f32_output`)
//   kS8: a and w hold codes of quantize.h, a_scale[m] and w_scale[n] (or [2n]) their scales; residual and d are bf16,
//   or
//        d f32. With fl rounding to f32, the terms above are
//
//          sum_k a[i, k] * w[j, k] + bias[j] = fl(fl(float(sum in s32) * fl(a_scale[i] * w_scale[j])) + bias[j])
//
//        and d is exact where there is no activation: the same on every machine. k is at most 131,072.
//        Where `quantize`, a holds rows of bf16, and the product makes their codes and scales itself, as Quantize does
//        (quantize.h), or Norm where there is a norm (norm.h): the same bits; a_scale is not read. GemmRowsSm90 alone.
struct GemmArgs {
  RowNorm norm = {};               // of the rows of `a` first, to the bits that Norm (norm.h) gives: GemmRowsSm90 alone
  const void* a = nullptr;         // [m, k]
  const void* w = nullptr;         // [n, k], or [2n, k] where gated: a linear layer's weight as PyTorch keeps it
  const float* bias = nullptr;     // [n] or [2n], or null for none
  const void* residual = nullptr;  // [m, n], or null for none
  void* d = nullptr;               // [m, n]
  int m = 0, n = 0, k = 0;
  int64_t lda = 0, ldw = 0, ld_residual = 0, ldd = 0;
  Activation activation = Activation::kNone;
  bool gated = false;
  bool f32_output = false;
  Dtype dtype = Dtype::kBf16;
  const float* a_scale = nullptr;
  const float* w_scale = nullptr;
  bool quantize = false;
  float clip = std::numeric_limits<float>::infinity();  // of the codes that the product makes
};

// How one launch of the sm_90a kernel is tiled; the default lets GemmSm90 choose from the shape.
struct GemmSm90Config {
  int tile_n = 0;  // 64, 128, 160 (bf16 alone) or 192; 0 to choose
};

// The Hopper kernel: wgmma fed by the copy engine, tiles of 128 x tile_n. The order of each sum depends on k alone: an
// element's bits depend neither on m, n nor on the tile.
//
// Supports (else cudaErrorNotSupported):
//   dtype kBf16, kF16 and kS8
//   residual where neither gated nor f32_output nor activated; gated with kSilu only, f32_output with kNone only
//   a, w, residual, d 16-byte aligned; lda, ldw, ld_residual and ldd times the element size multiples of 16 bytes
//   k and n multiples of 8 (k of 16 for kS8), since the copy engine's bounds are exact to 16 bytes only; n of 4 where
//   f32_output
// Launches on `stream`; allocates nothing and does not wait. An error of the launch is returned.
cudaError_t GemmSm90(const GemmArgs& args, const GemmSm90Config& config, cudaStream_t stream);

// The kernel for few rows of `a`, as in decoding: bound by reading `w` once. Tensor-core products of 16 rows; the order
// of a sum depends on k alone.
//
// On Hopper it reads `w` before the kernels ahead of it in the stream have ended: those must not write it.
//
// Supports (else cudaErrorNotSupported):
//   dtype kBf16, kF16 and kS8
//   m <= 64, m <= 32 where gated; k, lda and ldw multiples of 16 bytes; a and w 16-byte aligned; any n, ld_residual and
//   ldd
//   compute capability 8.0 or higher
// Launches on `stream`; allocates nothing and does not wait.
cudaError_t GemmSkinny(const GemmArgs& args, cudaStream_t stream);

// What GemmRowsSm90 normalizes, or codes, at most; beyond it, and where its CTAs come in more than one wave, Norm or
// Quantize and a product are quicker.
inline constexpr int kMostNormedRows = 8, kMostNormedColumns = 2048;
inline constexpr int kMostCodedColumns = 3072;  // of several rows without a norm

// How GemmRowsSm90 shares out one product; the default chooses from n and k.
struct GemmRowsSm90Config {
  int split_k = 0;    // multiprocessors that share a sum: 1, 2, 4 or 8; 0 to choose
  int tile_rows = 0;  // of w: 64, or 128 (with split_k 1); 0 to choose
};

// The Hopper kernel for few rows of `a`, or for any number in one order of sums: 64 or 128 rows of `w` are the first
// operand of wgmma, up to 64 of `a` the second, and a cluster shares k. The order of a sum depends on k and split_k
// alone, so by default on n and k: a row's bits do not depend on m.
//
// It reads `w`, bias, gamma and beta before the kernels ahead of it in the stream have ended: those must not write
// them.
//
// Supports (else cudaErrorNotSupported): as GemmSm90, but n without limit; any bias, residual, ld_residual and ldd; any
// activation with any output, gated or not; norm of at most kMostNormedRows rows of kMostNormedColumns, 16 bits wide
// or of codes that the product makes, with gamma and beta 16-byte aligned, for tiles of 64 that fit an H200 at once;
// codes made without a norm of at most kMostNormedRows rows of kMostCodedColumns or of one of 8,192, where such CTAs
// fit too, not gated, split by 2, 4 or 8. Launches on `stream`; allocates nothing and does not wait.
cudaError_t GemmRowsSm90(const GemmArgs& args, const GemmRowsSm90Config& config, cudaStream_t stream);

// The kernel that takes every epilogue on every GPU from compute capability 8.0 up: mma.sync fed by asynchronous
// copies; f32 by fused multiply-adds, never TF32. The order of a sum depends on k alone.
//
// Supports (else cudaErrorNotSupported): k, lda and ldw multiples of 16 bytes, a and w 16-byte aligned; f32 of any
// alignment of elements. Launches on `stream`; allocates nothing and does not wait.
cudaError_t GemmPortable(const GemmArgs& args, cudaStream_t stream);

// The fastest of the above that this GPU has and that takes `args`, by the shape: what holds for all of them holds. A
// row's bits may depend on m, as another kernel is chosen; to have the same bits at any m, call GemmSm90 or
// GemmPortable throughout.
cudaError_t Gemm(const GemmArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_GEMM_H_
