// Softmax down the columns of matrices; softmax.h is the one for rows.
#ifndef KERNELS_CUDA_SOFTMAX_COLUMNS_H_
#define KERNELS_CUDA_SOFTMAX_COLUMNS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// x and y are [outer, axis, inner], row-major; the sum over `axis` of y is 1, in f32 and rounded once. A column with a
// NaN, with +inf or with -inf alone gives NaN throughout. A thread has a column: made for an `inner` of many.
struct SoftmaxColumnsArgs {
  Dtype dtype = Dtype::kF32;  // of x and y: kF32, kF16 or kBf16 (else cudaErrorNotSupported)
  const void* x = nullptr;
  void* y = nullptr;  // may be x
  int64_t outer = 1, axis = 0, inner = 1;
};

// Launches on `stream`; allocates nothing and does not wait.
cudaError_t SoftmaxColumns(const SoftmaxColumnsArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_SOFTMAX_COLUMNS_H_
