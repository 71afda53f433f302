// The paged KV cache of int8 codes: appending to it, and attention over it.
//
// Of each token's key, and value, of a head the cache holds head_dim codes and one scale, by the arithmetic of
// quantize.h without a clip; what it stands for is the codes times the scale. A layer is [pages][2 (k, v)][kv_heads]
// heads of a page, each [page_size][head_dim] codes and behind them [page_size] scales of f32.
#ifndef KERNELS_CUDA_INT8_CACHE_H_
#define KERNELS_CUDA_INT8_CACHE_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/rope_append.h"

namespace flashflow::cuda {

// `cache` is such a layer; dtype is that of the rest.
struct Int8AppendArgs : RopeAppendArgs {};

// RopeAppend, but that the cache's slots get codes and scales of what RopeAppend would write to them: the same bits as
// the definition has of those values.
//
// Supports (else cudaErrorNotSupported) what RopeAppend does, with head_dim up to 256 and page_size a multiple of 4,
// the cache at 4 bytes. Launches on `stream`; allocates nothing and does not wait. tokens == 0 is fine: nothing is
// launched.
cudaError_t Int8Append(const Int8AppendArgs& args, cudaStream_t stream);

// `cache` is such a layer; dtype is that of q and o. blocks_per_row and tokens are not used.
struct Int8AttentionArgs : PagedAttentionArgs {};

// PagedAttention over such a cache, for decoding and for prompts alike, in f32 arithmetic: q . k is the codes' product
// with q times their scale, and a value's scale is taken into its probability.
//
// A token's bits depend on its q and its slots only: not on other rows, on how a prompt is cut into steps, or on
// pages_per_row. (Where later slots of the row stand for infinities or NaN, they may spread to it.)
//
// Supports (else cudaErrorNotSupported): head_dim a multiple of 8 up to 256; page_size a multiple of 4; q and the cache
// 16-byte aligned, q_stride of whole 16 bytes; a layer of less than 16 GiB; compute capability 8.0 and up. o may not
// overlap the others. Launches on `stream`; allocates nothing and does not wait.
cudaError_t Int8Attention(const Int8AttentionArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_INT8_CACHE_H_
