// Sums and maxima over the threads that share a row.
#ifndef KERNELS_CUDA_ROW_REDUCE_CUH_
#define KERNELS_CUDA_ROW_REDUCE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace flashflow::cuda {

struct Sum {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
  static constexpr float kIdentity = 0;
};
struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
  static constexpr float kIdentity = -INFINITY;
};

// The reduction of `value` over kThreads threads: a warp, or a whole block of up to 1,024. Every thread gets it. The
// order is fixed. `scratch` is shared memory of 32 floats, not in use by an earlier call that a thread may still be in.
template <int kThreads, class Operation>
__device__ __forceinline__ float RowReduce(float value, float* scratch, Operation operation) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = operation(value, __shfl_xor_sync(~0u, value, offset));
  if constexpr (kThreads > 32) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    value = lane < kThreads / 32 ? scratch[lane] : Operation::kIdentity;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value = operation(value, __shfl_xor_sync(~0u, value, offset));
  }
  return value;
}

// The same for the greatest of unsigned integers.
template <int kThreads>
__device__ __forceinline__ uint32_t RowMost(uint32_t value, uint32_t* scratch) {
  value = __reduce_max_sync(~0u, value);
  if constexpr (kThreads > 32) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    value = __reduce_max_sync(~0u, lane < kThreads / 32 ? scratch[lane] : 0);
  }
  return value;
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_ROW_REDUCE_CUH_
