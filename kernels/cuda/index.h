// Lookups by several index tensors at once.
#ifndef KERNELS_CUDA_INDEX_H_
#define KERNELS_CUDA_INDEX_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/strided.h"

namespace flashflow::cuda {

// An index into one axis of x: negative ones count from the end.
struct AxisIndex {
  const void* data = nullptr;  // of int32_t, or of int64_t if wide
  bool wide = false;
  Strides strides = {};  // under the lookup's shape
  int64_t size = 0;      // of the axis
};

// y[i] = x[indices[0][i], indices[1][i], ...] for every index i of `shape`, y dense: runs of run_bytes bytes, which are
// what x has for one index into each of its first axes. Where an index is outside -size ... size - 1 nothing is read
// and the run's bytes are all `missing`: 0xff makes floats NaN.
struct IndexArgs {
  const void* x = nullptr;
  AxisIndex indices[kMaxDims] = {};
  int axes = 0;      // of x that are indexed
  Shape shape = {};  // of the lookup
  int64_t run_bytes = 0;
  uint8_t missing = 0;
  void* y = nullptr;  // may not overlap the others
};

// Launches on `stream`; allocates nothing and does not wait.
cudaError_t Index(const IndexArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_INDEX_H_
