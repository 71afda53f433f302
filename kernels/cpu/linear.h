// Linear layers over packed weights, with what may follow them in one pass: matrix-vector for decode, matrix-matrix for
// prefill, one arithmetic for both.
//
// Every z[m, n] is the sum over k in ascending order in one fp32 accumulator, then plus the bias. So a row's bits do
// not depend on the other rows, on how many there are, or on the number of threads.
#ifndef KERNELS_CPU_LINEAR_H_
#define KERNELS_CPU_LINEAR_H_

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

enum class Activation : uint8_t { kNone, kGelu, kGeluTanh, kSilu, kRelu };

// z[m, n] = x[m, k] weight[n, k]^T + bias; y = f(z), or with `gated` f(z[:, :n/2]) * z[:, n/2:]; then y += residual.
// f is as accurate as kernels/cpu/unary.h says.
struct LinearProblem {
  const float* x = nullptr;  // row-major, as y and residual
  // Packed as kernels/registry/catalog.h says of panel16, or with bf16_weight of panel16_vnni2 (widened exactly to
  // fp32; x is not rounded). Aligned to 64 bytes.
  const void* weight = nullptr;
  bool bf16_weight = false;
  const float* bias = nullptr;      // [n], or nullptr
  const float* residual = nullptr;  // of y's shape, or nullptr
  float* y = nullptr;               // [m, n], or gated [m, n / 2]; overlaps none of the others
  int64_t m = 0, n = 0, k = 0;      // >= 0
  Activation activation = Activation::kNone;
  bool gated = false;  // n is even
};
void Linear(const LinearProblem& problem, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_LINEAR_H_
