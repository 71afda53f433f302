// Which tokens of a step belong to which row of the paged KV cache.
#ifndef KERNELS_CUDA_PAGED_ROWS_H_
#define KERNELS_CUDA_PAGED_ROWS_H_

#include <cstdint>

namespace flashflow::cuda {

// In device memory. Row r owns tokens row_start[r] <= t < row_start[r + 1]; its slot p lies in page block_table[r, p /
// page_size] at p % page_size; kv_len[r] counts its slots, those of the new tokens included: token t has slot kv_len[r]
// - (row_start[r + 1] - t). Nothing of this is checked on the device: every slot must lie in the cache and within
// pages_per_row pages.
struct PagedRows {
  const int32_t* row_start = nullptr;    // [rows + 1], from 0, not falling
  const int32_t* kv_len = nullptr;       // [rows]
  const int32_t* block_table = nullptr;  // [rows, pages_per_row]
  int rows = 0, pages_per_row = 0;
};

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_PAGED_ROWS_H_
