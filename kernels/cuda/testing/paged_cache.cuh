// A paged KV cache for tests: pages in a shuffled order, every slot in use random, all else poison.
#ifndef KERNELS_CUDA_TESTING_PAGED_CACHE_CUH_
#define KERNELS_CUDA_TESTING_PAGED_CACHE_CUH_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cuda/paged_rows.h"
#include "kernels/cuda/testing/guarded_buffer.cuh"

namespace flashflow::cuda::testing {

template <class T>
GuardedBuffer<T>& Upload(GuardedBuffer<T>& buffer, const std::vector<T>& host) {
  FF_CUDA_OK(cudaMemcpy(buffer.data(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return buffer;
}

// A row's tokens of this step, and its slots with those.
struct RowSize {
  int tokens, slots;
};

// The element at which k (v) of a slot begins, in a layer [pages][2][kv_heads][page_size][head_dim].
__host__ __device__ inline int64_t CacheAt(int64_t page, int v, int kv_head, int slot, int kv_heads, int page_size,
                                           int head_dim) {
  return (((page * 2 + v) * kv_heads + kv_head) * page_size + slot) * head_dim;
}

// The host's and the device's arrays of PagedRows. `first_needed`, a slot of each row: pages wholly before it have
// entries that point far outside.
class TestRows {
 public:
  TestRows(const std::vector<RowSize>& sizes, const std::vector<int>& first_needed, int page_size, uint64_t seed)
      : rows_(static_cast<int>(sizes.size())),
        pages_per_row_(PagesPerRow(sizes, page_size)),
        row_start_(rows_ + 1),
        kv_len_(rows_),
        table_(int64_t{rows_} * pages_per_row_) {
    std::vector<int32_t> start(1, 0), len, table;
    pages_ = 3;  // that nobody has
    for (const RowSize& size : sizes) pages_ += (size.slots + page_size - 1) / page_size;
    std::vector<int32_t> order(pages_);
    for (int i = 0; i < pages_; ++i) order[i] = i;
    for (int i = pages_ - 1; i > 0; --i) {
      seed = seed * 6364136223846793005ull + 1442695040888963407ull;
      std::swap(order[i], order[(seed >> 33) % (i + 1)]);
    }
    int next = 0;
    for (int row = 0; row < rows_; ++row) {
      start.push_back(start.back() + sizes[row].tokens);
      len.push_back(sizes[row].slots);
      for (int page = 0; page < pages_per_row_; ++page) {
        const bool used = page * page_size < sizes[row].slots;
        const int32_t id = used ? order[next++] : kNowhere;
        table.push_back((page + 1) * page_size <= first_needed[row] ? kNowhere : id);
      }
    }
    tokens_ = start.back();
    host_start_ = start;
    host_len_ = len;
    host_table_ = table;
    Upload(row_start_, start);
    Upload(kv_len_, len);
    Upload(table_, table);
  }

  PagedRows Args() const { return {row_start_.data(), kv_len_.data(), table_.data(), rows_, pages_per_row_}; }
  int rows() const { return rows_; }
  int tokens() const { return tokens_; }
  int pages() const { return pages_; }
  int pages_per_row() const { return pages_per_row_; }
  const std::vector<int32_t>& start() const { return host_start_; }
  const std::vector<int32_t>& len() const { return host_len_; }
  const std::vector<int32_t>& table() const { return host_table_; }

 private:
  static constexpr int32_t kNowhere = 0x3fffffff;
  static int PagesPerRow(const std::vector<RowSize>& sizes, int page_size) {
    int most = 1;
    for (const RowSize& size : sizes) most = std::max(most, (size.slots + page_size - 1) / page_size);
    return most + 1;
  }

  int rows_, pages_per_row_, tokens_ = 0, pages_ = 0;
  GuardedBuffer<int32_t> row_start_, kv_len_, table_;
  std::vector<int32_t> host_start_, host_len_, host_table_;
};

// Random keys and values in every slot of every row that its table can reach. A block a row.
template <class E>
__global__ void FillCacheKernel(E* cache, PagedRows rows, int64_t pages, int kv_heads, int page_size, int head_dim,
                                uint64_t seed, float k_scale) {
  const int row = blockIdx.x;
  for (int slot = blockIdx.y; slot < rows.kv_len[row]; slot += gridDim.y) {
    const int64_t page = rows.block_table[int64_t{row} * rows.pages_per_row + slot / page_size];
    if (page >= pages) continue;
    for (int i = threadIdx.x; i < 2 * kv_heads * head_dim; i += blockDim.x) {
      const int v = i / (kv_heads * head_dim), head = i / head_dim % kv_heads;
      const int64_t at = CacheAt(page, v, head, slot % page_size, kv_heads, page_size, head_dim) + i % head_dim;
      cache[at] = static_cast<E>(RandomUniform(seed, at, v ? 1.0f : k_scale));
    }
  }
}

}  // namespace flashflow::cuda::testing

#endif  // KERNELS_CUDA_TESTING_PAGED_CACHE_CUH_
