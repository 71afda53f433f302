// The kernel behind GemmPortable for f32: fused multiply-adds, never TF32. A block of 256 threads owns 64 x 64 of d; a
// thread sums 4 x 4 of them over k in ascending order.
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launch.cuh"

namespace flashflow::cuda::gemm_portable {
namespace {

constexpr int kTile = 64;
constexpr int kBlock = 16;  // of k
constexpr int kThreads = 256;
constexpr int kPitch = kTile + 4;

template <bool kGated>
__global__ void __launch_bounds__(kThreads) F32Kernel(const GemmArgs p) {
  constexpr int kParts = kGated ? 2 : 1;
  __shared__ __align__(16) float a_block[kBlock][kPitch];
  __shared__ __align__(16) float w_block[kParts][kBlock][kPitch];
  const int tiles_n = (p.n + kTile - 1) / kTile;
  const int row_d = blockIdx.x / tiles_n * kTile, column_d = blockIdx.x % tiles_n * kTile;
  const int thread_row = threadIdx.x / 16 * 4, thread_column = threadIdx.x % 16 * 4;
  LetNextKernelStart();
  AwaitPreviousKernel();

  float sums[kParts][4][4] = {};
  for (int base = 0; base < p.k; base += kBlock) {
#pragma unroll
    for (int i = 0; i < kTile * kBlock / kThreads; ++i) {
      const int row = (threadIdx.x + i * kThreads) / kBlock, k = threadIdx.x % kBlock;
      const bool inside = base + k < p.k;
      a_block[k][row] =
          inside && row_d + row < p.m ? static_cast<const float*>(p.a)[(row_d + row) * p.lda + base + k] : 0.0f;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int64_t row_w = part * int64_t{p.n} + column_d + row;
        w_block[part][k][row] =
            inside && column_d + row < p.n ? static_cast<const float*>(p.w)[row_w * p.ldw + base + k] : 0.0f;
      }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kBlock; ++k) {
      const float4 a = *reinterpret_cast<const float4*>(&a_block[k][thread_row]);
      const float rows[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const float4 w = *reinterpret_cast<const float4*>(&w_block[part][k][thread_column]);
        const float columns[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[part][i][j] = fmaf(rows[i], columns[j], sums[part][i][j]);
        }
      }
    }
    __syncthreads();
  }

  const float* bias = p.bias;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = row_d + thread_row + i, column = column_d + thread_column + j;
      if (row >= p.m || column >= p.n) continue;
      float value = ActivateF32(p.activation, sums[0][i][j] + (bias == nullptr ? 0.0f : bias[column]));
      if constexpr (kGated) value *= sums[1][i][j] + (bias == nullptr ? 0.0f : bias[p.n + column]);
      if (p.residual != nullptr) value += static_cast<const float*>(p.residual)[row * p.ld_residual + column];
      static_cast<float*>(p.d)[row * p.ldd + column] = value;
    }
  }
}

}  // namespace

template <Dtype kDtype>
cudaError_t LaunchElement(const GemmArgs& args, cudaStream_t stream);

template <>
cudaError_t LaunchElement<Dtype::kF32>(const GemmArgs& args, cudaStream_t stream) {
  const int64_t tiles = int64_t{(args.m + kTile - 1) / kTile} * ((args.n + kTile - 1) / kTile);
  if (tiles > INT32_MAX) return cudaErrorNotSupported;
  return LaunchOverlapped(args.gated ? F32Kernel<true> : F32Kernel<false>, static_cast<int>(tiles), 1, kThreads, 0,
                          stream, args);
}

}  // namespace flashflow::cuda::gemm_portable
