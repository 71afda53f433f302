// Moving elements: transpose, slice, expand and concat are all strided copies.
#ifndef KERNELS_CPU_COPY_H_
#define KERNELS_CPU_COPY_H_

#include <cstdint>
#include <span>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// dst[i0, i1, ...] = src[sum(i * src_strides)], for all indices below `dims`; dst's own steps are dst_strides. Strides
// are in elements of `element_bytes` (1, 2, 4 or 8). The memory of src and dst must not overlap. At most 8 dims.
void StridedCopy(const void* src, std::span<const int64_t> src_strides, void* dst, std::span<const int64_t> dst_strides,
                 std::span<const int64_t> dims, int element_bytes, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_COPY_H_
