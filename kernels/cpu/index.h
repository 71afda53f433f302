// Lookups by several index tensors at once.
#ifndef KERNELS_CPU_INDEX_H_
#define KERNELS_CPU_INDEX_H_

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// An index into one axis of x: i32 or i64, its steps in elements under the lookup's dims, 0 where it is broadcast.
struct AxisIndex {
  const void* data;
  bool is_i64;
  std::span<const int64_t> strides;
  int64_t size;      // of the axis: -size <= index < size, negative ones count from the end
  int64_t elements;  // of the index tensor

  int64_t At(int64_t element) const {
    return is_i64 ? static_cast<const int64_t*>(data)[element] : static_cast<const int32_t*>(data)[element];
  }
};

// The position of the first element out of the axis's range, if there is one. Index() requires that there is none.
std::optional<int64_t> FirstOutOfRange(const AxisIndex& index);

// y[i] = x[indices[0][i], indices[1][i], ...] for every index i of `dims`, y dense: runs of run_bytes bytes, which are
// what x has for one index into each of its first axes.
void Index(const void* x, std::span<const AxisIndex> indices, std::span<const int64_t> dims, int64_t run_bytes, void* y,
           ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_INDEX_H_
