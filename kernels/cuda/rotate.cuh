// A step of rotary position embedding: a channel and the one half a head away, turned by an angle. In f32, with one
// rounding of its own, so that every kernel that turns heads has the same bits.
#ifndef KERNELS_CUDA_ROTATE_CUH_
#define KERNELS_CUDA_ROTATE_CUH_

#include <cuda_runtime.h>

namespace flashflow::cuda {

// Channel x of the first half; `high` is its partner in the second.
__device__ __forceinline__ float RotateLow(float x, float high, float cos, float sin) {
  return fmaf(-high, sin, x * cos);
}

// Channel x of the second half; `low` is its partner in the first.
__device__ __forceinline__ float RotateHigh(float x, float low, float cos, float sin) {
  return fmaf(low, sin, x * cos);
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_ROTATE_CUH_
