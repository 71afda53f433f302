// The kernel behind GemmSkinny. See gemm.h for what it computes.
//
// A warp multiplies all rows of `a` with 8 rows of `w` over some blocks of 32 columns. Within a block the columns are
// permuted, alike for both operands, so that each thread's part of two mma fragments is 16 contiguous bytes of one row. For
// small n the warps of a block share 8 rows of `w` and split k between them; their sums meet in shared memory.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kBlockK = 32;    // columns a step
constexpr int kTileRows = 8;   // of w a warp
constexpr int kLoads = 6;      // of 16 bytes of w that a thread has in flight, from before the previous kernel's end on

// d += a * b, a: 16 x 16 (rows of the input), b: 16 x 8 (rows of the weight, transposed).
__device__ __forceinline__ void Mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kGeluTanh:
      return GeluTanh(x);
    case Activation::kGeluErf:
      return GeluErf(x);
    case Activation::kSilu:
      return Silu(x);
    default:
      return x;
  }
}

// kTilesM: tiles of 16 rows of `a`. kSplit: warps that share 8 rows of w; 1 or kWarps.
template <int kTilesM, int kSplit, bool kGated>
__global__ void __launch_bounds__(kWarps * 32, kTilesM == 1 ? 3 : 2) SkinnyKernel(const GemmArgs p) {
  constexpr int kParts = kGated ? 2 : 1;
  constexpr int kAhead = kLoads / kParts;
  __shared__ float sums[kSplit == 1 ? 1 : kWarps][kParts][kTilesM * 16][kTileRows];

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = lane / 4, quad = lane % 4;
  const int tile = kSplit == 1 ? blockIdx.x * kWarps + warp : blockIdx.x;
  const int row_w = tile * kTileRows + group;
  const int steps = (p.k + kBlockK - 1) / kBlockK;
  const int first_step = kSplit == 1 ? 0 : warp;

  const auto load_w = [&](int part, int step) {
    const int column = step * kBlockK + quad * kVector;
    if (row_w >= p.n || column >= p.k) return make_uint4(0, 0, 0, 0);
    const auto* w = static_cast<const __nv_bfloat16*>(p.w) + (part * int64_t{p.n} + row_w) * p.ldw + column;
    return LoadStreaming(w);
  };
  const auto load_a = [&](int row, int step) {
    const int column = step * kBlockK + quad * kVector;
    if (row >= p.m || column >= p.k) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(p.a) + row * p.lda + column);
  };

  LetNextKernelStart();
  uint4 ahead[kParts][kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) ahead[part][i] = load_w(part, first_step + i * kSplit);
  }
  AwaitPreviousKernel();

  float d[kParts][kTilesM][4] = {};
  for (int base = first_step; base < steps; base += kAhead * kSplit) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int step = base + i * kSplit;
      if (step >= steps) break;
      uint4 w[kParts];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        w[part] = ahead[part][i];
        ahead[part][i] = load_w(part, step + kAhead * kSplit);
      }
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        const uint4 low = load_a(m * 16 + group, step);
        const uint4 high = load_a(m * 16 + group + 8, step);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          Mma(d[part][m], low.x, high.x, low.y, high.y, w[part].x, w[part].y);
          Mma(d[part][m], low.z, high.z, low.w, high.w, w[part].z, w[part].w);
        }
      }
    }
  }

  const auto finish = [&](int row, int column, float sum, float sum_up) {
    if (row >= p.m || column >= p.n) return;
    const auto* bias = static_cast<const __nv_bfloat16*>(p.bias);
    if (bias != nullptr) sum += __bfloat162float(bias[column]);
    float value = Activate(p.activation, sum);
    if constexpr (kGated) {
      if (bias != nullptr) sum_up += __bfloat162float(bias[p.n + column]);
      value *= sum_up;
    }
    if (p.residual != nullptr) {
      value += __bfloat162float(static_cast<const __nv_bfloat16*>(p.residual)[row * p.ld_residual + column]);
    }
    if (p.f32_output) {
      static_cast<float*>(p.d)[row * p.ldd + column] = value;
    } else {
      static_cast<__nv_bfloat16*>(p.d)[row * p.ldd + column] = __float2bfloat16(value);
    }
  };

  if constexpr (kSplit == 1) {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        finish(m * 16 + group + i / 2 * 8, tile * kTileRows + quad * 2 + i % 2, d[0][m][i], d[kParts - 1][m][i]);
      }
    }
  } else {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[warp][part][m * 16 + group + i / 2 * 8][quad * 2 + i % 2] = d[part][m][i];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kTilesM * 16 * kTileRows; i += kWarps * 32) {
      float total[2] = {0, 0};
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int w = 0; w < kWarps; ++w) total[part] += sums[w][part][i / kTileRows][i % kTileRows];
      }
      finish(i / kTileRows, tile * kTileRows + i % kTileRows, total[0], total[1]);
    }
  }
}

template <int kTilesM, bool kGated>
cudaError_t Launch(const GemmArgs& args, cudaStream_t stream) {
  const int tiles = (args.n + kTileRows - 1) / kTileRows;
  // Enough rows of w for every warp of a large GPU twice over: no need to split k.
  if (tiles >= 2 * 132 * kWarps) {
    return LaunchOverlapped(SkinnyKernel<kTilesM, 1, kGated>, (tiles + kWarps - 1) / kWarps, kWarps * 32, 0, stream,
                            args);
  }
  return LaunchOverlapped(SkinnyKernel<kTilesM, kWarps, kGated>, tiles, kWarps * 32, 0, stream, args);
}

template <bool kGated>
cudaError_t LaunchRows(const GemmArgs& args, cudaStream_t stream) {
  if (args.m <= 16) return Launch<1, kGated>(args, stream);
  if (args.m <= 32) return Launch<2, kGated>(args, stream);
  return Launch<4, kGated>(args, stream);
}

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

cudaError_t GemmSkinny(const GemmArgs& args, cudaStream_t stream) {
  if (args.m < 1 || args.n < 1 || args.k < 1) return cudaErrorInvalidValue;
  if (args.a == nullptr || args.w == nullptr || args.d == nullptr) return cudaErrorInvalidValue;
  if (args.m > 64 || args.k % kVector != 0 || args.lda % kVector != 0 || args.ldw % kVector != 0 || !Aligned(args.a) ||
      !Aligned(args.w)) {
    return cudaErrorNotSupported;
  }
  return args.gated ? LaunchRows<true>(args, stream) : LaunchRows<false>(args, stream);
}

}  // namespace flashflow::cuda
