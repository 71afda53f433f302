#include "kernels/cpu/reduce.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/reduce.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                     // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/loop_nest.h"
#include "kernels/cpu/vector_loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

float SumRun(const float* x, size_t count) {
  const FloatD d;
  auto sum = hn::Zero(d);
  ForEachVector(count, [&](size_t i, auto vector) HWY_ATTR { sum = hn::Add(sum, vector.Load(x + i)); });
  return hn::ReduceSum(d, sum);
}

float MaxRun(const float* x, size_t count) {
  const FloatD d;
  auto largest = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto nan = hn::Zero(d);
  ForEachVector(count, [&](size_t i, auto vector) HWY_ATTR {
    const auto v = vector.Or(vector.Load(x + i), largest);
    nan = hn::Add(nan, hn::IfThenElseZero(hn::IsNaN(v), v));
    largest = hn::Max(largest, v);
  });
  const float any_nan = hn::ReduceSum(d, nan);
  return std::isnan(any_nan) ? any_nan : hn::ReduceMax(d, largest);
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(SumRun);
HWY_EXPORT(MaxRun);

constexpr int64_t kGrain = 32768;  // elements, about five microseconds

float Greater(float a, float b) { return std::isnan(a) || a > b ? a : b; }  // NaN if either is

float StridedRun(bool is_max, const float* x, int64_t stride, int64_t count) {
  float result = is_max ? -std::numeric_limits<float>::infinity() : 0.0f;
  for (int64_t i = 0; i < count; ++i) result = is_max ? Greater(result, x[i * stride]) : result + x[i * stride];
  return result;
}

}  // namespace

void Reduce(ReduceOp op, const float* x, std::span<const int64_t> kept, std::span<const int64_t> kept_strides,
            std::span<const int64_t> reduced, std::span<const int64_t> reduced_strides, float* y, ThreadPool* pool) {
  int64_t results = 1, elements = 1;
  for (int64_t dim : kept) results *= dim;
  for (int64_t dim : reduced) elements *= dim;
  if (results == 0) return;
  const bool is_max = op == ReduceOp::kMax;
  if (elements == 0) {
    std::fill_n(y, results, op == ReduceOp::kSum ? 0.0f : std::numeric_limits<float>::quiet_NaN());
    return;
  }
  const auto run = is_max ? HWY_DYNAMIC_POINTER(MaxRun) : HWY_DYNAMIC_POINTER(SumRun);
  const LoopNest<1> inner(reduced, {reduced_strides});
  pool->ParallelFor(results, kGrain / elements + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t offset = 0, rest = i;
      for (size_t d = kept.size(); d-- > 0;) {
        offset += rest % kept[d] * kept_strides[d];
        rest /= kept[d];
      }
      float result = is_max ? -std::numeric_limits<float>::infinity() : 0.0f;
      inner.ForEachRun(0, inner.outer_count(), [&](const std::array<int64_t, 1>& at) {
        const float* from = x + offset + at[0];
        const float part = inner.inner_stride(0) == 1
                               ? run(from, static_cast<size_t>(inner.inner_count()))
                               : StridedRun(is_max, from, inner.inner_stride(0), inner.inner_count());
        result = is_max ? Greater(result, part) : result + part;
      });
      y[i] = op == ReduceOp::kMean ? result / static_cast<float>(elements) : result;
    }
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
