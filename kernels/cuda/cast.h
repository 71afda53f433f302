// Conversion between element types.
#ifndef KERNELS_CUDA_CAST_H_
#define KERNELS_CUDA_CAST_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

// y[i] = x[i] as `to`, any type to any: to a narrower float, to nearest even; float to integer, toward zero, saturating
// at the type's ends, NaN to 0; integer to narrower integer, modulo 2^bits; anything to bool, x != 0.
struct CastArgs {
  Dtype from = Dtype::kF32, to = Dtype::kF32;
  const void* x = nullptr;  // [count]
  void* y = nullptr;        // [count]; may be x where the types have one size
  int64_t count = 0;
};

// Launches on `stream`; allocates nothing and does not wait.
cudaError_t Cast(const CastArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_CAST_H_
