// What the tests of the paged KV cache's kernels share: random steps over a poisoned cache.
#ifndef KERNELS_CPU_PAGED_CACHE_TESTING_H_
#define KERNELS_CPU_PAGED_CACHE_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "hwy/base.h"
#include "kernels/cpu/paged_rows.h"

namespace flashflow::cpu {

// One layer of a cache whose slots are all NaN until they are written.
class TestCache {
 public:
  TestCache(CacheType type, int64_t pages, int64_t kv_heads, int64_t page_size, int64_t head_dim)
      : layer_{.type = type, .pages = pages, .kv_heads = kv_heads, .page_size = page_size, .head_dim = head_dim},
        bytes_(static_cast<size_t>(pages * 2 * kv_heads * layer_.HeadBytes()), 0xFF) {
    layer_.data = bytes_.data();
  }
  TestCache(const TestCache&) = delete;
  TestCache& operator=(const TestCache&) = delete;

  const PagedLayer& layer() const { return layer_; }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

  // An element of k (v) of a slot in a page, as attention is to read it.
  float Get(int64_t page, bool v, int64_t kv_head, int64_t slot, int64_t i) const {
    const char* head = layer_.Head(page, v, kv_head);
    const int64_t element = slot * layer_.head_dim + i;
    if (layer_.type == CacheType::kInt8) {
      return static_cast<float>(reinterpret_cast<const int8_t*>(head)[element]) * layer_.Scales(head)[slot];
    }
    if (layer_.type == CacheType::kBF16)
      return hwy::F32FromBF16(reinterpret_cast<const hwy::bfloat16_t*>(head)[element]);
    return reinterpret_cast<const float*>(head)[element];
  }

  // k (v) of a slot, head_dim values, by the definitions: rounded, or as codes with their scale.
  void Set(int64_t page, bool v, int64_t kv_head, int64_t slot, const float* values) {
    char* head = layer_.Head(page, v, kv_head);
    const int64_t first = slot * layer_.head_dim;
    if (layer_.type == CacheType::kInt8)
      SetCodes(values, reinterpret_cast<int8_t*>(head) + first, &layer_.Scales(head)[slot]);
    for (int64_t i = 0; i < layer_.head_dim; ++i) {
      if (layer_.type == CacheType::kF32) reinterpret_cast<float*>(head)[first + i] = values[i];
      if (layer_.type == CacheType::kBF16) {
        reinterpret_cast<hwy::bfloat16_t*>(head)[first + i] = hwy::BF16FromF32(values[i]);
      }
    }
  }

 private:
  void SetCodes(const float* values, int8_t* codes, float* scale) const {
    float most = 0;
    bool finite = true;
    for (int64_t i = 0; i < layer_.head_dim; ++i) {
      finite &= std::isfinite(values[i]);
      most = std::max(most, std::abs(values[i]));
    }
    std::fill_n(codes, layer_.head_dim, int8_t{0});
    *scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    if (!finite || most < 0x1p-100f) return;
    *scale = most / 127;
    const float r = 127 / most;
    for (int64_t i = 0; i < layer_.head_dim; ++i) {
      codes[i] = static_cast<int8_t>(std::clamp(std::nearbyint(values[i] * r), -127.0f, 127.0f));
    }
  }

  PagedLayer layer_;
  std::vector<uint8_t> bytes_;
};

// Rows with so many slots each, of which the last `new_tokens` are this step's, on pages in random order.
struct TestRows {
  TestRows(const std::vector<int32_t>& slots, const std::vector<int32_t>& new_tokens, int64_t page_size,
           std::mt19937* random)
      : kv_len(slots) {
    for (int32_t n : slots) pages_per_row = std::max(pages_per_row, (n + page_size - 1) / page_size);
    for (int32_t n : new_tokens) row_start.push_back(row_start.back() + n);
    pages = static_cast<int64_t>(slots.size()) * pages_per_row + 1;
    block_table.resize(static_cast<size_t>(pages));
    std::iota(block_table.begin(), block_table.end(), 0);
    std::shuffle(block_table.begin(), block_table.end(), *random);
    block_table.pop_back();  // one page that no row has
  }
  PagedRows view() const { return {row_start, kv_len, block_table, pages_per_row}; }
  int64_t tokens() const { return row_start.back(); }

  std::vector<int32_t> row_start = {0};
  std::vector<int32_t> kv_len;
  std::vector<int32_t> block_table;
  int64_t pages_per_row = 0;
  int64_t pages = 0;
};

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_PAGED_CACHE_TESTING_H_
