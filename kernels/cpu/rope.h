// Rotary position embedding in the half-split form (Su et al., RoFormer; the layout of GPT-NeoX and Llama).
#ifndef KERNELS_CPU_ROPE_H_
#define KERNELS_CPU_ROPE_H_

#include <cstdint>
#include <span>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// Where the rows of an operand lie: one stride, in elements, for each of the leading dims.
struct RopeOperand {
  const float* data = nullptr;
  std::span<const int64_t> strides;
};

// For each index of the leading dims, a row of `channels` (even): y = x * cos + partner(x) * sin, partner(x)[i] being
// -x[i + channels / 2] in the first half and x[i - channels / 2] in the second. y overlaps nothing. At most 8 dims.
void Rope(const RopeOperand& x, const RopeOperand& cos, const RopeOperand& sin, float* y,
          std::span<const int64_t> y_strides, std::span<const int64_t> dims, int64_t channels, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_ROPE_H_
