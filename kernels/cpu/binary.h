// Elementwise functions of two fp32 operands with numpy broadcasting.
#ifndef KERNELS_CPU_BINARY_H_
#define KERNELS_CPU_BINARY_H_

#include <cstdint>
#include <span>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

enum class BinaryOp : uint8_t { kAdd, kSub, kMul, kDiv, kMaximum, kMinimum, kPow };

// y = op(a, b), y dense row-major with dims `dims`. a_strides and b_strides give, for each dim of y, the operand's
// step in elements: 0 where it is broadcast. All three spans have one length, at most 8. y may be a or b where that
// operand is not broadcast. kMaximum and kMinimum give NaN where either operand is; kPow is the C library's.
void Binary(BinaryOp op, const float* a, std::span<const int64_t> a_strides, const float* b,
            std::span<const int64_t> b_strides, float* y, std::span<const int64_t> dims, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_BINARY_H_
