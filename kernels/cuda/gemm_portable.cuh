// The kernel behind GemmPortable for bf16, f16 and s8. See gemm.h for what it computes.
//
// A block of 8 warps owns 128 x 128 products; blocks of 64 bytes of rows of `a` and `w` stream through a ring of
// asynchronous copies, and each warp multiplies 64 x 32 by mma.sync. Rows of 64 bytes lie in shared memory with their
// 16-byte unit u at u ^ (row / 2 % 4), so that the 8 rows that ldmatrix reads at once lie in different banks.
#ifndef KERNELS_CUDA_GEMM_PORTABLE_CUH_
#define KERNELS_CUDA_GEMM_PORTABLE_CUH_

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

namespace flashflow::cuda::gemm_portable {

inline constexpr int kTile = 128;  // rows of `a`, and of `w`
inline constexpr int kBlockBytes = 64;
inline constexpr int kUnits = kBlockBytes / 16;  // of a row of a block
inline constexpr int kStages = 4;
inline constexpr int kThreads = 256;
inline constexpr int kOperandBytes = kTile * kBlockBytes;
inline constexpr int kPitch = kTile + 4;  // of a row of sums, at the end
inline constexpr int kSharedBytes = kTile * kPitch * 4;
static_assert(kSharedBytes >= kStages * 2 * kOperandBytes);

__device__ __forceinline__ uint32_t UnitOffset(int row, int unit) {
  return row * kBlockBytes + ((unit ^ (row / 2 % kUnits)) * 16);
}

template <class Element, bool kGated>
__global__ void __launch_bounds__(kThreads) PortableKernel(const GemmArgs p) {
  using Sum = SumOf<Element>;
  using Narrow = std::conditional_t<std::is_same_v<Element, int8_t>, __nv_bfloat16, Element>;  // of d, unless f32
  constexpr int kUnitElements = kPerVector<Element>;
  constexpr int kColumns = kGated ? kTile / 2 : kTile;  // of d
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t ring = ToShared(shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tiles_n = (p.n + kColumns - 1) / kColumns;
  const int row_d = blockIdx.x / tiles_n * kTile;
  const int column_d = blockIdx.x % tiles_n * kColumns;
  const int blocks = (p.k + kUnits * kUnitElements - 1) / (kUnits * kUnitElements);
  LetNextKernelStart();
  AwaitPreviousKernel();

  const auto load = [&](int block, int stage) {
    const uint32_t to = ring + stage * 2 * kOperandBytes;
#pragma unroll
    for (int i = 0; i < kTile * kUnits / kThreads; ++i) {
      const int row = (threadIdx.x + i * kThreads) / kUnits, unit = threadIdx.x % kUnits;
      const int column = (block * kUnits + unit) * kUnitElements;
      const bool inside = column < p.k;
      const bool inside_a = inside && row_d + row < p.m;
      const auto* a = static_cast<const Element*>(p.a) + (row_d + row) * p.lda + column;
      CopyAsync16(to + UnitOffset(row, unit), inside_a ? a : p.a, inside_a);
      const int within = row % kColumns, part = row / kColumns;  // part 1 only where gated
      const bool inside_w = inside && column_d + within < p.n;
      const auto* w = static_cast<const Element*>(p.w) + (part * int64_t{p.n} + column_d + within) * p.ldw + column;
      CopyAsync16(to + kOperandBytes + UnitOffset(row, unit), inside_w ? w : p.w, inside_w);
    }
  };
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < blocks) load(stage, stage);
    CopyCommit();
  }

  // The warp's 64 rows of `a`, and its four groups of 8 rows of `w`: where gated, two of either half.
  const int warp_row = warp / 4 * 64;
  const auto group_row = [&](int group) {
    return kGated ? group / 2 * kColumns + warp % 4 * 16 + group % 2 * 8 : warp % 4 * 32 + group * 8;
  };
  Sum sums[4][4][4] = {};
  for (int block = 0; block < blocks; ++block) {
    CopyWait<kStages - 2>();
    __syncthreads();  // this block is there, and all have left the one whose place the next load takes
    if (block + kStages - 1 < blocks) load(block + kStages - 1, (block + kStages - 1) % kStages);
    CopyCommit();
    const uint32_t a = ring + block % kStages * 2 * kOperandBytes;
    const uint32_t w = a + kOperandBytes;
#pragma unroll
    for (int step = 0; step < kBlockBytes / 32; ++step) {
      uint32_t fragment_a[4][4], fragment_w[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        LoadFragments(a + UnitOffset(warp_row + i * 16 + lane % 16, step * 2 + lane / 16), fragment_a[i]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = group_row(2 * i + lane / 16) + lane % 8;
        LoadFragments(w + UnitOffset(row, step * 2 + lane / 8 % 2), fragment_w[i]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          Mma<Element>(sums[i][j], fragment_a[i], fragment_w[j / 2][j % 2 * 2], fragment_w[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }

  const auto linear = [&](int row, int column, Sum sum) {
    if constexpr (std::is_same_v<Element, int8_t>) {  // step by step as gemm.h has it: nothing may be contracted
      const float z = __fmul_rn(__int2float_rn(sum), __fmul_rn(p.a_scale[row], p.w_scale[column]));
      return p.bias == nullptr ? z : __fadd_rn(z, p.bias[column]);
    } else {
      return p.bias == nullptr ? sum : sum + p.bias[column];
    }
  };
  // Through shared memory, in the ring's place: few instructions, and whole lines of d.
  __syncthreads();
  Sum* staged = reinterpret_cast<Sum*>(shared);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = warp_row + i * 16 + lane / 4 + e / 2 * 8;
        staged[row * kPitch + group_row(j) + lane % 4 * 2 + e % 2] = sums[i][j][e];
      }
    }
  }
  __syncthreads();
  for (int index = threadIdx.x; index < kTile * kColumns; index += kThreads) {
    const int row = row_d + index / kColumns, within = index % kColumns, column = column_d + within;
    if (row >= p.m || column >= p.n) continue;
    const Sum* at = staged + index / kColumns * kPitch + within;
    float value = Activate(p.activation, linear(row, column, at[0]));
    if constexpr (kGated) value *= linear(row, p.n + column, at[kColumns]);
    if (p.residual != nullptr) {
      value += ToFloat(static_cast<const Narrow*>(p.residual)[row * p.ld_residual + column]);
    }
    if (p.f32_output) {
      static_cast<float*>(p.d)[row * p.ldd + column] = value;
    } else {
      static_cast<Narrow*>(p.d)[row * p.ldd + column] = FromFloat<Narrow>(value);
    }
  }
}

// Picks the kernel of one element type. One file a type defines it.
template <Dtype kDtype>
cudaError_t LaunchElement(const GemmArgs& args, cudaStream_t stream);

template <class Element>
cudaError_t LaunchElementOf(const GemmArgs& args, cudaStream_t stream) {
  const int columns = args.gated ? kTile / 2 : kTile;
  const int64_t tiles = int64_t{(args.m + kTile - 1) / kTile} * ((args.n + columns - 1) / columns);
  if (tiles > INT32_MAX) return cudaErrorNotSupported;
  const auto kernel = args.gated ? PortableKernel<Element, true> : PortableKernel<Element, false>;
  return LaunchOverlapped(kernel, static_cast<int>(tiles), 1, kThreads, kSharedBytes, stream, args);
}

}  // namespace flashflow::cuda::gemm_portable

#endif  // KERNELS_CUDA_GEMM_PORTABLE_CUH_
