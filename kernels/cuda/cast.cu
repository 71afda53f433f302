// One kernel for all pairs of types: it branches on them, all threads alike.
#include <climits>
#include <cstdint>

#include "kernels/cuda/cast.h"
#include "kernels/cuda/each.cuh"
#include "kernels/cuda/element.cuh"

namespace flashflow::cuda {
namespace {

// Any element, exactly.
struct Number {
  bool is_float;
  float f;
  int64_t i;
};

__device__ Number Load(Dtype dtype, const void* x, int64_t at) {
  switch (dtype) {
    case Dtype::kF32:
      return {true, static_cast<const float*>(x)[at], 0};
    case Dtype::kF16:
      return {true, ToFloat(static_cast<const __half*>(x)[at]), 0};
    case Dtype::kBf16:
      return {true, ToFloat(static_cast<const __nv_bfloat16*>(x)[at]), 0};
    case Dtype::kS8:
      return {false, 0, static_cast<const int8_t*>(x)[at]};
    case Dtype::kS32:
      return {false, 0, static_cast<const int32_t*>(x)[at]};
    case Dtype::kS64:
      return {false, 0, static_cast<const int64_t*>(x)[at]};
    case Dtype::kBool:
      return {false, 0, static_cast<const uint8_t*>(x)[at] != 0};
  }
  return {};
}

// `lowest` is a power of two, so exact as a float, and so is its opposite, which is one above the highest.
__device__ int64_t ToInteger(const Number& number, int64_t lowest) {
  if (!number.is_float) return number.i;
  const float end = -static_cast<float>(lowest);
  if (isnan(number.f)) return 0;
  if (number.f >= end) return -(lowest + 1);
  if (number.f < -end) return lowest;
  return static_cast<int64_t>(number.f);
}

__device__ void Save(Dtype dtype, const Number& number, void* y, int64_t at) {
  switch (dtype) {
    case Dtype::kF32:
      static_cast<float*>(y)[at] = number.is_float ? number.f : __ll2float_rn(number.i);
      break;
    case Dtype::kF16:
      static_cast<__half*>(y)[at] = number.is_float ? __float2half(number.f) : __ll2half_rn(number.i);
      break;
    case Dtype::kBf16:
      static_cast<__nv_bfloat16*>(y)[at] = number.is_float ? __float2bfloat16(number.f) : __ll2bfloat16_rn(number.i);
      break;
    case Dtype::kS8:
      static_cast<int8_t*>(y)[at] = static_cast<int8_t>(ToInteger(number, INT8_MIN));
      break;
    case Dtype::kS32:
      static_cast<int32_t*>(y)[at] = static_cast<int32_t>(ToInteger(number, INT32_MIN));
      break;
    case Dtype::kS64:
      static_cast<int64_t*>(y)[at] = ToInteger(number, INT64_MIN);
      break;
    case Dtype::kBool:
      static_cast<uint8_t*>(y)[at] = number.is_float ? number.f != 0 : number.i != 0;
      break;
  }
}

__global__ void __launch_bounds__(kEachThreads) CastKernel(const CastArgs args) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  if (i < args.count) Save(args.to, Load(args.from, args.x, i), args.y, i);
}

}  // namespace

cudaError_t Cast(const CastArgs& args, cudaStream_t stream) {
  if (args.count < 0 || (args.count > 0 && (args.x == nullptr || args.y == nullptr))) return cudaErrorInvalidValue;
  return LaunchEach(CastKernel, args.count, stream, args);
}

}  // namespace flashflow::cuda
