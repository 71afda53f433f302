#include "kernels/cpu/softmax.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/softmax.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                      // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/vector_loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

// A softmax over `count` consecutive elements.
void SoftmaxRow(const float* x, float* y, size_t count) {
  const FloatD d;
  auto largest = hn::Set(d, kMinusInf);
  ForEachVector(count, [&](size_t i, auto vector)
                           HWY_ATTR { largest = hn::Max(largest, vector.Or(vector.Load(x + i), largest)); });
  const auto shift = hn::Set(d, hn::ReduceMax(d, largest));
  auto sum = hn::Zero(d);
  ForEachVector(count, [&](size_t i, auto vector) HWY_ATTR {
    const auto e = ExpAll(d, hn::Sub(vector.Load(x + i), shift));
    sum = hn::Add(sum, vector.Or(e, hn::Zero(d)));
    vector.Store(e, y + i);
  });
  const auto scale = hn::Set(d, 1.0f / hn::ReduceSum(d, sum));
  ForEachVector(count,
                [&](size_t i, auto vector) HWY_ATTR { vector.Store(hn::Mul(vector.Load(y + i), scale), y + i); });
}

// Softmaxes down the columns of x[axis, columns], whose rows are `stride` elements apart: a lane each.
void SoftmaxColumns(const float* x, float* y, size_t axis, size_t stride, size_t columns) {
  const FloatD d;
  ForEachVector(columns, [&](size_t i, auto vector) HWY_ATTR {
    auto largest = hn::Set(d, kMinusInf);
    for (size_t a = 0; a < axis; ++a) largest = hn::Max(largest, vector.Load(x + a * stride + i));
    auto sum = hn::Zero(d);
    for (size_t a = 0; a < axis; ++a) {
      const auto e = ExpAll(d, hn::Sub(vector.Load(x + a * stride + i), largest));
      sum = hn::Add(sum, e);
      vector.Store(e, y + a * stride + i);
    }
    const auto scale = hn::Div(hn::Set(d, 1.0f), sum);
    for (size_t a = 0; a < axis; ++a) {
      float* const at = y + a * stride + i;
      vector.Store(hn::Mul(vector.Load(at), scale), at);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(SoftmaxRow);
HWY_EXPORT(SoftmaxColumns);

constexpr int64_t kGrain = 16384;  // elements, about ten microseconds

}  // namespace

void Softmax(const float* x, float* y, int64_t outer, int64_t axis, int64_t inner, ThreadPool* pool) {
  if (axis == 0 || inner == 0) return;
  const auto row = HWY_DYNAMIC_POINTER(SoftmaxRow);
  const auto columns = HWY_DYNAMIC_POINTER(SoftmaxColumns);
  pool->ParallelFor(outer * inner, kGrain / axis + 1, [&](int64_t begin, int64_t end) {
    if (inner == 1) {
      for (int64_t o = begin; o < end; ++o) row(x + o * axis, y + o * axis, axis);
      return;
    }
    while (begin < end) {  // the part of each [axis, inner] that is in the range
      const int64_t first = begin % inner;
      const int64_t count = std::min(end - begin, inner - first);
      const int64_t at = begin / inner * axis * inner + first;
      columns(x + at, y + at, axis, inner, count);
      begin += count;
    }
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
