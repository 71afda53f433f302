// Tensors made from nothing: one value repeated, and indices.
#ifndef KERNELS_CUDA_FILL_H_
#define KERNELS_CUDA_FILL_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// y[i] = the low element_bytes of `value`: 1, 2, 4 or 8.
struct FillArgs {
  uint64_t value = 0;
  int element_bytes = 4;
  void* y = nullptr;  // [count]
  int64_t count = 0;
};

// Launches on `stream`; allocates nothing and does not wait.
cudaError_t Fill(const FillArgs& args, cudaStream_t stream);

// y[o, a, i] = a for y[outer, axis, inner], of kF32, kS32 or kS64 (else cudaErrorNotSupported).
struct IotaArgs {
  Dtype dtype = Dtype::kS64;
  void* y = nullptr;
  int64_t outer = 1, axis = 0, inner = 1;
};

// As Fill.
cudaError_t Iota(const IotaArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_FILL_H_
