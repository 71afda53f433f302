// Row lookups: embedding tables and selected rows, by i32 or i64 indices.
#ifndef KERNELS_CPU_GATHER_H_
#define KERNELS_CPU_GATHER_H_

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// The position of the first index outside [0, limit), if there is one. Gathers require that there is none.
std::optional<int64_t> FirstOutOfRange(std::span<const int32_t> indices, int64_t limit);
std::optional<int64_t> FirstOutOfRange(std::span<const int64_t> indices, int64_t limit);

// dst[i] = src[rows[i]], rows of row_bytes bytes.
void GatherRows(const void* src, int64_t row_bytes, std::span<const int32_t> rows, void* dst, ThreadPool* pool);
void GatherRows(const void* src, int64_t row_bytes, std::span<const int64_t> rows, void* dst, ThreadPool* pool);

// The same from a bf16 table[., columns] into fp32.
void GatherRowsBF16ToF32(const uint16_t* table, int64_t columns, std::span<const int32_t> rows, float* dst,
                         ThreadPool* pool);
void GatherRowsBF16ToF32(const uint16_t* table, int64_t columns, std::span<const int64_t> rows, float* dst,
                         ThreadPool* pool);

// From a table[., columns] of int8 codes: each times its row's scale, rounded to fp32.
void GatherRowsInt8ToF32(const int8_t* table, const float* scales, int64_t columns, std::span<const int32_t> rows,
                         float* dst, ThreadPool* pool);
void GatherRowsInt8ToF32(const int8_t* table, const float* scales, int64_t columns, std::span<const int64_t> rows,
                         float* dst, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_GATHER_H_
