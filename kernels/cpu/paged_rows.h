// Packed tokens of several rows and their slots in the paged KV cache.
#ifndef KERNELS_CPU_PAGED_ROWS_H_
#define KERNELS_CPU_PAGED_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace flashflow::cpu {

enum class CacheType : uint8_t { kF32, kBF16, kInt8 };

// One layer of the cache: [pages][2 (k, v)][kv_heads] heads of a page, each [page_size][head_dim] elements. Of int8
// those are codes, and behind them lie [page_size] scales of fp32: page_size is a multiple of 4 then.
struct PagedLayer {
  void* data = nullptr;
  CacheType type = CacheType::kF32;
  int64_t pages = 0;
  int64_t kv_heads = 0;
  int64_t page_size = 0;
  int64_t head_dim = 0;

  int64_t HeadBytes() const {
    if (type == CacheType::kInt8) return page_size * (head_dim + static_cast<int64_t>(sizeof(float)));
    return page_size * head_dim * (type == CacheType::kBF16 ? 2 : 4);
  }
  // Where k (v) of a page's slots begins.
  char* Head(int64_t page, bool v, int64_t kv_head) const {
    return static_cast<char*>(data) + ((page * 2 + v) * kv_heads + kv_head) * HeadBytes();
  }
  // Of int8: the scales of a head's slots.
  float* Scales(char* head) const { return reinterpret_cast<float*>(head + page_size * head_dim); }
  const float* Scales(const char* head) const { return reinterpret_cast<const float*>(head + page_size * head_dim); }
};

// Which tokens and cache slots belong to which row. Row r owns tokens row_start[r] <= t < row_start[r + 1]; its slot
// p lies in page block_table[r, p / page_size] at p % page_size; kv_len[r] counts its slots, the new tokens included:
// token t has slot kv_len[r] - (row_start[r + 1] - t).
struct PagedRows {
  std::span<const int32_t> row_start;    // [rows + 1]
  std::span<const int32_t> kv_len;       // [rows]
  std::span<const int32_t> block_table;  // [rows, pages_per_row]
  int64_t pages_per_row = 0;

  int64_t rows() const { return static_cast<int64_t>(kv_len.size()); }
  int64_t tokens(int64_t row) const { return row_start[row + 1] - row_start[row]; }
  // Slot of the row's first token in this step.
  int64_t first_slot(int64_t row) const { return kv_len[row] - tokens(row); }
  const int32_t* pages(int64_t row) const { return block_table.data() + row * pages_per_row; }
};

// Empty if every slot of every row lies inside a cache of `pages` pages and the rows own exactly `tokens` tokens;
// otherwise what is wrong. Kernels require that it is empty.
std::string CheckPagedRows(const PagedRows& rows, int64_t tokens, int64_t page_size, int64_t pages);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_PAGED_ROWS_H_
