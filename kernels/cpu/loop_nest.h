// Loops over the elements of several strided operands at once.
#ifndef KERNELS_CPU_LOOP_NEST_H_
#define KERNELS_CPU_LOOP_NEST_H_

#include <array>
#include <cstdint>
#include <span>

#include "hwy/base.h"

namespace flashflow::cpu {

// A nest of loops over at most kMaxRank dims, outermost first, none of them 0, where operand o steps strides[o][i]
// elements in loop i. Loops of length one are dropped and neighbors that all operands run through evenly are merged, so
// that the innermost loop (there is always one) is as long as it can be.
template <int kOperands>
class LoopNest {
 public:
  static constexpr int kMaxRank = 8;

  LoopNest(std::span<const int64_t> dims, const std::array<std::span<const int64_t>, kOperands>& strides) {
    HWY_ASSERT(dims.size() <= kMaxRank);
    for (const auto& operand : strides) HWY_ASSERT(operand.size() == dims.size());
    for (size_t i = 0; i < dims.size(); ++i) {
      if (dims[i] == 1) continue;
      bool merges = rank_ > 0;
      for (int o = 0; o < kOperands && merges; ++o) {
        merges = strides_[o][rank_ - 1] == strides[o][i] * dims[i];
      }
      if (merges) {
        dims_[rank_ - 1] *= dims[i];
      } else {
        dims_[rank_++] = dims[i];
      }
      for (int o = 0; o < kOperands; ++o) strides_[o][rank_ - 1] = strides[o][i];
    }
    if (rank_ == 0) {  // one element
      dims_[0] = 1;
      rank_ = 1;
    }
  }

  int64_t inner_count() const { return dims_[rank_ - 1]; }
  int64_t inner_stride(int operand) const { return strides_[operand][rank_ - 1]; }
  // How often the innermost loop runs.
  int64_t outer_count() const {
    int64_t count = 1;
    for (int i = 0; i + 1 < rank_; ++i) count *= dims_[i];
    return count;
  }

  // Calls inner(offsets) for the runs begin <= i < end of the innermost loop, in order; offsets[o] is the element at
  // which operand o's run starts.
  template <typename Inner>
  void ForEachRun(int64_t begin, int64_t end, const Inner& inner) const {
    std::array<int64_t, kOperands> offsets{};
    std::array<int64_t, kMaxRank> index{};
    int64_t rest = begin;
    for (int i = rank_ - 2; i >= 0; --i) {
      index[i] = rest % dims_[i];
      rest /= dims_[i];
      for (int o = 0; o < kOperands; ++o) offsets[o] += index[i] * strides_[o][i];
    }
    for (int64_t run = begin; run < end; ++run) {
      inner(offsets);
      for (int i = rank_ - 2; i >= 0; --i) {
        for (int o = 0; o < kOperands; ++o) offsets[o] += strides_[o][i];
        if (++index[i] < dims_[i]) break;
        for (int o = 0; o < kOperands; ++o) offsets[o] -= dims_[i] * strides_[o][i];
        index[i] = 0;
      }
    }
  }

 private:
  int rank_ = 0;
  std::array<int64_t, kMaxRank> dims_{};
  std::array<std::array<int64_t, kMaxRank>, kOperands> strides_{};
};

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_LOOP_NEST_H_
