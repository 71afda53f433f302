// Comparisons and logic: elementwise functions whose results are bool, with numpy broadcasting.
#ifndef KERNELS_CPU_PREDICATE_H_
#define KERNELS_CPU_PREDICATE_H_

#include <cstdint>
#include <span>

#include "compiler/ir/dtype.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

enum class CompareOp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe };
enum class LogicalOp : uint8_t { kAnd, kOr };

// y = a op b as bytes 0 and 1; a and b of one dtype, f32, i32, i64 or bool. With a NaN only kNe holds. Strides and dims
// as in Binary().
void Compare(CompareOp op, DType dtype, const void* a, std::span<const int64_t> a_strides, const void* b,
             std::span<const int64_t> b_strides, bool* y, std::span<const int64_t> dims, ThreadPool* pool);

void Logical(LogicalOp op, const bool* a, std::span<const int64_t> a_strides, const bool* b,
             std::span<const int64_t> b_strides, bool* y, std::span<const int64_t> dims, ThreadPool* pool);

void LogicalNot(const bool* x, bool* y, int64_t count, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_PREDICATE_H_
