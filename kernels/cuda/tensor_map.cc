#include "kernels/cuda/tensor_map.h"

namespace flashflow::cuda {
namespace {

using EncodeFunction = decltype(&cuTensorMapEncodeTiled);

// The driver is found through the runtime, so that nothing links against libcuda.
EncodeFunction FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result) !=
          cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<EncodeFunction>(function);
}

CUtensorMapDataType DriverType(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    case Dtype::kF16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case Dtype::kBf16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case Dtype::kS8:
    default:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;  // copied as they are: the sign is of no matter
  }
}

}  // namespace

cudaError_t EncodeTensorMap(const TensorMapDesc& desc, CUtensorMap* map) {
  static const EncodeFunction encode = FindEncode();
  if (encode == nullptr) return cudaErrorNotSupported;

  const uint64_t element_bytes = ElementBytes(desc.dtype);
  uint64_t stride_bytes[3];
  for (int i = 1; i < desc.rank; ++i) {
    // A dimension of one element is never stepped along, whatever stride the caller has for it.
    const uint64_t row_bytes = (desc.extents[0] * element_bytes + 15) / 16 * 16;
    const uint64_t stride = desc.extents[i] == 1 ? row_bytes : static_cast<uint64_t>(desc.strides[i]) * element_bytes;
    if (stride % 16 != 0) return cudaErrorInvalidValue;
    stride_bytes[i - 1] = stride;
  }
  const cuuint32_t element_strides[4] = {1, 1, 1, 1};
  const CUresult result =
      encode(map, DriverType(desc.dtype), static_cast<cuuint32_t>(desc.rank), const_cast<void*>(desc.data),
             desc.extents, stride_bytes, desc.box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
             desc.swizzle_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace flashflow::cuda
