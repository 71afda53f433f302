// Batched products of matrices that both are computed; gemm.h is for layers.
#ifndef KERNELS_CUDA_MATMUL_H_
#define KERNELS_CUDA_MATMUL_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"
#include "kernels/cuda/strided.h"

namespace flashflow::cuda {

// y[i] = a[i] b[i] (+ bias) for every index i of `batch`: a[i] is row-major [m, k], y[i] [m, n]. By f32 fused
// multiply-adds in ascending k from zero, never TF32, then the bias, rounded once: a row's bits do not depend on m, n
// or the batch.
struct MatMulArgs {
  Dtype dtype = Dtype::kF32;  // of a, b and y: kF32, kF16 or kBf16 (else cudaErrorNotSupported)
  const void* a = nullptr;
  const void* b = nullptr;
  const float* bias = nullptr;  // [n], or null
  void* y = nullptr;            // dense [batch, m, n]; may not overlap the others
  Shape batch = {};
  Strides a_strides = {}, b_strides = {};  // from matrix to matrix, in elements
  int m = 0, n = 0, k = 0;
  int64_t b_k_stride = 0, b_n_stride = 0;  // b's steps: (n, 1) is row-major, (1, k) transposed
};

// Launches on `stream`; allocates nothing and does not wait.
cudaError_t MatMul(const MatMulArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_MATMUL_H_
