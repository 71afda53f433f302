// What all products ask of their arguments.
#ifndef KERNELS_CUDA_GEMM_CHECKS_H_
#define KERNELS_CUDA_GEMM_CHECKS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/gemm.h"

namespace flashflow::cuda {

// cudaErrorInvalidValue for sizes below one and for operands that are not there; cudaErrorNotSupported for rows to be
// normalized or quantized, unless takes_floats.
inline cudaError_t CheckOperands(const GemmArgs& args, bool takes_floats = false) {
  if (args.m < 1 || args.n < 1 || args.k < 1) return cudaErrorInvalidValue;
  if (args.a == nullptr || args.w == nullptr || args.d == nullptr) return cudaErrorInvalidValue;
  if (args.quantize && (args.dtype != Dtype::kS8 || !(args.clip > 0))) return cudaErrorInvalidValue;
  if (args.dtype == Dtype::kS8 && ((args.a_scale == nullptr && !args.quantize) || args.w_scale == nullptr)) {
    return cudaErrorInvalidValue;
  }
  return (args.norm.gamma != nullptr || args.quantize) && !takes_floats ? cudaErrorNotSupported : cudaSuccess;
}

inline bool Aligned16(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Whether tensor cores take `args`: no f32, rows of a and w of whole 16 bytes at 16-byte aligned addresses, and sums of
// codes that fit their 32 bits.
inline bool FitsTensorCores(const GemmArgs& args) {
  constexpr int kMostK = 131072;  // of codes: 2^17 products of at most 2^14 - 2^8 + 1 fit 32 bits with a sign
  if (args.dtype == Dtype::kF32) return false;
  const bool s8 = args.dtype == Dtype::kS8;
  const int step = s8 ? 16 : 8;
  return args.k % step == 0 && args.lda % step == 0 && args.ldw % step == 0 && Aligned16(args.a) && Aligned16(args.w) &&
         !(s8 && args.k > kMostK);
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_GEMM_CHECKS_H_
