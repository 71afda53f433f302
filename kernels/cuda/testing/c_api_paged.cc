// The kernels of the paged KV cache as plain C functions, for programs that load them from the shared library. Each
// returns a cudaError_t as an int.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/rope_append.h"

using flashflow::cuda::PagedAttentionArgs;
using flashflow::cuda::PagedDecodeArgs;
using flashflow::cuda::RopeAppendArgs;

namespace {

RopeAppendArgs MergedAppend(void* qkv, int heads, int kv_heads, int head_dim) {
  RopeAppendArgs args;
  const int64_t stride = int64_t{heads + 2 * kv_heads} * head_dim;
  auto* elements = static_cast<uint16_t*>(qkv);
  args.q = args.q_out = {elements, stride};
  args.k = {elements + int64_t{heads} * head_dim, stride};
  args.v = {elements + int64_t{heads + kv_heads} * head_dim, stride};
  args.heads = heads;
  args.kv_heads = kv_heads;
  args.head_dim = head_dim;
  return args;
}

}  // namespace

extern "C" {

// bf16; q is [tokens, heads, head_dim].
int ff_paged_attention(const void* q, void* o, const void* cache, const int32_t* row_start, const int32_t* kv_len,
                       const int32_t* block_table, int rows, int pages_per_row, int max_row_tokens, int heads,
                       int kv_heads, int head_dim, int page_size, float scale, int window, int blocks_per_row,
                       void* stream) {
  PagedAttentionArgs args;
  args.q = q;
  args.q_stride = int64_t{heads} * head_dim;
  args.o = o;
  args.cache = cache;
  args.rows = {row_start, kv_len, block_table, rows, pages_per_row};
  args.max_row_tokens = max_row_tokens;
  args.heads = heads;
  args.kv_heads = kv_heads;
  args.head_dim = head_dim;
  args.page_size = page_size;
  args.scale = scale;
  args.window = window;
  args.blocks_per_row = blocks_per_row;
  return PagedAttention(args, static_cast<cudaStream_t>(stream));
}

// bf16 rows of a merged projection, f32 angles; queries are turned in place.
int ff_rope_append(void* qkv, const float* cos, const float* sin, void* cache, const int32_t* row_start,
                   const int32_t* kv_len, const int32_t* block_table, int tokens, int rows, int pages_per_row,
                   int heads, int kv_heads, int head_dim, int page_size, void* stream) {
  RopeAppendArgs args = MergedAppend(qkv, heads, kv_heads, head_dim);
  args.cos = cos;
  args.sin = sin;
  args.cache = cache;
  args.rows = {row_start, kv_len, block_table, rows, pages_per_row};
  args.tokens = tokens;
  args.page_size = page_size;
  return RopeAppend(args, static_cast<cudaStream_t>(stream));
}

// Both of the above, for rows of one token; cos and sin may be null.
int ff_paged_decode(void* qkv, const float* cos, const float* sin, void* o, void* cache, const int32_t* row_start,
                    const int32_t* kv_len, const int32_t* block_table, int tokens, int rows, int pages_per_row,
                    int heads, int kv_heads, int head_dim, int page_size, float scale, int window, int blocks_per_row,
                    void* stream) {
  PagedDecodeArgs args;
  args.append = MergedAppend(qkv, heads, kv_heads, head_dim);
  args.append.cos = cos;
  args.append.sin = sin;
  args.append.cache = cache;
  args.append.rows = {row_start, kv_len, block_table, rows, pages_per_row};
  args.append.tokens = tokens;
  args.append.page_size = page_size;
  args.o = o;
  args.scale = scale;
  args.window = window;
  args.blocks_per_row = blocks_per_row;
  return PagedDecode(args, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
