// Eight bf16 elements at a time: 16 bytes, the widest load and store of a thread.
#ifndef KERNELS_CUDA_VECTOR_CUH_
#define KERNELS_CUDA_VECTOR_CUH_

#include <cuda_bf16.h>

#include <cstdint>

namespace flashflow::cuda {

inline constexpr int kVector = 8;

__device__ __forceinline__ float LowBf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float HighBf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ void Unpack(const uint4& packed, float (&x)[kVector]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = LowBf16(words[i]);
    x[2 * i + 1] = HighBf16(words[i]);
  }
}

__device__ __forceinline__ uint4 Pack(const float (&x)[kVector]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[i]) : "f"(x[2 * i + 1]), "f"(x[2 * i]));
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// Loads and stores of data that is used once: they leave the caches to others.
__device__ __forceinline__ uint4 LoadStreaming(const void* pointer) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer));
  return v;
}
__device__ __forceinline__ void Store(void* pointer, const uint4& v) { *static_cast<uint4*>(pointer) = v; }

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_VECTOR_CUH_
