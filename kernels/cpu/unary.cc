#include "kernels/cpu/unary.h"

#include <cmath>
#include <cstddef>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/unary.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                    // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/vector_loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

template <class Function>
HWY_INLINE void Each(const float* x, float* y, size_t count, const Function& function) {
  ForEachVector(count,
                [&](size_t i, auto vector) HWY_ATTR { vector.Store(function(FloatD(), vector.Load(x + i)), y + i); });
}

void UnaryRange(UnaryOp op, const float* x, float* y, size_t count) {
  switch (op) {
    case UnaryOp::kNeg:
      return Each(x, y, count, [](auto, auto v) HWY_ATTR { return hn::Neg(v); });
    case UnaryOp::kAbs:
      return Each(x, y, count, [](auto, auto v) HWY_ATTR { return hn::Abs(v); });
    case UnaryOp::kExp:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return ExpAll(d, v); });
    case UnaryOp::kSqrt:
      return Each(x, y, count, [](auto, auto v) HWY_ATTR { return hn::Sqrt(v); });
    case UnaryOp::kRsqrt:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return hn::Div(hn::Set(d, 1.0f), hn::Sqrt(v)); });
    case UnaryOp::kReciprocal:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return hn::Div(hn::Set(d, 1.0f), v); });
    case UnaryOp::kTanh:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return hn::Tanh(d, v); });
    case UnaryOp::kErf:  // rare outside of gelu, which has its own
      for (size_t i = 0; i < count; ++i) y[i] = std::erf(x[i]);
      return;
    case UnaryOp::kSigmoid:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return Sigmoid(d, v); });
    case UnaryOp::kSin:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return SinAll(d, v); });
    case UnaryOp::kCos:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return CosAll(d, v); });
    case UnaryOp::kRelu:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return Relu(d, v); });
    case UnaryOp::kGelu:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return Gelu(d, v); });
    case UnaryOp::kGeluTanh:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return GeluTanh(d, v); });
    case UnaryOp::kSilu:
      return Each(x, y, count, [](auto d, auto v) HWY_ATTR { return Silu(d, v); });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(UnaryRange);

constexpr int64_t kGrain = 16384;  // elements, about ten microseconds of the slower functions

}  // namespace

void Unary(UnaryOp op, const float* x, float* y, int64_t count, ThreadPool* pool) {
  pool->ParallelFor(count, kGrain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(UnaryRange)(op, x + begin, y + begin, static_cast<size_t>(end - begin));
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
