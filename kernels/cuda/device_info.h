// What the running machine's GPU is: the facts that plans and figures are keyed by.
#ifndef KERNELS_CUDA_DEVICE_INFO_H_
#define KERNELS_CUDA_DEVICE_INFO_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace flashflow::cuda {

struct DeviceInfo {
  char name[256];                  // as the driver gives it, zero-terminated
  int compute_capability;          // 10 * major + minor: 90 for sm_90
  int binary_capability;           // the same, of the code in this binary that the device runs
  int sm_count;                    // streaming multiprocessors
  int sm_clock_khz;                // the highest
  int memory_clock_khz;            // the highest
  int memory_bus_bits;             // width of the bus to device memory
  int64_t memory_bytes;            // device memory
  int64_t l2_bytes;                // L2 cache
  int64_t shared_bytes_per_block;  // the most a block can opt in to
  int driver_version;              // 1000 * major + 10 * minor of the CUDA that the driver supports
  int runtime_version;             // the same, of the CUDA runtime in this binary
};

// Fills `info` with the facts of device `device` (0-based). Makes `device` the
// calling thread's current device and initializes its context.
//
// Returns cudaErrorInvalidValue where info is null, cudaErrorNoDevice or
// cudaErrorInsufficientDriver where CUDA is not to be had, cudaErrorInvalidDevice
// where there is no such device, and cudaErrorNoKernelImageForDevice where this
// binary holds no code for it. `info` is all zero after an error.
cudaError_t GetDeviceInfo(int device, DeviceInfo* info);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_DEVICE_INFO_H_
