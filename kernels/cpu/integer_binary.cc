#include "kernels/cpu/integer_binary.h"

#include <algorithm>
#include <type_traits>

#include "hwy/base.h"
#include "kernels/cpu/broadcast_loop.h"

namespace flashflow::cpu {

void IntegerBinary(IntegerOp op, DType dtype, const void* a, std::span<const int64_t> a_strides, const void* b,
                   std::span<const int64_t> b_strides, void* y, std::span<const int64_t> dims, ThreadPool* pool) {
  HWY_ASSERT(dtype == DType::kI32 || dtype == DType::kI64);
  const auto run = [&]<typename T>(T* to) {
    const auto each = [&](const auto& function) {
      BroadcastLoop(to, dims, pool, function, {a_strides, b_strides}, static_cast<const T*>(a),
                    static_cast<const T*>(b));
    };
    using U = std::make_unsigned_t<T>;  // signed overflow has no meaning in C++
    switch (op) {
      case IntegerOp::kAdd:
        return each([](T p, T q) { return static_cast<T>(static_cast<U>(p) + static_cast<U>(q)); });
      case IntegerOp::kSub:
        return each([](T p, T q) { return static_cast<T>(static_cast<U>(p) - static_cast<U>(q)); });
      case IntegerOp::kMul:
        return each([](T p, T q) { return static_cast<T>(static_cast<U>(p) * static_cast<U>(q)); });
      case IntegerOp::kMaximum:
        return each([](T p, T q) { return std::max(p, q); });
      case IntegerOp::kMinimum:
        return each([](T p, T q) { return std::min(p, q); });
    }
  };
  if (dtype == DType::kI32) {
    run(static_cast<int32_t*>(y));
  } else {
    run(static_cast<int64_t*>(y));
  }
}

}  // namespace flashflow::cpu
