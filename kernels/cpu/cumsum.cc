#include "kernels/cpu/cumsum.h"

#include <type_traits>

#include "hwy/base.h"

namespace flashflow::cpu {
namespace {

constexpr int64_t kGrain = 32768;  // elements, about ten microseconds

template <typename T>
T Plus(T a, T b) {
  if constexpr (std::is_integral_v<T>) {  // signed overflow has no meaning in C++
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  } else {
    return a + b;
  }
}

template <typename T>
void Run(const T* x, T* y, int64_t outer, int64_t axis, int64_t inner, ThreadPool* pool) {
  pool->ParallelFor(outer * inner, kGrain / axis + 1, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t first = line / inner * axis * inner + line % inner;
      T sum = 0;
      for (int64_t i = 0; i < axis; ++i) {
        sum = i == 0 ? x[first] : Plus(sum, x[first + i * inner]);
        y[first + i * inner] = sum;
      }
    }
  });
}

}  // namespace

void Cumsum(DType dtype, const void* x, void* y, int64_t outer, int64_t axis, int64_t inner, ThreadPool* pool) {
  if (outer == 0 || axis == 0 || inner == 0) return;
  const auto run = [&]<typename T>(T* to) { Run(static_cast<const T*>(x), to, outer, axis, inner, pool); };
  switch (dtype) {
    case DType::kF32:
      return run(static_cast<float*>(y));
    case DType::kI32:
      return run(static_cast<int32_t*>(y));
    case DType::kI64:
      return run(static_cast<int64_t*>(y));
    default:
      HWY_ABORT("Cumsum: dtype %d", static_cast<int>(dtype));
  }
}

}  // namespace flashflow::cpu
