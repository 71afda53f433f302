#include "kernels/cpu/binary.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "hwy/base.h"
#include "kernels/cpu/loop_nest.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/binary.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                     // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/vector_loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

// Elements i, i + 1, ... of an operand with steps of `stride`.
template <class Vector>
HWY_INLINE FloatV LoadStrided(const float* p, int64_t stride, size_t i, Vector vector) {
  if (stride == 1) return vector.Load(p + i);
  if (stride == 0) return hn::Set(FloatD(), *p);
  HWY_ALIGN float lanes[hn::MaxLanes(FloatD())] = {};
  p += static_cast<int64_t>(i) * stride;
  for (size_t j = 0; j < vector.Count(); ++j, p += stride) lanes[j] = *p;
  return hn::Load(FloatD(), lanes);
}

template <class Function>
HWY_INLINE void Each(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* y, size_t count,
                     const Function& function) {
  if (a_stride == 1 && b_stride == 1) {
    ForEachVector(count, [&](size_t i, auto vector)
                             HWY_ATTR { vector.Store(function(vector.Load(a + i), vector.Load(b + i)), y + i); });
  } else {
    ForEachVector(count, [&](size_t i, auto vector) HWY_ATTR {
      vector.Store(function(LoadStrided(a, a_stride, i, vector), LoadStrided(b, b_stride, i, vector)), y + i);
    });
  }
}

void BinaryRun(BinaryOp op, const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* y,
               size_t count) {
  const auto each = [&](const auto& function) HWY_ATTR { Each(a, a_stride, b, b_stride, y, count, function); };
  switch (op) {
    case BinaryOp::kAdd:
      return each([](auto p, auto q) HWY_ATTR { return hn::Add(p, q); });
    case BinaryOp::kSub:
      return each([](auto p, auto q) HWY_ATTR { return hn::Sub(p, q); });
    case BinaryOp::kMul:
      return each([](auto p, auto q) HWY_ATTR { return hn::Mul(p, q); });
    case BinaryOp::kDiv:
      return each([](auto p, auto q) HWY_ATTR { return hn::Div(p, q); });
    case BinaryOp::kMaximum:  // NaN if either is
      return each([](auto p, auto q) HWY_ATTR { return hn::IfThenElse(hn::Or(hn::Gt(p, q), hn::IsNaN(p)), p, q); });
    case BinaryOp::kMinimum:
      return each([](auto p, auto q) HWY_ATTR { return hn::IfThenElse(hn::Or(hn::Lt(p, q), hn::IsNaN(p)), p, q); });
    case BinaryOp::kPow:
      for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) y[i] = std::pow(a[a_stride * i], b[b_stride * i]);
      return;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(BinaryRun);

constexpr int64_t kGrain = 32768;  // elements, about five microseconds

}  // namespace

void Binary(BinaryOp op, const float* a, std::span<const int64_t> a_strides, const float* b,
            std::span<const int64_t> b_strides, float* y, std::span<const int64_t> dims, ThreadPool* pool) {
  HWY_ASSERT(dims.size() <= LoopNest<3>::kMaxRank);
  std::array<int64_t, LoopNest<3>::kMaxRank> y_strides;
  int64_t count = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    y_strides[i] = count;
    count *= dims[i];
  }
  if (count == 0) return;
  const LoopNest<3> nest(dims, {a_strides, b_strides, std::span(y_strides).first(dims.size())});
  const auto run = HWY_DYNAMIC_POINTER(BinaryRun);
  const int64_t inner = nest.inner_count();
  const int64_t a_step = nest.inner_stride(0);
  const int64_t b_step = nest.inner_stride(1);
  if (nest.outer_count() == 1) {
    pool->ParallelFor(inner, kGrain, [&](int64_t begin, int64_t end) {
      run(op, a + begin * a_step, a_step, b + begin * b_step, b_step, y + begin, static_cast<size_t>(end - begin));
    });
    return;
  }
  pool->ParallelFor(nest.outer_count(), kGrain / inner + 1, [&](int64_t begin, int64_t end) {
    nest.ForEachRun(begin, end, [&](const std::array<int64_t, 3>& at) {
      run(op, a + at[0], a_step, b + at[1], b_step, y + at[2], static_cast<size_t>(inner));
    });
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
