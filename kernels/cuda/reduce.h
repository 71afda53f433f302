// Sums, means and maxima over axes of a tensor.
#ifndef KERNELS_CUDA_REDUCE_H_
#define KERNELS_CUDA_REDUCE_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/dtype.h"
#include "kernels/cuda/strided.h"

namespace flashflow::cuda {

enum class ReduceOp { kSum, kMean, kMax };

// One y for each index of the kept axes, dense row-major, over all elements along the reduced axes; in f32, rounded
// once. kMax wants at least one element and gives NaN if any is NaN; a mean of nothing is NaN. The order of a sum
// depends on the number of its elements alone.
struct ReduceArgs {
  ReduceOp op = ReduceOp::kSum;
  Dtype dtype = Dtype::kF32;  // of x and y: kF32, kF16 or kBf16 (else cudaErrorNotSupported)
  const void* x = nullptr;
  void* y = nullptr;  // may not overlap x
  Shape kept = {}, reduced = {};
  Strides kept_strides = {}, reduced_strides = {};  // of x
};

// Launches on `stream`; allocates nothing and does not wait.
cudaError_t Reduce(const ReduceArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_REDUCE_H_
