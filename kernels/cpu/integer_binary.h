// Elementwise arithmetic of integers, with numpy broadcasting.
#ifndef KERNELS_CPU_INTEGER_BINARY_H_
#define KERNELS_CPU_INTEGER_BINARY_H_

#include <cstdint>
#include <span>

#include "compiler/ir/dtype.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

enum class IntegerOp : uint8_t { kAdd, kSub, kMul, kMaximum, kMinimum };

// y = op(a, b), all of one dtype, i32 or i64; results wrap around at its width. Strides and dims as in Binary().
void IntegerBinary(IntegerOp op, DType dtype, const void* a, std::span<const int64_t> a_strides, const void* b,
                   std::span<const int64_t> b_strides, void* y, std::span<const int64_t> dims, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_INTEGER_BINARY_H_
