// Launches a thread an element.
#ifndef KERNELS_CUDA_EACH_CUH_
#define KERNELS_CUDA_EACH_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/launch.cuh"

namespace flashflow::cuda {

inline constexpr int kEachThreads = 256;

__device__ __forceinline__ int64_t ThisElement() { return blockIdx.x * int64_t{kEachThreads} + threadIdx.x; }

// Launches `kernel` with at least `count` threads, which take the elements ThisElement() < count. Launches nothing for
// a count of 0; cudaErrorNotSupported if they are too many for a grid.
template <class... Parameters, class... Arguments>
cudaError_t LaunchEach(void (*kernel)(Parameters...), int64_t count, cudaStream_t stream,
                       const Arguments&... arguments) {
  if (count == 0) return cudaSuccess;
  const int64_t blocks = (count - 1) / kEachThreads + 1;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  return LaunchOverlapped(kernel, static_cast<int>(blocks), 1, kEachThreads, 0, stream, arguments...);
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_EACH_CUH_
