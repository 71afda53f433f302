// Moving elements: transpose, slice, expand and concat are all strided copies.
#ifndef KERNELS_CUDA_COPY_H_
#define KERNELS_CUDA_COPY_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/strided.h"

namespace flashflow::cuda {

// to[sum(i * to_strides)] = from[sum(i * from_strides)] for all indices i below `shape`.
struct CopyArgs {
  const void* from = nullptr;
  void* to = nullptr;     // may not overlap `from`
  int element_bytes = 4;  // 1, 2, 4 or 8
  Shape shape = {};
  Strides from_strides = {}, to_strides = {};
};

// It moves 16 bytes at a time where addresses and steps allow. Launches on `stream`; allocates nothing and does not
// wait.
cudaError_t StridedCopy(const CopyArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_COPY_H_
