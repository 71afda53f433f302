#include "kernels/cpu/pack.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace flashflow::cpu {
namespace {

constexpr int64_t kPanel = 16;

// dst[k / kPack][16][kPack] per panel, zero where src ends.
template <int64_t kPack, typename T>
void PackPanels(const T* src, int64_t n, int64_t k, T* dst, ThreadPool* pool, bool transposed) {
  const int64_t row_stride = transposed ? 1 : k;  // of element (i, j)
  const int64_t column_stride = transposed ? n : 1;
  const int64_t panels = (n + kPanel - 1) / kPanel;
  const int64_t k_padded = (k + kPack - 1) / kPack * kPack;
  pool->ParallelFor(panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      T* panel = dst + p * kPanel * k_padded;
      const int64_t rows = std::min(kPanel, n - p * kPanel);
      if (rows < kPanel || k_padded != k) std::fill_n(panel, kPanel * k_padded, T{0});
      for (int64_t j = 0; j < k; ++j) {
        const T* column = src + p * kPanel * row_stride + j * column_stride;
        T* packed = panel + j / kPack * kPanel * kPack + j % kPack;
        for (int64_t i = 0; i < rows; ++i) packed[i * kPack] = column[i * row_stride];
      }
    }
  });
}

}  // namespace

void PackPanel16(const float* src, int64_t n, int64_t k, float* dst, ThreadPool* pool, bool transposed) {
  PackPanels<1>(src, n, k, dst, pool, transposed);
}

void PackPanel16Vnni2(const uint16_t* src, int64_t n, int64_t k, uint16_t* dst, ThreadPool* pool, bool transposed) {
  PackPanels<2>(src, n, k, dst, pool, transposed);
}

void PackPanel16Int8(const int8_t* src, int64_t n, int64_t k, std::byte* dst, ThreadPool* pool, bool transposed) {
  constexpr int64_t kQuad = 4, kAlignment = 64, kStartBytes = kPanel * 4;
  const int64_t row_stride = transposed ? 1 : k;  // of element (i, j)
  const int64_t column_stride = transposed ? n : 1;
  const int64_t panel_bytes = kStartBytes + (k + kAlignment - 1) / kAlignment * kAlignment * kPanel;
  pool->ParallelFor((n + kPanel - 1) / kPanel, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      std::byte* panel = dst + p * panel_bytes;
      std::memset(panel, 0, static_cast<size_t>(panel_bytes));
      const int64_t rows = std::min(kPanel, n - p * kPanel);
      int64_t sums[kPanel] = {};
      for (int64_t j = 0; j < k; ++j) {
        const int8_t* column = src + p * kPanel * row_stride + j * column_stride;
        std::byte* packed = panel + kStartBytes + j / kQuad * kPanel * kQuad + j % kQuad;
        for (int64_t i = 0; i < rows; ++i) {
          const int8_t code = column[i * row_stride];
          packed[i * kQuad] = static_cast<std::byte>(code);
          sums[i] += code;
        }
      }
      for (int64_t i = 0; i < rows; ++i) {
        const auto start = static_cast<uint32_t>(-128 * sums[i]);  // sums of i32 wrap around
        std::memcpy(panel + i * 4, &start, sizeof(start));
      }
    }
  });
}

void PackPanel16Int4(const std::byte* src, int64_t n, int64_t k, std::byte* dst, ThreadPool* pool) {
  PackPanels<4>(src, n, k / 2, dst, pool, /*transposed=*/false);
}

void PackPanel16Groups(const uint16_t* src, int64_t n, int64_t groups, uint16_t* dst, ThreadPool* pool) {
  PackPanels<1>(src, n, 2 * groups, dst, pool, /*transposed=*/false);
}

void PackTransposed(const std::byte* src, int64_t n, int64_t k, size_t element_bytes, std::byte* dst,
                    ThreadPool* pool) {
  pool->ParallelFor(n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t j = 0; j < k; ++j) {
      for (int64_t i = begin; i < end; ++i) {
        std::memcpy(dst + static_cast<size_t>(i * k + j) * element_bytes,
                    src + static_cast<size_t>(j * n + i) * element_bytes, element_bytes);
      }
    }
  });
}

}  // namespace flashflow::cpu
