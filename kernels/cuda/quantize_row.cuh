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
__device__ __forceinline__ int Code(float x, float factor) {
  return max(-127, min(127, __float2int_rn(__fmul_rn(x, factor))));
}

// Two codes in the lower half, `above` in the upper one; above 127 they saturate.
__device__ __forceinline__ uint32_t PackTwo(int first, int second, uint32_t above) {
  uint32_t packed;
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(packed) : "r"(second), "r"(first), "r"(above));
  return packed;
}

// The same of four values, the first in the lowest byte.
__device__ __forceinline__ uint32_t PackCodes(const float* x, float factor) {
  int codes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) codes[i] = max(-127, __float2int_rn(__fmul_rn(x[i], factor)));
  return PackTwo(codes[0], codes[1], PackTwo(codes[2], codes[3], 0));
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_QUANTIZE_ROW_CUH_
