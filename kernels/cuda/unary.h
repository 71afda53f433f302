// Elementwise functions of one operand.
#ifndef KERNELS_CUDA_UNARY_H_
#define KERNELS_CUDA_UNARY_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// kGelu is x * Phi(x) by erf; kGeluTanh is its tanh approximation.
enum class UnaryOp {
  kNeg,
  kAbs,
  kExp,
  kSqrt,
  kRsqrt,
  kReciprocal,
  kTanh,
  kErf,
  kSigmoid,
  kSin,
  kCos,
  kRelu,
  kGelu,
  kGeluTanh,
  kSilu,
  kNot,  // of bool, and no other of bool
};

// y[i] = op(x[i]), in f32 and rounded once; NaN for NaN. Of f32, at most 8 ulp off, but
//   kSilu      8 ulp + |x| 2^-149, as its exp(x) becomes subnormal
//   kGelu      16 ulp of the result, and |x| 2^-149
//   kGeluTanh  16 + 14 |u| ulp, where u is tanh's argument
struct UnaryArgs {
  UnaryOp op = UnaryOp::kNeg;
  Dtype dtype = Dtype::kF32;  // kF32, kF16, kBf16; kBool for kNot
  const void* x = nullptr;    // [count]
  void* y = nullptr;          // [count]; may be x
  int64_t count = 0;
};

// cudaErrorNotSupported for another dtype. Launches on `stream`; allocates nothing and does not wait.
cudaError_t Unary(const UnaryArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_UNARY_H_
