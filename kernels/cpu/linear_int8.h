// Linear layers of int8 codes: rows and weights are codes with scales, sums are exact in i32.
//
// z[m, n] = fl(fl(float(sum over k of x[m, k] weight[n, k]) * fl(x_scale[m] * weight_scale[n])) + bias[n]), each fl one
// rounding to fp32, as the IR's fused_linear says (docs/ir.md): the same bits on every target, at any number of rows
// and threads.
#ifndef KERNELS_CPU_LINEAR_INT8_H_
#define KERNELS_CPU_LINEAR_INT8_H_

#include <cstdint>

#include "kernels/cpu/linear_epilogue.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// The most k: 32 bits hold every sum of so many products of codes, 127 * 127 * k < 2^31.
inline constexpr int64_t kMaxInt8Depth = int64_t{1} << 17;

// y = f(z), or with `gated` f(z[:, :n/2]) * z[:, n/2:]; then y += residual. f is as accurate as kernels/cpu/unary.h
// says.
struct Int8LinearProblem {
  const uint8_t* x = nullptr;      // codes + 128 of m rows, as kernels/cpu/quantize.h's QuantizeLinearRows gives them
  const float* x_scale = nullptr;  // [m]
  const void* weight = nullptr;    // packed as kernels/registry/catalog.h says of panel16_int8, aligned to 64 bytes
  const float* weight_scale = nullptr;  // [n]
  const float* bias = nullptr;          // [n], or nullptr
  const float* residual = nullptr;      // of y's shape, or nullptr
  float* y = nullptr;                   // [m, n], or gated [m, n / 2]; overlaps none of the others
  int64_t m = 0, n = 0, k = 0;          // >= 0; k <= kMaxInt8Depth
  Activation activation = Activation::kNone;
  bool gated = false;   // n is even
  ReadAhead next = {};  // what is read after this layer
};

// Whether tiles of x86's matrix unit (AMX) may be used where this machine has one. They decide the speed alone.
enum class MatrixUnit : uint8_t { kIfThere, kNever };

void Int8Linear(const Int8LinearProblem& problem, ThreadPool* pool, MatrixUnit matrix_unit = MatrixUnit::kIfThere);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_LINEAR_INT8_H_
