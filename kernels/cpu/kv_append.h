// Appending new tokens' keys and values to the paged KV cache.
#ifndef KERNELS_CPU_KV_APPEND_H_
#define KERNELS_CPU_KV_APPEND_H_

#include "kernels/cpu/paged_rows.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

// Writes k and v[tokens, kv_heads, head_dim] to the new tokens' slots, rounded to nearest even if the cache is bf16.
void KvAppend(const float* k, const float* v, const PagedRows& rows, const PagedLayer& cache, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_KV_APPEND_H_
