#include "kernels/cpu/gather.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace flashflow::cpu {
namespace {

constexpr int64_t kGrainBytes = 128 << 10;  // about ten microseconds

template <typename Index>
std::optional<int64_t> FindOutOfRange(std::span<const Index> indices, int64_t limit) {
  for (size_t i = 0; i < indices.size(); ++i) {
    if (indices[i] < 0 || indices[i] >= limit) return static_cast<int64_t>(i);
  }
  return std::nullopt;
}

template <typename Index>
void Gather(const void* src, int64_t row_bytes, std::span<const Index> rows, void* dst, ThreadPool* pool) {
  if (row_bytes == 0) return;
  pool->ParallelFor(static_cast<int64_t>(rows.size()), kGrainBytes / row_bytes + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(static_cast<char*>(dst) + i * row_bytes, static_cast<const char*>(src) + rows[i] * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
  });
}

template <typename Index>
void GatherBF16ToF32(const uint16_t* table, int64_t columns, std::span<const Index> rows, float* dst,
                     ThreadPool* pool) {
  if (columns == 0) return;
  const int64_t grain = kGrainBytes / static_cast<int64_t>(sizeof(float)) / columns + 1;
  pool->ParallelFor(static_cast<int64_t>(rows.size()), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint16_t* row = table + rows[i] * columns;
      for (int64_t c = 0; c < columns; ++c) dst[i * columns + c] = std::bit_cast<float>(uint32_t{row[c]} << 16);
    }
  });
}

template <typename Index>
void GatherInt8ToF32(const int8_t* table, const float* scales, int64_t columns, std::span<const Index> rows, float* dst,
                     ThreadPool* pool) {
  if (columns == 0) return;
  const int64_t grain = kGrainBytes / static_cast<int64_t>(sizeof(float)) / columns + 1;
  pool->ParallelFor(static_cast<int64_t>(rows.size()), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int8_t* row = table + rows[i] * columns;
      const float scale = scales[rows[i]];
      for (int64_t c = 0; c < columns; ++c) dst[i * columns + c] = static_cast<float>(row[c]) * scale;
    }
  });
}

}  // namespace

std::optional<int64_t> FirstOutOfRange(std::span<const int32_t> indices, int64_t limit) {
  return FindOutOfRange(indices, limit);
}
std::optional<int64_t> FirstOutOfRange(std::span<const int64_t> indices, int64_t limit) {
  return FindOutOfRange(indices, limit);
}

void GatherRows(const void* src, int64_t row_bytes, std::span<const int32_t> rows, void* dst, ThreadPool* pool) {
  Gather(src, row_bytes, rows, dst, pool);
}
void GatherRows(const void* src, int64_t row_bytes, std::span<const int64_t> rows, void* dst, ThreadPool* pool) {
  Gather(src, row_bytes, rows, dst, pool);
}

void GatherRowsBF16ToF32(const uint16_t* table, int64_t columns, std::span<const int32_t> rows, float* dst,
                         ThreadPool* pool) {
  GatherBF16ToF32(table, columns, rows, dst, pool);
}
void GatherRowsBF16ToF32(const uint16_t* table, int64_t columns, std::span<const int64_t> rows, float* dst,
                         ThreadPool* pool) {
  GatherBF16ToF32(table, columns, rows, dst, pool);
}

void GatherRowsInt8ToF32(const int8_t* table, const float* scales, int64_t columns, std::span<const int32_t> rows,
                         float* dst, ThreadPool* pool) {
  GatherInt8ToF32(table, scales, columns, rows, dst, pool);
}
void GatherRowsInt8ToF32(const int8_t* table, const float* scales, int64_t columns, std::span<const int64_t> rows,
                         float* dst, ThreadPool* pool) {
  GatherInt8ToF32(table, scales, columns, rows, dst, pool);
}

}  // namespace flashflow::cpu
