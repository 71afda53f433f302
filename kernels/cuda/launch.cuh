// Launches that may overlap the end of the kernel before them in the stream (programmatic dependent launch).
#ifndef KERNELS_CUDA_LAUNCH_CUH_
#define KERNELS_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstddef>

namespace flashflow::cuda {

// Lets the next kernel of the stream start as this one's blocks leave their multiprocessors, if that was launched by
// LaunchOverlapped. It still waits for this kernel's end before it touches memory.
__device__ __forceinline__ void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the kernels before this one have ended and their writes are visible. Every thread that reads or writes
// device memory calls it first; what does not depend on memory (setting up barriers, fetching tensor maps) comes before
// it.
__device__ __forceinline__ void AwaitPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Launches `kernel`, which must call AwaitPreviousKernel, with `shared_bytes` of dynamic shared memory, in clusters of
// `cluster` blocks.
template <class... Parameters, class... Arguments>
cudaError_t LaunchOverlapped(void (*kernel)(Parameters...), int blocks, int cluster, int threads, size_t shared_bytes,
                             cudaStream_t stream, const Arguments&... arguments) {
  if (shared_bytes > 48 * 1024) {
    if (cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes))) {
      return error;
    }
  }
  // Older GPUs have neither overlapped launches nor clusters.
  int device = 0, major = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device)) return error;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = major < 9 ? 0 : cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_LAUNCH_CUH_
