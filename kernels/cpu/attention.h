// The paged KV cache: appending to it and attending over it, for packed tokens of several rows.
#ifndef KERNELS_CPU_ATTENTION_H_
#define KERNELS_CPU_ATTENTION_H_

#include <cstdint>
#include <span>
#include <string>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

inline constexpr int64_t kMaxHeadDim = 256;

// One layer of the cache: [pages][2 (k, v)][kv_heads][page_size][head_dim], fp32 or bf16.
struct PagedLayer {
  void* data = nullptr;
  bool bf16 = false;
  int64_t pages = 0;
  int64_t kv_heads = 0;
  int64_t page_size = 0;
  int64_t head_dim = 0;
};

// Which tokens and cache slots belong to which row. Row r owns tokens row_start[r] <= t < row_start[r + 1]; its slot
// p lies in page block_table[r, p / page_size] at p % page_size; kv_len[r] counts its slots, the new tokens included:
// token t has slot kv_len[r] - (row_start[r + 1] - t).
struct PagedRows {
  std::span<const int32_t> row_start;    // [rows + 1]
  std::span<const int32_t> kv_len;       // [rows]
  std::span<const int32_t> block_table;  // [rows, pages_per_row]
  int64_t pages_per_row = 0;
};

// Empty if every slot of every row lies inside the cache and `tokens` is what row_start ends with; otherwise what is
// wrong. The kernels below require that it is empty.
std::string CheckPagedRows(const PagedRows& rows, int64_t tokens, int64_t page_size, int64_t pages);

// Writes k and v[tokens, kv_heads, head_dim] to the new tokens' slots, rounded to nearest even if the cache is bf16.
void KvAppend(const float* k, const float* v, const PagedRows& rows, const PagedLayer& cache, ThreadPool* pool);

// out[t, h] = softmax(scale * q[t, h] . k[slot]) v[slot] over the token's slots 0..p, or the last `window` of them if
// window > 0. q and out: [tokens, heads, head_dim], heads a multiple of kv_heads; head_dim <= kMaxHeadDim.
// A token's bits depend on its q and its slots only: not on other rows, on chunking, or on threads.
void PagedAttention(const float* q, int64_t heads, const PagedRows& rows, const PagedLayer& cache, float scale,
                    int64_t window, float* out, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_ATTENTION_H_
