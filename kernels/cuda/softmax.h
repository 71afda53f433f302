// Softmax over rows.
#ifndef KERNELS_CUDA_SOFTMAX_H_
#define KERNELS_CUDA_SOFTMAX_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// y[i, j] = exp(scale * x[i, j]) / sum_j exp(scale * x[i, j]), in f32, rounded once. x and y are of `dtype`.
struct SoftmaxArgs {
  const void* x = nullptr;  // [rows, columns], rows ldx elements apart
  void* y = nullptr;        // [rows, columns], rows ldy apart; may be x where ldx == ldy
  int rows = 0, columns = 0;
  int64_t ldx = 0, ldy = 0;
  float scale = 1;             // positive
  Dtype dtype = Dtype::kBf16;  // kBf16, kF16 or kF32 (else cudaErrorNotSupported)
};

// A row's bits depend on its elements and on its address modulo 16, not on the other rows. Any alignment and any number
// of columns; rows of at most 16 KB whose addresses are all multiples of 16 bytes are read once, longer ones twice (the
// second time from L2). A row with a NaN, with +inf or with -inf alone gives NaN throughout. Launches on `stream`;
// allocates nothing and does not wait.
cudaError_t Softmax(const SoftmaxArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_SOFTMAX_H_
