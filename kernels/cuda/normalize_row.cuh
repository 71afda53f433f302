// LayerNorm and RMSNorm of a row that a warp or a block keeps in registers: the order of their sums, in one place, so
// that every kernel that normalizes gets the same bits.
#ifndef KERNELS_CUDA_NORMALIZE_ROW_CUH_
#define KERNELS_CUDA_NORMALIZE_ROW_CUH_

#include <cuda_runtime.h>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/row_reduce.cuh"

namespace flashflow::cuda {

struct RowMoments {
  float mean = 0;   // 0 for RMSNorm
  float scale = 0;  // 1 / sqrt(mean square about `mean` + epsilon)
};

// Of a row whose vector `v * kRowThreads + thread` of 16 bytes lies in packed[v], zeros past `columns`. Bits depend on
// kRowThreads, not on kVectors. `scratch`: two of RowReduce's.
template <class Element, int kRowThreads, int kVectors>
__device__ __forceinline__ RowMoments MomentsOf(const uint4 (&packed)[kVectors], int thread, int columns, bool rms,
                                                float epsilon, float (*scratch)[32]) {
  constexpr int kElements = kPerVector<Element>;
  const float count = static_cast<float>(columns);
  RowMoments moments;
  if (!rms) {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      float h[kElements];
      UnpackVector<Element>(packed[v], h);
#pragma unroll
      for (int i = 0; i < kElements; ++i) sum += h[i];
    }
    moments.mean = RowReduce<kRowThreads>(sum, scratch[0], Sum()) / count;
  }
  float squares = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if ((v * kRowThreads + thread) * kElements >= columns) break;
    float h[kElements];
    UnpackVector<Element>(packed[v], h);
#pragma unroll
    for (int i = 0; i < kElements; ++i) squares += (h[i] - moments.mean) * (h[i] - moments.mean);
  }
  moments.scale = rsqrtf(RowReduce<kRowThreads>(squares, scratch[1], Sum()) / count + epsilon);
  return moments;
}

// A vector's worth of f32 numbers, 16 bytes at a time.
template <int kElements>
__device__ __forceinline__ void LoadF32(const float* from, float (&to)[kElements]) {
#pragma unroll
  for (int i = 0; i < kElements; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    to[i] = four.x;
    to[i + 1] = four.y;
    to[i + 2] = four.z;
    to[i + 3] = four.w;
  }
}

// A vector of the row, normalized. gamma, beta: its first column's; beta may be null.
template <class Element>
__device__ __forceinline__ void NormalizeVector(const uint4& packed, const RowMoments& moments, const float* gamma,
                                                const float* beta, float (&h)[kPerVector<Element>]) {
  constexpr int kElements = kPerVector<Element>;
  float weight[kElements], bias[kElements] = {};
  UnpackVector<Element>(packed, h);
  LoadF32(gamma, weight);
  if (beta != nullptr) LoadF32(beta, bias);
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    h[i] = __fmaf_rn(__fmul_rn(h[i] - moments.mean, moments.scale), weight[i], bias[i]);
  }
}

__device__ __forceinline__ void PrefetchL1(const void* address) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(address));
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_NORMALIZE_ROW_CUH_
