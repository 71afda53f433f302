// What the attention kernels for any GPU know of a call, whether keys lie in tensors or in the pages of a KV cache.
#ifndef KERNELS_CUDA_ATTENTION_PARAMS_CUH_
#define KERNELS_CUDA_ATTENTION_PARAMS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/paged_rows.h"

namespace flashflow::cuda {

struct AttentionParams {
  AttentionTensor q, o;
  // Keys in tensors.
  AttentionTensor k, v;
  const int32_t* q_start = nullptr;
  const int32_t* kv_start = nullptr;
  // Keys in pages.
  const void* cache = nullptr;  // [pages][2][kv_heads][page_size][head_dim]
  PagedRows rows;
  int page_size = 0;

  int batch = 0, heads = 0, kv_heads = 0, q_tokens = 0, kv_tokens = 0, head_dim = 0, window = 0;
  int tiles = 0;  // blocks of queries in the longest row
  bool causal = true;
  float scale_log2 = 0;
};

// Where a row's tokens begin in the tensors, in elements, and how many they are.
struct RowSpan {
  int64_t first_query, first_output, first_key, first_value;
  int queries, keys;
};
template <bool kPaged>
__device__ __forceinline__ RowSpan SpanOf(const AttentionParams& params, int row) {
  RowSpan span = {};
  if (kPaged || params.q_start != nullptr) {
    const int32_t* starts = kPaged ? params.rows.row_start : params.q_start;
    span.queries = starts[row + 1] - starts[row];
    span.first_query = starts[row] * params.q.token_stride;
    span.first_output = starts[row] * params.o.token_stride;
    if constexpr (kPaged) {
      span.keys = params.rows.kv_len[row];
    } else {
      span.keys = params.kv_start[row + 1] - params.kv_start[row];
      span.first_key = params.kv_start[row] * params.k.token_stride;
      span.first_value = params.kv_start[row] * params.v.token_stride;
    }
  } else {
    span.queries = params.q_tokens;
    span.keys = params.kv_tokens;
    span.first_query = row * params.q.batch_stride;
    span.first_output = row * params.o.batch_stride;
    span.first_key = row * params.k.batch_stride;
    span.first_value = row * params.v.batch_stride;
  }
  return span;
}

template <class E>
struct KeyValuePointers {
  const E *k, *v;
};
template <class E, bool kPaged>
__device__ __forceinline__ KeyValuePointers<E> KeyAndValue(const AttentionParams& params, const RowSpan& span, int row,
                                                           int key, int kv_head) {
  if constexpr (kPaged) {
    const int page_index = key / params.page_size;
    const int64_t page = params.rows.block_table[int64_t{row} * params.rows.pages_per_row + page_index];
    const int64_t head_elements = int64_t{params.page_size} * params.head_dim;
    const E* k = static_cast<const E*>(params.cache) + (page * 2 * params.kv_heads + kv_head) * head_elements +
                 (key - page_index * params.page_size) * params.head_dim;
    return {k, k + params.kv_heads * head_elements};
  } else {
    return {static_cast<const E*>(params.k.data) + span.first_key + key * params.k.token_stride +
                kv_head * params.k.head_stride,
            static_cast<const E*>(params.v.data) + span.first_value + key * params.v.token_stride +
                kv_head * params.v.head_stride};
  }
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_ATTENTION_PARAMS_CUH_
