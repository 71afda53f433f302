#include "kernels/cpu/predicate.h"

#include <array>

#include "hwy/base.h"
#include "kernels/cpu/broadcast_loop.h"

namespace flashflow::cpu {

void Compare(CompareOp op, DType dtype, const void* a, std::span<const int64_t> a_strides, const void* b,
             std::span<const int64_t> b_strides, bool* y, std::span<const int64_t> dims, ThreadPool* pool) {
  const auto run = [&]<typename T>(const T* p, const T* q) {
    const auto each = [&](const auto& function) {
      BroadcastLoop(y, dims, pool, function, {a_strides, b_strides}, p, q);
    };
    switch (op) {
      case CompareOp::kEq:
        return each([](T i, T j) { return i == j; });
      case CompareOp::kNe:
        return each([](T i, T j) { return i != j; });
      case CompareOp::kLt:
        return each([](T i, T j) { return i < j; });
      case CompareOp::kLe:
        return each([](T i, T j) { return i <= j; });
      case CompareOp::kGt:
        return each([](T i, T j) { return i > j; });
      case CompareOp::kGe:
        return each([](T i, T j) { return i >= j; });
    }
  };
  switch (dtype) {
    case DType::kF32:
      return run(static_cast<const float*>(a), static_cast<const float*>(b));
    case DType::kI32:
      return run(static_cast<const int32_t*>(a), static_cast<const int32_t*>(b));
    case DType::kI64:
      return run(static_cast<const int64_t*>(a), static_cast<const int64_t*>(b));
    case DType::kBool:
      return run(static_cast<const uint8_t*>(a), static_cast<const uint8_t*>(b));
    default:
      HWY_ABORT("Compare: dtype %d", static_cast<int>(dtype));
  }
}

void Logical(LogicalOp op, const bool* a, std::span<const int64_t> a_strides, const bool* b,
             std::span<const int64_t> b_strides, bool* y, std::span<const int64_t> dims, ThreadPool* pool) {
  if (op == LogicalOp::kAnd) {
    BroadcastLoop(y, dims, pool, [](bool p, bool q) { return p && q; }, {a_strides, b_strides}, a, b);
  } else {
    BroadcastLoop(y, dims, pool, [](bool p, bool q) { return p || q; }, {a_strides, b_strides}, a, b);
  }
}

void LogicalNot(const bool* x, bool* y, int64_t count, ThreadPool* pool) {
  const std::array<int64_t, 1> dims = {count}, strides = {1};
  BroadcastLoop(y, dims, pool, [](bool p) { return !p; }, {std::span<const int64_t>(strides)}, x);
}

}  // namespace flashflow::cpu
