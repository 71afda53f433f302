// bf16, f16 and f32 under one interface: pairs in a 32-bit word, and 16 bytes at a time.
#ifndef KERNELS_CUDA_ELEMENT_CUH_
#define KERNELS_CUDA_ELEMENT_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/dtype.h"

namespace flashflow::cuda {

__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float ToFloat(__half x) { return __half2float(x); }
__device__ __forceinline__ float ToFloat(float x) { return x; }

// Rounded to nearest, ties to even.
template <class E>
__device__ __forceinline__ E FromFloat(float x);
template <>
__device__ __forceinline__ __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}
template <>
__device__ __forceinline__ __half FromFloat<__half>(float x) {
  return __float2half(x);
}
template <>
__device__ __forceinline__ float FromFloat<float>(float x) {
  return x;
}

// Two elements of 16 bits in a word, the first in the lower half.
template <class E>
__device__ __forceinline__ float2 UnpackPair(uint32_t pair) {
  if constexpr (std::is_same_v<E, __nv_bfloat16>) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
  } else {
    static_assert(std::is_same_v<E, __half>);
    return __half22float2(__halves2half2(__ushort_as_half(static_cast<unsigned short>(pair)),
                                         __ushort_as_half(static_cast<unsigned short>(pair >> 16))));
  }
}
template <class E>
__device__ __forceinline__ uint32_t PackPair(float first, float second) {
  uint32_t pair;
  if constexpr (std::is_same_v<E, __nv_bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  } else {
    static_assert(std::is_same_v<E, __half>);
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  }
  return pair;
}

// How many elements 16 bytes hold.
template <class E>
inline constexpr int kPerVector = 16 / static_cast<int>(sizeof(E));

template <class E>
__device__ __forceinline__ void UnpackVector(const uint4& packed, float (&x)[kPerVector<E>]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(E) == 4) {
      x[i] = __uint_as_float(words[i]);
    } else {
      const float2 pair = UnpackPair<E>(words[i]);
      x[2 * i] = pair.x;
      x[2 * i + 1] = pair.y;
    }
  }
}
template <class E>
__device__ __forceinline__ uint4 PackVector(const float (&x)[kPerVector<E>]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(E) == 4) {
      words[i] = __float_as_uint(x[i]);
    } else {
      words[i] = PackPair<E>(x[2 * i], x[2 * i + 1]);
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

template <class E>
inline constexpr Dtype kDtypeOf = Dtype::kF32;
template <>
inline constexpr Dtype kDtypeOf<__half> = Dtype::kF16;
template <>
inline constexpr Dtype kDtypeOf<__nv_bfloat16> = Dtype::kBf16;
template <>
inline constexpr Dtype kDtypeOf<int8_t> = Dtype::kS8;

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_ELEMENT_CUH_
