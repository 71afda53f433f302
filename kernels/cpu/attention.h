// Attention over keys and values that lie in dense tensors.
#ifndef KERNELS_CPU_ATTENTION_H_
#define KERNELS_CPU_ATTENTION_H_

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

inline constexpr int64_t kMaxAttentionHeadDim = 512;  // of keys and of values: their blocks fit a thread's scratch

struct AttentionShape {
  int64_t batch, heads, kv_heads, queries, keys, head_dim, value_dim;  // heads: a multiple of kv_heads
  bool causal;
  int64_t window;  // 0: none
  float scale;
};

// Added to the scores: f32, or bool (true: the key is seen). Element (batch, head, query, key) lies at the sum of the
// indices times the strides, in elements; 0 where the mask is broadcast.
struct AttentionMask {
  const void* data = nullptr;  // nullptr: no mask
  bool is_bool = false;
  int64_t batch_stride = 0, head_stride = 0, query_stride = 0, key_stride = 0;
};

// q[batch, heads, queries, head_dim], k[batch, kv_heads, keys, head_dim], v[batch, kv_heads, keys, value_dim] ->
// y[batch, heads, queries, value_dim], as the IR's attention op says. Keys are taken in blocks of 64 from the first on,
// with a running maximum, those that the mask hides (false, or -infinity) as if they were not there: a query's result
// depends neither on the number of threads nor on the other queries. Values of keys that a query does not see must be
// finite all the same.
void Attention(const float* q, const float* k, const float* v, const AttentionMask& mask, float* y,
               const AttentionShape& shape, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_ATTENTION_H_
