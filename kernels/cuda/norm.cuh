// The kernel behind Norm. A warp or a block owns a row and keeps it in registers: device memory is read once.
#ifndef KERNELS_CUDA_NORM_CUH_
#define KERNELS_CUDA_NORM_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/normalize_row.cuh"
#include "kernels/cuda/quantize_row.cuh"
#include "kernels/cuda/row_reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace flashflow::cuda::norm {

inline constexpr int kFewBlocks = 64;

template <int kRowThreads>
inline constexpr int kBlockThreads = kRowThreads < 128 ? 128 : kRowThreads;

// kRowThreads threads own a row; each holds kVectors times 16 bytes of it.
template <class Element, int kRowThreads, int kVectors, bool kRms>
__global__ void __launch_bounds__(kBlockThreads<kRowThreads>) NormKernel(const NormArgs p) {
  constexpr int kElements = kPerVector<Element>;
  __shared__ float scratch[2][32];
  __shared__ uint32_t scratch_most[32];
  const int row = blockIdx.x * (kBlockThreads<kRowThreads> / kRowThreads) + threadIdx.x / kRowThreads;
  const int thread = threadIdx.x % kRowThreads;
  LetNextKernelStart();
  // Few rows wait for each load in turn: these need not wait for the kernel before. Many rows find them in the cache,
  // and would be four times as slow for asking.
  if (gridDim.x <= kFewBlocks) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * kRowThreads + thread) * kElements;
      if (column >= p.columns) break;
      PrefetchL1(p.gamma + column);
      if (!kRms && p.beta != nullptr) PrefetchL1(p.beta + column);
    }
  }
  AwaitPreviousKernel();
  if (row >= p.rows) return;  // whole warps: a row has at least one

  const auto* x = static_cast<const Element*>(p.x) + row * p.ld;
  uint4 packed[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kElements;
    packed[v] = column < p.columns ? LoadStreaming(x + column) : make_uint4(0, 0, 0, 0);
  }
  if (p.residual != nullptr) {
    const auto* residual = static_cast<const Element*>(p.residual) + row * p.ld;
    uint4 added[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * kRowThreads + thread) * kElements;
      added[v] = column < p.columns ? LoadStreaming(residual + column) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      float a[kElements], b[kElements];
      UnpackVector<Element>(packed[v], a);
      UnpackVector<Element>(added[v], b);
#pragma unroll
      for (int i = 0; i < kElements; ++i) a[i] += b[i];
      packed[v] = PackVector<Element>(a);
    }
  }
  if (p.sum != nullptr) {
    auto* sum = static_cast<Element*>(p.sum) + row * p.ld;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * kRowThreads + thread) * kElements;
      if (column < p.columns) Store(sum + column, packed[v]);
    }
  }

  const RowMoments moments =
      MomentsOf<Element, kRowThreads, kVectors>(packed, thread, p.columns, kRms, p.epsilon, scratch);
  // The row's elements `v`, the same bits at each call.
  const auto normalized = [&](int v, int column, float (&h)[kElements]) {
    const float* beta = kRms || p.beta == nullptr ? nullptr : p.beta + column;
    NormalizeVector<Element>(packed[v], moments, p.gamma + column, beta, h);
  };
  if (p.y != nullptr) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * kRowThreads + thread) * kElements;
      if (column >= p.columns) break;
      float h[kElements];
      normalized(v, column, h);
      Store(static_cast<Element*>(p.y) + row * p.ld + column, PackVector<Element>(h));
    }
  }
  if (p.codes == nullptr) return;
  constexpr bool kKeeps = kVectors * kElements <= 32;  // in registers; a longer row is normalized once more
  float kept[kKeeps ? kVectors : 1][kElements];
  uint32_t most = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kElements;
    if (column >= p.columns) break;
    float (&h)[kElements] = kept[kKeeps ? v : 0];
    normalized(v, column, h);
#pragma unroll
    for (int i = 0; i < kElements; ++i) most = max(most, Magnitude(h[i]));
  }
  const RowScale row_scale = ScaleOf(RowMost<kRowThreads>(most, scratch_most), p.clip);
  if (thread == 0) p.scale[row] = row_scale.scale;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kElements;
    if (column >= p.columns) break;
    float (&h)[kElements] = kept[kKeeps ? v : 0];
    if constexpr (!kKeeps) normalized(v, column, h);
#pragma unroll
    for (int i = 0; i < kElements; i += 4) {
      *reinterpret_cast<uint32_t*>(p.codes + row * p.ld_codes + column + i) = PackCodes(h + i, row_scale.factor);
    }
  }
}

template <class Element, int kRowThreads, int kVectors>
cudaError_t Launch(const NormArgs& args, cudaStream_t stream) {
  constexpr int kRows = kBlockThreads<kRowThreads> / kRowThreads;
  const auto kernel =
      args.rms ? NormKernel<Element, kRowThreads, kVectors, true> : NormKernel<Element, kRowThreads, kVectors, false>;
  return LaunchOverlapped(kernel, (args.rows + kRows - 1) / kRows, 1, kBlockThreads<kRowThreads>, 0, stream, args);
}

// Picks the kernel for rows of one element type. One file a type defines it.
template <Dtype kDtype>
cudaError_t LaunchElement(const NormArgs& args, cudaStream_t stream);

template <class Element>
cudaError_t LaunchElementOf(const NormArgs& args, cudaStream_t stream) {
  const int vectors = args.columns / kPerVector<Element>;
  if (vectors <= 256) {
    switch ((vectors + 31) / 32) {
      case 1:
        return Launch<Element, 32, 1>(args, stream);
      case 2:
        return Launch<Element, 32, 2>(args, stream);
      case 3:
        return Launch<Element, 32, 3>(args, stream);
      case 4:
        return Launch<Element, 32, 4>(args, stream);
      case 5:
      case 6:
        return Launch<Element, 32, 6>(args, stream);
      case 7:
        return Launch<Element, 32, 7>(args, stream);
      default:
        return Launch<Element, 32, 8>(args, stream);
    }
  }
  if (vectors <= 128 * 4) return Launch<Element, 128, 4>(args, stream);
  if (vectors <= 128 * 8) return Launch<Element, 128, 8>(args, stream);
  if (vectors <= 512 * 4) return Launch<Element, 512, 4>(args, stream);
  if (sizeof(Element) == 2 || vectors <= 512 * 8) return Launch<Element, 512, 8>(args, stream);
  return Launch<Element, 1024, 8>(args, stream);
}

}  // namespace flashflow::cuda::norm

#endif  // KERNELS_CUDA_NORM_CUH_
