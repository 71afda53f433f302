// LayerNorm and RMSNorm over rows, with the residual sum that precedes them in a transformer.
#ifndef KERNELS_CUDA_NORM_H_
#define KERNELS_CUDA_NORM_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace flashflow::cuda {

// h = x + residual, rounded to bf16 (h = x where residual is null); then, per row and in f32,
//
//   LayerNorm: y = (h - mean(h)) / sqrt(mean((h - mean(h))^2) + epsilon) * gamma + beta
//   RMSNorm:   y = h / sqrt(mean(h^2) + epsilon) * gamma
//
// All tensors are bf16. Rows are `ld` elements apart in x, residual, sum and y alike.
struct NormArgs {
  const void* x = nullptr;         // [rows, columns]
  const void* residual = nullptr;  // [rows, columns], or null
  void* sum = nullptr;             // [rows, columns]: h is written here; may be x or residual; null to drop it
  const void* gamma = nullptr;     // [columns]
  const void* beta = nullptr;      // [columns], or null for none; null for RMSNorm
  void* y = nullptr;               // [rows, columns]; may be x or residual
  int rows = 0, columns = 0;
  int64_t ld = 0;
  float epsilon = 0;
  bool rms = false;
};

// A row's bits do not depend on the other rows.
//
// Supports (else cudaErrorNotSupported):
//   columns <= 32768; columns and ld multiples of 8, all pointers 16-byte aligned
// Launches on `stream`; allocates nothing and does not wait.
cudaError_t Norm(const NormArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_NORM_H_
