#include <cstring>

#include "kernels/cuda/device_info.h"

namespace flashflow::cuda {
namespace {

// Stands for every kernel of this binary: all are compiled for the same architectures.
__global__ void ProbeKernel() {}

cudaError_t Fill(int device, DeviceInfo* info) {
  int count = 0;
  if (cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) return error;
  if (device < 0 || device >= count) return cudaErrorInvalidDevice;

  cudaDeviceProp properties;
  if (cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess) return error;
  static_assert(sizeof(properties.name) <= sizeof(info->name));
  std::memcpy(info->name, properties.name, sizeof(properties.name));
  info->name[sizeof(info->name) - 1] = '\0';
  info->compute_capability = 10 * properties.major + properties.minor;
  info->sm_count = properties.multiProcessorCount;
  info->memory_bus_bits = properties.memoryBusWidth;
  info->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info->l2_bytes = properties.l2CacheSize;
  info->shared_bytes_per_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin);

  const struct {
    cudaDeviceAttr attribute;
    int* value;
  } attributes[] = {
      {cudaDevAttrClockRate, &info->sm_clock_khz},
      {cudaDevAttrMemoryClockRate, &info->memory_clock_khz},
  };
  for (const auto& [attribute, value] : attributes) {
    if (cudaError_t error = cudaDeviceGetAttribute(value, attribute, device); error != cudaSuccess) return error;
  }

  if (cudaError_t error = cudaDriverGetVersion(&info->driver_version); error != cudaSuccess) return error;
  if (cudaError_t error = cudaRuntimeGetVersion(&info->runtime_version); error != cudaSuccess) return error;

  if (cudaError_t error = cudaSetDevice(device); error != cudaSuccess) return error;
  cudaFuncAttributes kernel;
  if (cudaError_t error = cudaFuncGetAttributes(&kernel, ProbeKernel); error != cudaSuccess) return error;
  info->binary_capability = kernel.binaryVersion;
  return cudaSuccess;
}

}  // namespace

cudaError_t GetDeviceInfo(int device, DeviceInfo* info) {
  if (info == nullptr) return cudaErrorInvalidValue;
  std::memset(info, 0, sizeof(*info));
  const cudaError_t error = Fill(device, info);
  if (error != cudaSuccess) std::memset(info, 0, sizeof(*info));
  return error;
}

}  // namespace flashflow::cuda
