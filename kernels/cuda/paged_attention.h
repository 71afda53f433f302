// Attention over the paged KV cache: decode, chunks of prompts, and batches that mix them.
#ifndef KERNELS_CUDA_PAGED_ATTENTION_H_
#define KERNELS_CUDA_PAGED_ATTENTION_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"
#include "kernels/cuda/paged_rows.h"
#include "kernels/cuda/rope_append.h"

namespace flashflow::cuda {

// o[t, h] = sum over slots s of softmax_s(scale * q[t, h] . k[s]) v[s], over token t's slots 0..p, p being its own, or
// the last `window` of them if window > 0. Query head h reads key/value head h / (heads / kv_heads).
struct PagedAttentionArgs {
  Dtype dtype = Dtype::kBf16;   // of q, o and the cache
  const void* q = nullptr;      // [tokens, heads, head_dim]
  int64_t q_stride = 0;         // elements between tokens: q may be part of a merged projection
  void* o = nullptr;            // [tokens, heads, head_dim], dense
  const void* cache = nullptr;  // one layer: [pages][2 (k, v)][kv_heads][page_size][head_dim]
  PagedRows rows;               // pages that hold no visible slot are not looked at
  int max_row_tokens = 1;       // no row has more tokens
  int tokens = 0;               // that q and o have, all rows'; 0: not known, and prefill is slower
  int heads = 0, kv_heads = 0, head_dim = 0, page_size = 0;
  float scale = 0;  // positive; usually 1 / sqrt(head_dim)
  int window = 0;
  // Thread blocks that share a row's context: 1, or 2 or 8 (Hopper; with more than eight queries of a row on a kv head
  // 2 is as 8); 0 chooses. It changes the speed and no bit.
  int blocks_per_row = 0;
};

// bf16 and f16 on tensor cores where head_dim is 64, 80, 96 or 128, page_size a multiple of 16 (and a block may have
// the shared memory: 8.6 and 8.9 have it for 64 alone): probabilities are rounded to the cache's type for their product
// with v, everything else is f32. Other cases, and all of f32 (never TF32), take a plain kernel whose arithmetic is
// f32.
//
// On Hopper it reads `rows`, and the slots of each row but those of the row's tokens in this step, before the kernels
// ahead of it in the stream have ended: those must write neither.
//
// A token's bits depend on its q and its slots only: not on other rows, on how a prompt is cut into steps, on
// pages_per_row or on blocks_per_row. (Where later slots of the row hold infinities or NaN, they may spread to it.)
//
// Supports (else cudaErrorNotSupported): head_dim a multiple of 8 up to 256; q, o and the cache 16-byte aligned,
// q_stride of whole 16 bytes; compute capability 8.0 and up. o may not overlap the others. Launches on `stream`;
// allocates nothing and does not wait.
cudaError_t PagedAttention(const PagedAttentionArgs& args, cudaStream_t stream);

// The same for rows of many tokens, chunks of prompts: keys are read once for 64 queries of a head, or for more. By the
// faster of the kernels below, which `tokens`, the number of rows and the GPU decide. blocks_per_row is not used.
//
// With either kernel a token's bits again depend on its q and its slots only, but are not those of PagedAttention nor
// those of the other kernel.
cudaError_t PagedPrefill(const PagedAttentionArgs& args, cudaStream_t stream);

// The Hopper kernel. It reads `rows` before the kernels ahead of it in the stream have ended: those must not write what
// it points to. Supports (else cudaErrorNotSupported):
//   bf16; head_dim a multiple of 8 up to 128; page_size a multiple of 8
//   q, o and the cache 16-byte aligned, q_stride a multiple of 8
//   `tokens` known; at most 512 rows
cudaError_t PagedPrefillSm90(const PagedAttentionArgs& args, cudaStream_t stream);

// For compute capability 8.0 and up. bf16 and f16; head_dim, alignments and q_stride as above.
cudaError_t PagedPrefillSm80(const PagedAttentionArgs& args, cudaStream_t stream);

// Rows of one new token, or none.
struct PagedDecodeArgs {
  // What to append, and the queries, `heads` > 0 of them a token, turned where there are angles. q_out is not used.
  RopeAppendArgs append;
  void* o = nullptr;  // [tokens, heads, head_dim], dense
  float scale = 0;    // the rest as in PagedAttentionArgs
  int window = 0;
  int blocks_per_row = 0;
};

// RopeAppend and PagedAttention in one launch, with the same bits, those written to the cache included. No two rows may
// share the page of a new slot.
//
// Supports (else cudaErrorNotSupported) what PagedAttention takes on tensor cores, with q, k, v, cos and sin 16-byte
// aligned and strides of whole 16 bytes. Launches on `stream`; allocates nothing and does not wait.
cudaError_t PagedDecode(const PagedDecodeArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_PAGED_ATTENTION_H_
