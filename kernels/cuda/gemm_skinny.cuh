// The kernel behind GemmSkinny. See gemm.h for what it computes.
//
// A team of warps multiplies all rows of `a` with 8 rows of `w` and splits k between its warps, in steps of 64 bytes of
// a row; their sums meet in shared memory. Within a step the columns are permuted, alike for both operands, so that
// each thread's part of two mma fragments is 16 contiguous bytes of one row, loaded straight to registers. Teams are
// sized so that a thread can have all of its loads of `w` in flight at once, from before the end of the kernels ahead
// in the stream.
#ifndef KERNELS_CUDA_GEMM_SKINNY_CUH_
#define KERNELS_CUDA_GEMM_SKINNY_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/vector.cuh"

namespace flashflow::cuda::gemm_skinny {

inline constexpr int kWarps = 8;
inline constexpr int kTileRows = 8;  // of w a warp

template <class Element>
inline constexpr int kStepK = 4 * kPerVector<Element>;  // columns a step

// Loads of 16 bytes of w that a thread has in flight, with 8 * kGroups rows of `a`.
template <int kGroups>
inline constexpr int kLoads = kGroups == 1 ? 12 : 6;

// kGroups: groups of 8 rows of `a`. kSplit: warps of a team.
template <class Element, int kGroups, int kSplit, bool kGated>
__global__ void __launch_bounds__(kWarps * 32, 2) SkinnyKernel(const GemmArgs p) {
  constexpr int kTilesM = (kGroups + 1) / 2;  // of 16 rows, the second half of one empty where kGroups is 1
  constexpr int kParts = kGated ? 2 : 1;
  constexpr int kAhead = kLoads<kGroups> / kParts;
  constexpr int kTeams = kWarps / kSplit;
  using Sum = SumOf<Element>;
  using Narrow = std::conditional_t<std::is_same_v<Element, int8_t>, __nv_bfloat16, Element>;  // of d, unless f32
  __shared__ Sum sums[kWarps][kParts][kTilesM * 16][kTileRows];

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = lane / 4, quad = lane % 4;
  const int first_tile = blockIdx.x * kTeams;  // one a team
  const int tile = first_tile + warp / kSplit;
  const int row_w = tile * kTileRows + group;
  const int steps = (p.k + kStepK<Element> - 1) / kStepK<Element>;
  const int first_step = warp % kSplit;

  const auto load_w = [&](int part, int step) {
    const int column = step * kStepK<Element> + quad * kPerVector<Element>;
    if (row_w >= p.n || column >= p.k) return make_uint4(0, 0, 0, 0);
    const auto* w = static_cast<const Element*>(p.w) + (part * int64_t{p.n} + row_w) * p.ldw + column;
    return LoadStreaming(w);
  };
  const auto load_a = [&](int row, int step) {
    const int column = step * kStepK<Element> + quad * kPerVector<Element>;
    if (row >= p.m || column >= p.k) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(static_cast<const Element*>(p.a) + row * p.lda + column);
  };

  LetNextKernelStart();
  uint4 ahead[kParts][kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) ahead[part][i] = load_w(part, first_step + i * kSplit);
  }
  AwaitPreviousKernel();

