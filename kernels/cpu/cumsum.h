// Running sums along one axis.
#ifndef KERNELS_CPU_CUMSUM_H_
#define KERNELS_CPU_CUMSUM_H_

#include <cstdint>

#include "compiler/ir/dtype.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// x and y are [outer, axis, inner], row-major, of one dtype: f32, i32 or i64. Each y is the sum of the x up to it along
// `axis`, added one by one; integers wrap around. x and y may be the same.
void Cumsum(DType dtype, const void* x, void* y, int64_t outer, int64_t axis, int64_t inner, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_CUMSUM_H_
