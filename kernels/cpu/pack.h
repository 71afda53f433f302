// Weights from row-major into the layouts of kernels/registry/catalog.h.
#ifndef KERNELS_CPU_PACK_H_
#define KERNELS_CPU_PACK_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// src[n, k] row-major, or src[k, n] if it is transposed; dst of PackedBytes() bytes, all of which are written.
void PackPanel16(const float* src, int64_t n, int64_t k, float* dst, ThreadPool* pool, bool transposed = false);
void PackPanel16Vnni2(const uint16_t* src, int64_t n, int64_t k, uint16_t* dst, ThreadPool* pool,
                      bool transposed = false);
void PackPanel16Int8(const int8_t* src, int64_t n, int64_t k, std::byte* dst, ThreadPool* pool,
                     bool transposed = false);
// src of n rows of k codes of 4 bits, two a byte and the first in its lower half; k a multiple of 32.
void PackPanel16Int4(const std::byte* src, int64_t n, int64_t k, std::byte* dst, ThreadPool* pool);
// src[n, groups, 2] of f16: scale and least value.
void PackPanel16Groups(const uint16_t* src, int64_t n, int64_t groups, uint16_t* dst, ThreadPool* pool);

// src[k, n] row-major to dst[n, k], of elements of 1, 2, 4 or 8 bytes.
void PackTransposed(const std::byte* src, int64_t n, int64_t k, size_t element_bytes, std::byte* dst, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_PACK_H_