  Sum d[kParts][kTilesM][4] = {};
  for (int base = first_step; base < steps; base += kAhead * kSplit) {
    // Steps at a time whose part of `a` is loaded together: one latency for all of them.
    constexpr int kBatch = kGroups <= 2 ? kAhead : kGroups == 4 ? 3 : 1;
    static_assert(kAhead % kBatch == 0);
#pragma unroll
    for (int batch = 0; batch < kAhead; batch += kBatch) {
      uint4 a[kBatch][kGroups];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int g = 0; g < kGroups; ++g) a[i][g] = load_a(g * 8 + group, base + (batch + i) * kSplit);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int step = base + (batch + i) * kSplit;  // past the end all operands are zero
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          const uint4 w = ahead[part][batch + i];
          ahead[part][batch + i] = load_w(part, step + kAhead * kSplit);
#pragma unroll
          for (int m = 0; m < kTilesM; ++m) {
            const uint4 low = a[i][2 * m];
            const uint4 high = 2 * m + 1 < kGroups ? a[i][(2 * m + 1) % kGroups] : make_uint4(0, 0, 0, 0);
            Mma<Element>(d[part][m], {low.x, high.x, low.y, high.y}, w.x, w.y);
            Mma<Element>(d[part][m], {low.z, high.z, low.w, high.w}, w.z, w.w);
          }
        }
      }
    }
  }

  // The linear layer's result in a column of w's rows.
  const auto linear = [&](int row, int column, Sum sum) {
    if constexpr (std::is_same_v<Element, int8_t>) {  // step by step as gemm.h has it: nothing may be contracted
      const float z = __fmul_rn(__int2float_rn(sum), __fmul_rn(p.a_scale[row], p.w_scale[column]));
      return p.bias == nullptr ? z : __fadd_rn(z, p.bias[column]);
    } else {
      return p.bias == nullptr ? sum : sum + p.bias[column];
    }
  };
  const auto finish = [&](int row, int column, Sum sum, Sum sum_up) {
    if (row >= p.m || column >= p.n) return;
    float value = Activate(p.activation, linear(row, column, sum));
    if constexpr (kGated) value *= linear(row, p.n + column, sum_up);
    if (p.residual != nullptr) {
      value += ToFloat(static_cast<const Narrow*>(p.residual)[row * p.ld_residual + column]);
    }
    if (p.f32_output) {
      static_cast<float*>(p.d)[row * p.ldd + column] = value;
    } else {
      static_cast<Narrow*>(p.d)[row * p.ldd + column] = FromFloat<Narrow>(value);
    }
  };

#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[warp][part][m * 16 + group + i / 2 * 8][quad * 2 + i % 2] = d[part][m][i];
    }
  }
  __syncthreads();
  constexpr int kColumns = kTeams * kTileRows;
  for (int i = threadIdx.x; i < p.m * kColumns; i += kWarps * 32) {
    const int row = i / kColumns, column = i % kColumns;
    const int team = column / kTileRows;
    Sum total[2] = {0, 0};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int w = 0; w < kSplit; ++w) total[part] += sums[team * kSplit + w][part][row][column % kTileRows];
    }
    finish(row, first_tile * kTileRows + column, total[0], total[1]);
  }
}

template <class Element, int kGroups, bool kGated>
cudaError_t Launch(const GemmArgs& args, cudaStream_t stream) {
  const int tiles = (args.n + kTileRows - 1) / kTileRows;
  // By k alone, so that a row's bits do not depend on m: with few rows, all of a thread's loads are in flight at once.
  const int steps = (args.k + kStepK<Element> - 1) / kStepK<Element>;
  const auto launch = [&](auto kernel, int split) {
    const int teams = kWarps / split;
    return LaunchOverlapped(kernel, (tiles + teams - 1) / teams, 1, kWarps * 32, 0, stream, args);
  };
  if (steps <= 2 * kLoads<1>) return launch(SkinnyKernel<Element, kGroups, 2, kGated>, 2);
  if (steps <= 4 * kLoads<1>) return launch(SkinnyKernel<Element, kGroups, 4, kGated>, 4);
  return launch(SkinnyKernel<Element, kGroups, 8, kGated>, 8);
}

// Picks the kernel of one element type. One file a type defines it.
template <Dtype kDtype>
cudaError_t LaunchElement(const GemmArgs& args, cudaStream_t stream);

template <class Element, bool kGated>
cudaError_t LaunchRows(const GemmArgs& args, cudaStream_t stream) {
  if (args.m <= 8) return Launch<Element, 1, kGated>(args, stream);
  if (args.m <= 16) return Launch<Element, 2, kGated>(args, stream);
  if (args.m <= 32) return Launch<Element, 4, kGated>(args, stream);
  if constexpr (!kGated) return Launch<Element, 8, kGated>(args, stream);
  return cudaErrorNotSupported;
}

}  // namespace flashflow::cuda::gemm_skinny

#endif  // KERNELS_CUDA_GEMM_SKINNY_CUH_
