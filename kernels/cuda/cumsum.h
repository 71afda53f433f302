// Running sums along one axis.
#ifndef KERNELS_CUDA_CUMSUM_H_
#define KERNELS_CUDA_CUMSUM_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// x and y are [outer, axis, inner], row-major. Each y is the sum of the x up to it along `axis`, added one by one;
// integers wrap around. A thread has a whole run: for masks and positions, not for long runs.
struct CumsumArgs {
  Dtype dtype = Dtype::kF32;  // kF32, kS32 or kS64 (else cudaErrorNotSupported)
  const void* x = nullptr;
  void* y = nullptr;  // may be x
  int64_t outer = 1, axis = 0, inner = 1;
};

// Launches on `stream`; allocates nothing and does not wait.
cudaError_t Cumsum(const CumsumArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_CUMSUM_H_
