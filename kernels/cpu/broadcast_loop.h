// The loop of every elementwise kernel that is not worth vectors by hand: plain C++ for the compiler to vectorize.
#ifndef KERNELS_CPU_BROADCAST_LOOP_H_
#define KERNELS_CPU_BROADCAST_LOOP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <utility>

#include "kernels/cpu/loop_nest.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// y[i] = function(operands[i]...) for all indices below `dims`, y dense row-major. strides[o] gives, for each dim, the
// step of operand o in elements: 0 where it is broadcast. At most 8 dims.
template <typename Y, typename Function, typename... X>
void BroadcastLoop(Y* y, std::span<const int64_t> dims, ThreadPool* pool, const Function& function,
                   const std::array<std::span<const int64_t>, sizeof...(X)>& strides, const X*... operands) {
  constexpr size_t kOperands = sizeof...(X);
  constexpr int64_t kGrain = 32768;  // elements, about ten microseconds
  std::array<int64_t, LoopNest<kOperands + 1>::kMaxRank> y_strides{};
  int64_t count = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    y_strides[i] = count;
    count *= dims[i];
  }
  if (count == 0) return;
  std::array<std::span<const int64_t>, kOperands + 1> all;
  for (size_t o = 0; o < kOperands; ++o) all[o] = strides[o];
  all[kOperands] = std::span(y_strides).first(dims.size());
  const LoopNest<kOperands + 1> nest(dims, all);
  const std::tuple<const X*...> x(operands...);
  const auto run = [&]<size_t... o>(std::index_sequence<o...>, const std::array<int64_t, kOperands + 1>& at,
                                    int64_t length) {
    Y* const to = y + at[kOperands];
    const std::tuple<const X*...> from((std::get<o>(x) + at[o])...);
    if (((nest.inner_stride(static_cast<int>(o)) == 1) && ...)) {
      for (int64_t i = 0; i < length; ++i) to[i] = function(std::get<o>(from)[i]...);
    } else {
      const std::array<int64_t, kOperands> step = {nest.inner_stride(static_cast<int>(o))...};
      for (int64_t i = 0; i < length; ++i) to[i] = function(std::get<o>(from)[i * step[o]]...);
    }
  };
  constexpr auto kEach = std::index_sequence_for<X...>();
  const int64_t inner = nest.inner_count();
  if (nest.outer_count() == 1) {
    pool->ParallelFor(inner, kGrain, [&](int64_t begin, int64_t end) {
      std::array<int64_t, kOperands + 1> at{};
      for (size_t o = 0; o <= kOperands; ++o) at[o] = begin * nest.inner_stride(static_cast<int>(o));
      run(kEach, at, end - begin);
    });
    return;
  }
  pool->ParallelFor(nest.outer_count(), kGrain / inner + 1, [&](int64_t begin, int64_t end) {
    nest.ForEachRun(begin, end, [&](const std::array<int64_t, kOperands + 1>& at) { run(kEach, at, inner); });
  });
}

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_BROADCAST_LOOP_H_
