// Elementwise functions of one fp32 operand.
#ifndef KERNELS_CPU_UNARY_H_
#define KERNELS_CPU_UNARY_H_

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// kGelu is x * Phi(x) by erf; kGeluTanh is its tanh approximation.
enum class UnaryOp : uint8_t {
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
};

// y[i] = op(x[i]), NaN for NaN. x and y may be the same. Most results are at most 3 ulp off; but
//   kSilu      3 ulp + |x| 2^-149, as its exp(x) becomes subnormal
//   kGelu      10 ulp; with vectors that have no fused multiply-add, 10 + x^2 for negative x
//   kGeluTanh  10 + 14 |u| ulp for negative x, where u is tanh's argument
void Unary(UnaryOp op, const float* x, float* y, int64_t count, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_UNARY_H_
