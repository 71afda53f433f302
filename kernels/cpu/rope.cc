#include "kernels/cpu/rope.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "hwy/base.h"
#include "kernels/cpu/loop_nest.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope.cc"  // this file, once for each target
#include "hwy/foreach_target.h"                   // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/vector_loop-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flashflow::cpu {
namespace HWY_NAMESPACE {

void RopeRow(const float* x, const float* cos, const float* sin, float* y, size_t half) {
  ForEachVector(half, [&](size_t i, auto vector) HWY_ATTR {
    const auto first = vector.Load(x + i);
    const auto second = vector.Load(x + half + i);
    vector.Store(hn::NegMulAdd(second, vector.Load(sin + i), hn::Mul(first, vector.Load(cos + i))), y + i);
    vector.Store(hn::MulAdd(first, vector.Load(sin + half + i), hn::Mul(second, vector.Load(cos + half + i))),
                 y + half + i);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace flashflow::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flashflow::cpu {
namespace {

HWY_EXPORT(RopeRow);

constexpr int64_t kGrain = 16384;  // elements

}  // namespace

void Rope(const RopeOperand& x, const RopeOperand& cos, const RopeOperand& sin, float* y,
          std::span<const int64_t> y_strides, std::span<const int64_t> dims, int64_t channels, ThreadPool* pool) {
  HWY_ASSERT(dims.size() <= LoopNest<4>::kMaxRank && channels % 2 == 0);
  if (channels == 0 || std::ranges::find(dims, 0) != dims.end()) return;
  const auto row = HWY_DYNAMIC_POINTER(RopeRow);
  const auto half = static_cast<size_t>(channels / 2);
  const LoopNest<4> nest(dims, {x.strides, cos.strides, sin.strides, y_strides});
  const int64_t inner = nest.inner_count();
  pool->ParallelFor(nest.outer_count(), kGrain / (inner * channels) + 1, [&](int64_t begin, int64_t end) {
    nest.ForEachRun(begin, end, [&](const std::array<int64_t, 4>& at) {
      for (int64_t i = 0; i < inner; ++i) {
        row(x.data + at[0] + i * nest.inner_stride(0), cos.data + at[1] + i * nest.inner_stride(1),
            sin.data + at[2] + i * nest.inner_stride(2), y + at[3] + i * nest.inner_stride(3), half);
      }
    });
  });
}

}  // namespace flashflow::cpu
#endif  // HWY_ONCE
