// 4-bit codes of groups of a row's elements, by the arithmetic of the IR's `quantize` with groups (docs/ir.md).
#ifndef KERNELS_CPU_QUANTIZE_GROUPS_H_
#define KERNELS_CPU_QUANTIZE_GROUPS_H_

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// Elements of a group.
inline constexpr int64_t kInt4Group = 32;

// Of x[groups, kInt4Group], a whole number of groups a row: codes[groups, kInt4Group / 2], two a byte and the first in
// its lower half, and scales[groups, 2] of f16, a scale and a least value; both are NaN for a group with an element
// that is not finite, or whose scale or least value f16 does not hold.
void QuantizeGroups(const float* x, int64_t groups, uint8_t* codes, uint16_t* scales, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_QUANTIZE_GROUPS_H_
