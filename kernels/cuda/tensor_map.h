// Tensor maps: what the copy engine of sm_90 needs to know of a tensor in device memory. Host code.
#ifndef KERNELS_CUDA_TENSOR_MAP_H_
#define KERNELS_CUDA_TENSOR_MAP_H_

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

struct TensorMapDesc {
  const void* data = nullptr;  // 16-byte aligned
  Dtype dtype = Dtype::kBf16;
  int rank = 0;              // 2 to 4
  uint64_t extents[4] = {};  // innermost first; elements
  int64_t strides[4] = {};   // elements; strides[0] is 1, the others are multiples of 16 bytes
  uint32_t box[4] = {};      // what one copy moves; box[0] * element size is the swizzle's width
  int swizzle_bytes = 128;   // 64 or 128
};

// Encodes `desc` for the current device's driver. Reads outside the extents give zero, writes there are dropped.
//
// Returns cudaErrorInvalidValue for a tensor that the copy engine cannot address (alignment, strides, extents), and
// cudaErrorNotSupported where the driver has no tensor maps.
cudaError_t EncodeTensorMap(const TensorMapDesc& desc, CUtensorMap* map);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_TENSOR_MAP_H_
