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
  kSigmoid,
  kSin,
  kCos,
  kRelu,
  kGelu,
  kGeluTanh,
  kSilu,
};

// y[i] = op(x[i]). x and y may be the same.
void Unary(UnaryOp op, const float* x, float* y, int64_t count, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_UNARY_H_
