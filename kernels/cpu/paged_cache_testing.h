// What the tests of the paged KV cache's kernels share: random steps over a poisoned cache.
#ifndef KERNELS_CPU_PAGED_CACHE_TESTING_H_
#define KERNELS_CPU_PAGED_CACHE_TESTING_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
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
  TestCache(bool bf16, int64_t pages, int64_t kv_heads, int64_t page_size, int64_t head_dim)
      : layer_{.bf16 = bf16, .pages = pages, .kv_heads = kv_heads, .page_size = page_size, .head_dim = head_dim},
        bytes_(static_cast<size_t>(pages * 2 * kv_heads * page_size * head_dim) * (bf16 ? 2 : 4), 0xFF) {
    layer_.data = bytes_.data();
  }
  TestCache(const TestCache&) = delete;
  TestCache& operator=(const TestCache&) = delete;

  const PagedLayer& layer() const { return layer_; }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

  float Get(int64_t element) const {
    if (!layer_.bf16) {
      float v;
      std::memcpy(&v, &bytes_[element * sizeof(v)], sizeof(v));
      return v;
    }
    hwy::bfloat16_t v;
    std::memcpy(static_cast<void*>(&v), &bytes_[element * sizeof(v)], sizeof(v));
    return hwy::F32FromBF16(v);
  }

  void Set(int64_t element, float value) {
    if (!layer_.bf16) {
      std::memcpy(&bytes_[element * sizeof(value)], &value, sizeof(value));
      return;
    }
    const hwy::bfloat16_t v = hwy::BF16FromF32(value);
    std::memcpy(&bytes_[element * sizeof(v)], &v, sizeof(v));
  }

 private:
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
