// A few neighboring elements as f32: 16 bytes at a time, or one element.
#ifndef KERNELS_CUDA_CHUNK_CUH_
#define KERNELS_CUDA_CHUNK_CUH_

#include <cuda_runtime.h>

#include "kernels/cuda/element.cuh"

namespace flashflow::cuda {

// kCount: 1, or whole 16 bytes at a 16-byte aligned address.
template <class E, int kCount>
__device__ __forceinline__ void LoadChunk(const E* from, float (&x)[kCount]) {
  if constexpr (kCount == 1) {
    x[0] = ToFloat(*from);
  } else {
    static_assert(kCount % kPerVector<E> == 0);
#pragma unroll
    for (int i = 0; i < kCount; i += kPerVector<E>) {
      float part[kPerVector<E>];
      UnpackVector<E>(*reinterpret_cast<const uint4*>(from + i), part);
#pragma unroll
      for (int e = 0; e < kPerVector<E>; ++e) x[i + e] = part[e];
    }
  }
}

template <class E, int kCount>
__device__ __forceinline__ void SaveChunk(E* to, const float (&x)[kCount]) {
  if constexpr (kCount == 1) {
    *to = FromFloat<E>(x[0]);
  } else {
    static_assert(kCount % kPerVector<E> == 0);
#pragma unroll
    for (int i = 0; i < kCount; i += kPerVector<E>) {
      float part[kPerVector<E>];
#pragma unroll
      for (int e = 0; e < kPerVector<E>; ++e) part[e] = x[i + e];
      *reinterpret_cast<uint4*>(to + i) = PackVector<E>(part);
    }
  }
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_CHUNK_CUH_
