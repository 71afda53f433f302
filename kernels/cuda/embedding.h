// Rows of an embedding table by id.
#ifndef KERNELS_CUDA_EMBEDDING_H_
#define KERNELS_CUDA_EMBEDDING_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// out[t] = table[ids[t]], cast to out_dtype (rounded to nearest, ties to even); of codes, each times its row's scale,
// rounded to f32, and then cast.
struct EmbeddingArgs {
  Dtype table_dtype = Dtype::kBf16;
  Dtype out_dtype = Dtype::kBf16;
  const void* table = nullptr;  // [table_rows, channels]
  const void* ids = nullptr;    // [tokens], of int32_t, or of int64_t if wide_ids
  bool wide_ids = false;
  void* out = nullptr;           // [tokens, channels]; may not overlap the others
  const float* scale = nullptr;  // [table_rows], of a table of kS8; null for others
  int64_t table_rows = 0, tokens = 0, channels = 0;
};

// An id outside 0 ... table_rows - 1 reads nothing and gives NaN.
//
// Supports (else cudaErrorNotSupported): f32, f16 and bf16, each to each, and kS8 to each of them; pointers aligned to
// their elements. It moves eight channels a thread where channels is a multiple of 8 and table and out are 16-byte
// aligned, else one. Launches on `stream`; allocates nothing and does not wait. tokens == 0 is fine: nothing is
// launched.
cudaError_t Embedding(const EmbeddingArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_EMBEDDING_H_
