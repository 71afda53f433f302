// Chooses elements by a condition, with numpy broadcasting.
#ifndef KERNELS_CPU_SELECT_H_
#define KERNELS_CPU_SELECT_H_

#include <cstdint>
#include <span>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// y = condition ? a : b, elements of `element_bytes` (1, 2, 4 or 8). Strides, of the condition, a and b in elements,
// and dims as in Binary().
void Select(const bool* condition, std::span<const int64_t> condition_strides, const void* a,
            std::span<const int64_t> a_strides, const void* b, std::span<const int64_t> b_strides, void* y,
            std::span<const int64_t> dims, int element_bytes, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_SELECT_H_
