// Tensors made from nothing: one value repeated, and indices.
#ifndef KERNELS_CPU_FILL_H_
#define KERNELS_CPU_FILL_H_

#include <cstdint>

#include "compiler/ir/dtype.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// y[i] = the element at `value`, of element_bytes (1, 2, 4 or 8).
void Fill(const void* value, int element_bytes, void* y, int64_t count, ThreadPool* pool);

// y[o, a, i] = a for y[outer, axis, inner]; dtype is f32, i32 or i64.
void Iota(DType dtype, void* y, int64_t outer, int64_t axis, int64_t inner);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_FILL_H_
