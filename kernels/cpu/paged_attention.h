// Causal attention of packed tokens over the paged KV cache: decode, prefill and mixtures of them.
#ifndef KERNELS_CPU_PAGED_ATTENTION_H_
#define KERNELS_CPU_PAGED_ATTENTION_H_

#include <cstdint>

#include "kernels/cpu/paged_rows.h"
#include "kernels/cpu/thread_pool.h"

namespace flashflow::cpu {

inline constexpr int64_t kMaxHeadDim = 256;

// out[t, h] = sum over slots s of softmax_s(scale * q[t, h] . k[s]) v[s], over token t's slots 0..p, or the last
// `window` of them if window > 0. q and out are [tokens, heads, head_dim], q's tokens q_stride elements apart; heads is
// a multiple of kv_heads and query head h uses kv head h / (heads / kv_heads); head_dim <= kMaxHeadDim.
//
// A token's bits depend on its q and its slots only: not on other rows, on how a prompt is cut into steps, or on the
// number of threads. (Where later slots of the row hold infinities or NaN, they may spread to it.)
void PagedAttention(const float* q, int64_t q_stride, int64_t heads, const PagedRows& rows, const PagedLayer& cache,
                    float scale, int64_t window, float* out, ThreadPool* pool);

}  // namespace flashflow::cpu

#endif  // KERNELS_CPU_PAGED_ATTENTION_H_
