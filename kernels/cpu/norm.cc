#include "kernels/cpu/norm.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                   // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/vector_loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

// The sum of term(x[i]) over a row.
template <class Term>
HWY_INLINE float SumOf(const float* x, size_t count, const Term& term) {
  const FloatD d;
  const size_t pair = 2 * hn::Lanes(d);
  const size_t paired = count / pair * pair;
  auto sum = hn::Zero(d);
  auto other = hn::Zero(d);
  for (size_t i = 0; i < paired; i += pair) {
    sum = hn::Add(sum, term(hn::LoadU(d, x + i)));
    other = hn::Add(other, term(hn::LoadU(d, x + i + hn::Lanes(d))));
  }
  ForEachVector(count - paired, [&](size_t i, auto vector) HWY_ATTR {
    sum = hn::Add(sum, vector.Or(term(vector.Load(x + paired + i)), hn::Zero(d)));
  });
  return hn::ReduceSum(d, hn::Add(sum, other));
}

// y = (x - shift) * scale * weight + bias
HWY_INLINE void ScaleRow(const float* x, float shift, float scale, const float* weight, const float* bias, float* y,
                         size_t count) {
  const FloatD d;
  const auto vshift = hn::Set(d, shift);
  const auto vscale = hn::Set(d, scale);
  ForEachVector(count, [&](size_t i, auto vector) HWY_ATTR {
    auto v = hn::Mul(hn::Sub(vector.Load(x + i), vshift), vscale);
    if (weight != nullptr) v = hn::Mul(v, vector.Load(weight + i));
    if (bias != nullptr) v = hn::Add(v, vector.Load(bias + i));
    vector.Store(v, y + i);
  });
}

void LayerNormRow(const float* x, const float* weight, const float* bias, float eps, float* y, size_t count) {
  const float mean = SumOf(x, count, [](auto v) HWY_ATTR { return v; }) / static_cast<float>(count);
  const auto vmean = hn::Set(FloatD(), mean);
  const float squares = SumOf(x, count, [vmean](auto v) HWY_ATTR {
    const auto centered = hn::Sub(v, vmean);
    return hn::Mul(centered, centered);
  });
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(count) + eps);
  ScaleRow(x, mean, scale, weight, bias, y, count);
}

void RmsNormRow(const float* x, const float* weight, float eps, float* y, size_t count) {
  const float squares = SumOf(x, count, [](auto v) HWY_ATTR { return hn::Mul(v, v); });
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(count) + eps);
  ScaleRow(x, 0.0f, scale, weight, nullptr, y, count);
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(LayerNormRow);
HWY_EXPORT(RmsNormRow);

constexpr int64_t kGrain = 32768;  // elements, about five microseconds

int64_t RowGrain(int64_t columns) { return kGrain / std::max<int64_t>(columns, 1) + 1; }

}  // namespace

void LayerNorm(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t rows,
               int64_t columns, ThreadPool* pool) {
  const auto row = HWY_DYNAMIC_POINTER(LayerNormRow);
  pool->ParallelFor(rows, RowGrain(columns), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(x + r * columns, weight, bias, eps, y + r * columns, columns);
  });
}

void RmsNorm(const float* x, const float* weight, float eps, float* y, int64_t rows, int64_t columns,
             ThreadPool* pool) {
  const auto row = HWY_DYNAMIC_POINTER(RmsNormRow);
  pool->ParallelFor(rows, RowGrain(columns), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(x + r * columns, weight, eps, y + r * columns, columns);
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
