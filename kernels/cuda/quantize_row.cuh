// The arithmetic of quantize.h on values in registers.
#ifndef KERNELS_CUDA_QUANTIZE_ROW_CUH_
#define KERNELS_CUDA_QUANTIZE_ROW_CUH_

#include <cuda_runtime.h>

#include <cstdint>

namespace flashflow::cuda {

// |x| as bits: they rise with |x|, and those of what is not finite lie above all others.
__device__ __forceinline__ uint32_t Magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

struct RowScale {
  float factor;  // a code is the rounded product with this
  float scale;
};

// `most` is the row's greatest magnitude.
__device__ __forceinline__ RowScale ScaleOf(uint32_t most, float clip) {
  if (most >= 0x7f800000u) return {0.0f, __uint_as_float(0x7fc00000u)};
  const float a = fminf(__uint_as_float(most), clip);
  if (a < 0x1p-100f) return {0.0f, 0.0f};
  return {__fdiv_rn(127.0f, a), __fdiv_rn(a, 127.0f)};
}

// A NaN, as a factor of zero makes of infinity, has the code 0.
__device__ __forceinline__ uint32_t Code(float x, float factor) {
  const int code = __float2int_rn(__fmul_rn(x, factor));
  return static_cast<uint32_t>(max(-127, min(127, code))) & 0xff;
}

__device__ __forceinline__ uint32_t PackCodes(const float* x, float factor) {
  return Code(x[0], factor) | Code(x[1], factor) << 8 | Code(x[2], factor) << 16 | Code(x[3], factor) << 24;
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_QUANTIZE_ROW_CUH_
