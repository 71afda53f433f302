// Appending new tokens' keys and values to the paged KV cache.
#ifndef KERNELS_CPU_KV_APPEND_H_
#define KERNELS_CPU_KV_APPEND_H_

#include <cstdint>

#include "kernels/cpu/paged_rows.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// New tokens' keys or values, [tokens, kv_heads, head_dim], tokens `stride` elements apart.
struct TokenHeads {
  const float* data = nullptr;
  int64_t stride = 0;
};

// Writes k and v to the new tokens' slots, rounded to nearest even if the cache is bf16; if it is int8, each head's
// vector as QuantizeRow makes codes and a scale of it, without a clip.
void KvAppend(TokenHeads k, TokenHeads v, const PagedRows& rows, const PagedLayer& cache, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_KV_APPEND_H_
