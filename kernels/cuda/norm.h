// LayerNorm and RMSNorm over rows, with the residual sum that precedes them in a transformer.
#ifndef KERNELS_CUDA_NORM_H_
#define KERNELS_CUDA_NORM_H_

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// h = x + residual, rounded to the operands' type (h = x where residual is null); then, per row and in f32,
//
//   LayerNorm: y = (h - mean(h)) / sqrt(mean((h - mean(h))^2) + epsilon) * gamma + beta
//   RMSNorm:   y = h / sqrt(mean(h^2) + epsilon) * gamma
//
// All tensors are of `dtype`, rounded once, but for gamma and beta. Rows are `ld` elements apart in x, residual, sum
// and y alike. With `codes` the f32 row, not rounded before, is quantized too, as quantize.h says: what an s8 product
// takes.
struct NormArgs {
  const void* x = nullptr;         // [rows, columns]
  const void* residual = nullptr;  // [rows, columns], or null
  void* sum = nullptr;             // [rows, columns]: h is written here; may be x or residual; null to drop it
  const float* gamma = nullptr;    // [columns], or null for ones
  const float* beta = nullptr;     // [columns], or null for none; null for RMSNorm
  void* y = nullptr;               // [rows, columns]; may be x or residual; null where only codes are wanted
  int rows = 0, columns = 0;
  int64_t ld = 0;
  float epsilon = 0;
  bool rms = false;
  Dtype dtype = Dtype::kBf16;
  int8_t* codes = nullptr;  // [rows, columns], rows ld_codes apart, or null
  float* scale = nullptr;   // [rows], with codes
  int64_t ld_codes = 0;
  float clip = INFINITY;  // of codes; positive
};

// A row's bits do not depend on the other rows. On Hopper it reads gamma and beta before the kernels ahead of it in the
// stream have ended: those must not write them.
//
// Supports (else cudaErrorNotSupported):
//   dtype kBf16, kF16 and kF32
//   with codes: gamma, columns <= 32768, columns, ld and ld_codes multiples of 8, codes 8-byte and all other pointers
//   16-byte aligned (scale: 4); other calls that are not so go to the slower norm_plain.h
// Launches on `stream`; allocates nothing and does not wait.
cudaError_t Norm(const NormArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_NORM_H_
