// The kernel behind GemmRowsSm90. See gemm.h for what it computes.
//
// A CTA owns 64 or 128 rows of `w` (where gated, half of them gates and half the values that they gate), a warpgroup 64
// of them, up to 64 rows of `a`, and one slice of k. One thread
// streams blocks of 128 bytes of rows of `w` and `a` through a ring in shared memory, as much of `w` as the ring holds
// before the kernels ahead in the stream have ended. The CTAs of a cluster have the same rows of `w` and one slice of k
// each; at the end each CTA adds up, in the order of the slices, its share of the rows of `a`, reading the others' sums
// from their shared memory.
//
// Where the rows of `a` are normalized first, each CTA does so itself, for its slice: a row is a few kilobytes that lie
// in the L2 cache, and reading them again is quicker than waiting for one more kernel. So it is with 8-bit codes of
// rows of bf16, whose scale takes the whole row: a CTA reads its rows whole, a warp a row, and codes its slice of them;
// a single row its warps share out.
#ifndef KERNELS_CUDA_GEMM_ROWS_SM90_CUH_
#define KERNELS_CUDA_GEMM_ROWS_SM90_CUH_

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/hopper_barrier.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/normalize_row.cuh"
#include "kernels/cuda/quantize_row.cuh"
#include "kernels/cuda/row_reduce.cuh"
#include "kernels/cuda/tensor_map.h"

namespace flashflow::cuda::gemm_rows_sm90 {

inline constexpr int kBlockBytes = 128;  // of k

// kNormVectors: where the CTA normalizes its rows of `a`, 16-byte vectors of a row that a thread has; else 0.
// kRowVectors: where all warps code a row together, vectors of it whose codes a thread makes; else 0.
// kOneRow: of a single row.
template <class Element_, int kRowsA_, int kTileRows_, int kSplit_, bool kGated_, int kNormVectors_ = 0,
          int kRowVectors_ = 0, bool kOneRow_ = false>
struct Traits {
  using Element = Element_;
  static constexpr int kRowsA = kRowsA_;        // rows of `a`, padded
  static constexpr int kTileRows = kTileRows_;  // rows of `w`
  static constexpr int kSplit = kSplit_;        // CTAs of a cluster
  static constexpr bool kGated = kGated_;
  static constexpr int kColumns = kGated ? kTileRows / 2 : kTileRows;  // of d
  static constexpr bool kInteger = std::is_same_v<Element, int8_t>;
  static constexpr int kNormVectors = kNormVectors_;
  static constexpr bool kNormed = kNormVectors > 0;
  static constexpr int kRowVectors = kRowVectors_;
  static constexpr bool kOneRow = kOneRow_;
  static constexpr bool kCoded = !kNormed && kRowVectors > 0;
  // The CTA's slice of the rows of `a` that it makes itself lies beside the ring, and of codes the rows' scales.
  static constexpr bool kMakesA = kNormed || kCoded;
  // Rows of codes, each a warp's: warps beside those that multiply make them too. But so many warps have no room for
  // a long row with its norm in registers.
  static constexpr bool kRowAWarp = kMakesA && kInteger && !kOneRow && kNormVectors <= 4;
  static constexpr int kColumnsMade = kNormed ? kNormVectors * 32 * 8 : kRowVectors * 128 * 8;
  static constexpr int kBlocksMade = kColumnsMade * static_cast<int>(sizeof(Element)) / kBlockBytes;
  static constexpr int kMadeBlocks = kCoded ? (kBlocksMade + kSplit - 1) / kSplit : kBlocksMade;
  static_assert(!kCoded || (kInteger && !kGated && kTileRows == 64 && kSplit > 1));
  static_assert(!kOneRow || (kInteger && kTileRows == 64 && (kNormed || kCoded)));
  using Sum = std::conditional_t<kInteger, int32_t, float>;
  using Sum4 = std::conditional_t<kInteger, int4, float4>;
  using Narrow =
      std::conditional_t<kInteger, __nv_bfloat16, Element>;  // of the residual, of d unless f32, of rows made

  static constexpr int kConsumers = kTileRows / 64 * 128;               // threads
  static constexpr int kMakers = kRowAWarp ? kRowsA * 32 : kConsumers;  // threads that make rows of `a`
  static constexpr int kThreads = kMakers + 32;
  static_assert(kMakers >= kConsumers);
  static constexpr int kWBytes = kTileRows * kBlockBytes;
  static constexpr int kStageBytes = kWBytes + (kMakesA ? 0 : kRowsA * kBlockBytes);
  static constexpr int kMadeBytes = kMadeBlocks * kRowsA * kBlockBytes;
  static constexpr int kScaleBytes = kMakesA && kInteger ? 5 * kRowsA * 4 : 0;  // scales, a warp's greatest magnitudes
  static constexpr int kBarrierBytes = 512;
  static constexpr int kMostBytes = 113 * 1024;  // two CTAs a multiprocessor
  static constexpr int kRoom = (kMostBytes - kBarrierBytes - kMadeBytes - kScaleBytes) / kStageBytes;
  // A short slice is in the ring whole, and leaves room for more CTAs.
  static constexpr int kStages = !kCoded || kMadeBlocks > kRoom ? kRoom : kMadeBlocks < 3 ? 3 : kMadeBlocks;
  static constexpr int kSharedBytes = kStages * kStageBytes + kMadeBytes + kBarrierBytes + kScaleBytes;
  // The sums take the ring's place: [kRowsA][kPitch], padded so that a warp's writes fall in different banks.
  static constexpr int kPitch = kTileRows + 4;
  // A thread finishes the same four columns of kFinished rows, kFinishStep apart.
  static constexpr int kVectors = kColumns / 4;
  static constexpr int kFinishStep = kConsumers / kVectors * kSplit;
  static constexpr int kFinished = (kRowsA + kFinishStep - 1) / kFinishStep;
  static_assert(kRowsA * kPitch * 4 <= kStages * kStageBytes);
  static_assert(2 * 8 * kStages <= kBarrierBytes);
};

struct Params {
  GemmArgs args;
  int k_blocks;
  int tiles;  // of w
};

__device__ __forceinline__ uint32_t InCluster(uint32_t shared, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}
__device__ __forceinline__ uint4 LoadCluster(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ __forceinline__ void StoreShared(uint32_t address, uint32_t v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
__device__ __forceinline__ uint32_t LoadShared(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

// Where codes of a product go. A row's are zero beyond k only in `w`, which is enough.
struct CodesPlace {
  uint32_t made;
  uint32_t scales;  // behind them a word a warp, of a single row
  int first_block, blocks;
};

// Codes of eight columns from `column` on to where wgmma reads them, if they are in the CTA's slice.
template <class T>
__device__ __forceinline__ void StoreCodes(const CodesPlace& place, int row, int column, const float (&h)[8],
                                           float factor) {
  const int block = column / kBlockBytes - place.first_block;
  if (block < 0 || block >= place.blocks) return;
  const int unit = column % kBlockBytes / 16;
  const uint32_t at = place.made + (block * T::kRowsA + row) * kBlockBytes + (unit ^ row % 8) * 16 + column % 16;
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(at), "r"(PackCodes(h, factor)), "r"(PackCodes(h + 4, factor))
               : "memory");
}

__device__ __forceinline__ void StoreScale(const CodesPlace& place, int row, float scale) {
  StoreShared(place.scales + row * 4, __float_as_uint(scale));
}

// The greatest magnitudes of bf16 at even and at odd places, and those of a vector: the upper halves of those of f32.
__device__ __forceinline__ uint32_t MostOfPairs(uint32_t pair, const uint4& v) {
  constexpr uint32_t kNoSigns = 0x7fff7fffu;
  return __vmaxu2(__vmaxu2(__vmaxu2(pair, v.x & kNoSigns), v.y & kNoSigns), __vmaxu2(v.z & kNoSigns, v.w & kNoSigns));
}
__device__ __forceinline__ uint32_t MostOfPair(uint32_t pair) { return max(pair << 16, pair & 0xffff0000u); }

__device__ __forceinline__ void Add(float (&sum)[4], const uint4& v) {
  sum[0] += __uint_as_float(v.x);
  sum[1] += __uint_as_float(v.y);
  sum[2] += __uint_as_float(v.z);
  sum[3] += __uint_as_float(v.w);
}
__device__ __forceinline__ void Add(int32_t (&sum)[4], const uint4& v) {
  sum[0] += static_cast<int32_t>(v.x);
  sum[1] += static_cast<int32_t>(v.y);
  sum[2] += static_cast<int32_t>(v.z);
  sum[3] += static_cast<int32_t>(v.w);
}

// Normalizes the CTA's rows of `a`, a warp one at a time, as NormKernel's warps do (norm.cuh), and keeps blocks
// [first_block, first_block + blocks) of k, laid out as the copy engine would; or of codes, and the rows' scales. Each
// launch runs it once: it is as long as its instructions take to fetch, so little is unrolled.
template <class T>
__device__ __forceinline__ void NormalizeRows(const GemmArgs& p, int first_a, int warp, const CodesPlace& place) {
  using Element = T::Narrow;
  constexpr int kWarps = T::kMakers / 32, kElements = 8, kVectors = T::kNormVectors;
  constexpr int kBlock = kBlockBytes / static_cast<int>(sizeof(typename T::Element));
  const int lane = threadIdx.x % 32;
  const int end = min(T::kRowsA, p.m - first_a);  // products of what lies beyond go nowhere
  uint4 next[kVectors];
  const auto load = [&](int row) {
    const auto* x = static_cast<const Element*>(p.a) + int64_t{first_a + row} * p.lda;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * 32 + lane) * kElements;
      next[v] = row < end && column < p.k ? *reinterpret_cast<const uint4*>(x + column) : make_uint4(0, 0, 0, 0);
    }
  };
  int row = warp;
  load(row);
#pragma unroll 1
  for (; row < end; row += kWarps) {
    uint4 packed[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) packed[v] = next[v];
    if constexpr (kWarps < T::kRowsA) load(row + kWarps);
    const RowMoments moments = MomentsOf<Element, 32, kVectors>(packed, lane, p.k, p.norm.rms, p.norm.epsilon, nullptr);
    if constexpr (T::kInteger) {
      constexpr bool kKeep = !T::kRowAWarp || kVectors <= 3;  // else rows are normalized twice
      float h[kKeep ? kVectors : 1][kElements];
      const auto normalize = [&](int v, int column) {
        const float* beta = p.norm.beta == nullptr ? nullptr : p.norm.beta + column;
        NormalizeVector<Element>(packed[v], moments, p.norm.gamma + column, beta, h[kKeep ? v : 0]);
      };
      uint32_t most = 0;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int column = (v * 32 + lane) * kElements;
        if (column >= p.k) break;
        normalize(v, column);
#pragma unroll
        for (int i = 0; i < kElements; ++i) most = max(most, Magnitude(h[kKeep ? v : 0][i]));
      }
      const RowScale scale = ScaleOf(RowMost<32>(most, nullptr), p.clip);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int column = (v * 32 + lane) * kElements;
        const int block = column / kBlock - place.first_block;
        if (column >= p.k || block >= place.blocks) break;
        if (block < 0) continue;
        if constexpr (!kKeep) normalize(v, column);
        StoreCodes<T>(place, row, column, h[kKeep ? v : 0], scale.factor);
      }
      if (lane == 0) StoreScale(place, row, scale.scale);
    } else {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int column = (v * 32 + lane) * kElements;
        const int block = column / kBlock - place.first_block;
        if (block < 0 || block >= place.blocks) continue;
        uint4 y = make_uint4(0, 0, 0, 0);  // past k, as the copy engine fills w
        if (column < p.k) {
          float h[kElements];
          const float* beta = p.norm.beta == nullptr ? nullptr : p.norm.beta + column;
          NormalizeVector<Element>(packed[v], moments, p.norm.gamma + column, beta, h);
          y = PackVector<Element>(h);
        }
        const uint32_t at = place.made + (block * T::kRowsA + row) * kBlockBytes + (column % kBlock / 8 ^ row % 8) * 16;
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(y.x), "r"(y.y), "r"(y.z), "r"(y.w)
                     : "memory");
      }
    }
  }
}

// 16-byte vectors of a norm's weights.
template <int kVectors>
struct NormWeights {
  alignas(16) float gamma[kVectors][8] = {};
  alignas(16) float beta[kVectors][8] = {};
};

// A warp's share of a row that NormalizeAndCodeRow has: columns of its vector v.
__device__ __forceinline__ int ColumnOfWarp(int v) {
  return ((static_cast<int>(threadIdx.x) / 32 + 4 * v) * 32 + static_cast<int>(threadIdx.x) % 32) * 8;
}

template <int kVectors>
__device__ __forceinline__ NormWeights<kVectors> LoadNormWeights(const GemmArgs& p) {
  NormWeights<kVectors> weights;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = ColumnOfWarp(v);
    if (column >= p.k) break;
    LoadF32(p.norm.gamma + column, weights.gamma[v]);
    if (p.norm.beta != nullptr) LoadF32(p.norm.beta + column, weights.beta[v]);
  }
  return weights;
}

// A warp's greatest magnitude into the first of the four words at `mosts`, or its own; the greatest of the four.
__device__ __forceinline__ void StoreMost(uint32_t most, uint32_t mosts) {
  most = __reduce_max_sync(~0u, most);
  if (threadIdx.x % 32 == 0) StoreShared(mosts + threadIdx.x / 32 * 4, most);
}
__device__ __forceinline__ uint32_t MostOfWarps(uint32_t mosts) {
  return max(max(LoadShared(mosts), LoadShared(mosts + 4)), max(LoadShared(mosts + 8), LoadShared(mosts + 12)));
}

// NormalizeRows of a single row: each warp finds the row's moments, the same bits in each, and normalizes and codes its
// share, so that a lane has fewer values one after the other and there are fewer instructions.
template <class T>
__device__ __forceinline__ void NormalizeAndCodeRow(const GemmArgs& p, const NormWeights<T::kRowVectors>& weights,
                                                    const CodesPlace& place) {
  constexpr int kVectors = T::kNormVectors, kMine = T::kRowVectors;
  const int lane = threadIdx.x % 32;
  const auto* x = static_cast<const __nv_bfloat16*>(p.a);
  const auto load = [&](int column) {
    return column < p.k ? *reinterpret_cast<const uint4*>(x + column) : make_uint4(0, 0, 0, 0);
  };
  uint4 packed[kVectors], mine[kMine];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) packed[v] = load((v * 32 + lane) * 8);
#pragma unroll
  for (int v = 0; v < kMine; ++v) mine[v] = load(ColumnOfWarp(v));
  const RowMoments moments =
      MomentsOf<__nv_bfloat16, 32, kVectors>(packed, lane, p.k, p.norm.rms, p.norm.epsilon, nullptr);
  float h[kMine][8];
  uint32_t most = 0;
#pragma unroll
  for (int v = 0; v < kMine; ++v) {
    // Past k zeros, less the mean, times a weight of zero.
    NormalizeVector<__nv_bfloat16>(mine[v], moments, weights.gamma[v], weights.beta[v], h[v]);
#pragma unroll
    for (int i = 0; i < 8; ++i) most = max(most, Magnitude(h[v][i]));
  }
  const uint32_t mosts = place.scales + T::kRowsA * 4;
  StoreMost(most, mosts);
  hopper::NamedBarrierSync(1, 128);
  const RowScale scale = ScaleOf(MostOfWarps(mosts), p.clip);
#pragma unroll
  for (int v = 0; v < kMine; ++v) StoreCodes<T>(place, 0, ColumnOfWarp(v), h[v], scale.factor);
  if (threadIdx.x == 0) StoreScale(place, 0, scale.scale);
}

// Codes a single row, all threads together.
template <class T>
__device__ __forceinline__ void CodeRow(const GemmArgs& p, const CodesPlace& place) {
  constexpr int kVectors = T::kRowVectors;
  const auto* x = static_cast<const __nv_bfloat16*>(p.a);
  const auto column_of = [&](int v) { return (v * 128 + static_cast<int>(threadIdx.x)) * 8; };
  uint4 packed[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    packed[v] = column_of(v) < p.k ? *reinterpret_cast<const uint4*>(x + column_of(v)) : make_uint4(0, 0, 0, 0);
  }
  uint32_t pair = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) pair = MostOfPairs(pair, packed[v]);
  const uint32_t mosts = place.scales + T::kRowsA * 4;
  StoreMost(MostOfPair(pair), mosts);
  hopper::NamedBarrierSync(1, 128);
  const RowScale scale = ScaleOf(MostOfWarps(mosts), p.clip);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (column_of(v) >= p.k) break;
    float h[8];
    UnpackVector<__nv_bfloat16>(packed[v], h);
    StoreCodes<T>(place, 0, column_of(v), h, scale.factor);
  }
  if (threadIdx.x == 0) StoreScale(place, 0, scale.scale);
}

// Codes a warp's row: reads it whole for its greatest magnitude, and the CTA's slice of it again.
template <class T>
__device__ __forceinline__ void CodeRowOfWarp(const GemmArgs& p, int first_a, int row, const CodesPlace& place) {
  if (first_a + row >= p.m) return;  // products of what lies there go nowhere
  constexpr int kVectors = T::kRowVectors * 4;
  const int lane = threadIdx.x % 32;
  const auto* x = static_cast<const __nv_bfloat16*>(p.a) + int64_t{first_a + row} * p.lda;
  uint4 packed[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * 32 + lane) * 8;
    packed[v] = column < p.k ? *reinterpret_cast<const uint4*>(x + column) : make_uint4(0, 0, 0, 0);
  }
  uint32_t pair = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) pair = MostOfPairs(pair, packed[v]);
  const RowScale scale = ScaleOf(__reduce_max_sync(~0u, MostOfPair(pair)), p.clip);
  const int end = min(p.k, (place.first_block + place.blocks) * kBlockBytes);
#pragma unroll 1
  for (int column = place.first_block * kBlockBytes + lane * 8; column < end; column += 32 * 8) {
    float h[8];
    UnpackVector<__nv_bfloat16>(*reinterpret_cast<const uint4*>(x + column), h);
    StoreCodes<T>(place, row, column, h, scale.factor);
  }
  if (lane == 0) StoreScale(place, row, scale.scale);
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, 2)
    RowsKernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_w,
               const __grid_constant__ Params params) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using namespace hopper;
  using Element = T::Element;
  using Narrow = T::Narrow;
  using Sum = T::Sum;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t stages = SharedAddress(shared);
  const uint32_t made = stages + T::kStages * T::kStageBytes;  // blocks of [kRowsA][128 bytes], swizzled as the ring's
  const uint32_t barriers = made + T::kMadeBytes;
  const uint32_t scales = barriers + T::kBarrierBytes;
  const auto full = [&](uint32_t stage) { return barriers + 8 * stage; };
  const auto empty = [&](uint32_t stage) { return barriers + 8 * (T::kStages + stage); };

  const GemmArgs& p = params.args;
  const uint32_t rank = ClusterRank();
  const int tile = blockIdx.x / T::kSplit % params.tiles;
  const int first_a = static_cast<int>(blockIdx.x) / T::kSplit / params.tiles * T::kRowsA;
  const int first_block = static_cast<int>(int64_t{params.k_blocks} * rank / T::kSplit);
  const int blocks = static_cast<int>(int64_t{params.k_blocks} * (rank + 1) / T::kSplit) - first_block;
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < T::kStages; ++stage) {
      BarrierInit(full(stage), 1);
      BarrierInit(empty(stage), T::kConsumers / 32);
    }
    BarrierInitFence();
    PrefetchTensorMap(&map_w);
    PrefetchTensorMap(&map_a);
  }
  __syncthreads();
  LetNextKernelStart();

  if (warp == T::kConsumers / 32) {
    if (threadIdx.x % 32 == 0) {
      constexpr int kBlock = kBlockBytes / static_cast<int>(sizeof(Element));
      const auto load_w = [&](int block, uint32_t stage) {
        BarrierArriveExpect(full(stage), T::kStageBytes);
        TensorLoad2d(stages + stage * T::kStageBytes, &map_w, full(stage), (first_block + block) * kBlock,
                     tile * T::kColumns);
        if constexpr (T::kGated) {
          TensorLoad2d(stages + stage * T::kStageBytes + T::kColumns * kBlockBytes, &map_w, full(stage),
                       (first_block + block) * kBlock, p.n + tile * T::kColumns);
        }
      };
      const auto load_a = [&](int block, uint32_t stage) {
        TensorLoad2d(stages + stage * T::kStageBytes + T::kWBytes, &map_a, full(stage), (first_block + block) * kBlock,
                     first_a);
      };
      const int ahead = min(blocks, T::kStages);
      for (int block = 0; block < ahead; ++block) load_w(block, block);
      if constexpr (!T::kMakesA) {
        AwaitPreviousKernel();
        for (int block = 0; block < ahead; ++block) load_a(block, block);
      }
      RingPosition<T::kStages> ring;
      for (int block = ahead; block < blocks; ++block) {
        BarrierWait(empty(ring.stage), ring.parity);
        load_w(block, ring.stage);
        if constexpr (!T::kMakesA) load_a(block, ring.stage);
        ring.Next();
      }
    }
    if constexpr (T::kSplit > 1) {
      __syncwarp();
      ClusterSync();
      ClusterArrive();
    }
  } else {
    const int lane = threadIdx.x % 32;
    const int within = threadIdx.x % T::kVectors * 4;
    const int column = tile * T::kColumns + within;
    const int first_row = rank + threadIdx.x / T::kVectors * T::kSplit;  // of the CTA's
    const auto row_of = [&](int i) { return first_a + first_row + i * T::kFinishStep; };
    const auto is_mine = [&](int i) { return first_row + i * T::kFinishStep < T::kRowsA && row_of(i) < p.m; };
    constexpr int kParts = T::kGated ? 2 : 1;  // of a row of d: gates, values
    float bias[kParts][4], w_scale[kParts][4] = {};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool there = column + i < p.n;
        const int row = part * p.n + column + i;
        bias[part][i] = there && p.bias != nullptr ? p.bias[row] : -0.0f;  // which leaves a sum's bits alone
        if constexpr (T::kInteger) w_scale[part][i] = there ? p.w_scale[row] : 0.0f;
      }
    }
    NormWeights<T::kNormed && T::kOneRow ? T::kRowVectors : 1> norm_weights;
    if constexpr (T::kNormed && T::kOneRow) {  // these need not wait for the kernel before
      norm_weights = LoadNormWeights<T::kRowVectors>(p);
    } else if constexpr (T::kNormed) {
      constexpr int kBlock = kBlockBytes / 2, kLine = 32;
      const int first = T::kInteger ? 0 : first_block * kBlock;
      const int end = T::kInteger ? p.k : min(p.k, (first_block + blocks) * kBlock);
      for (int at = first + threadIdx.x * kLine; at < end; at += T::kConsumers * kLine) {
        PrefetchL1(p.norm.gamma + at);
        if (p.norm.beta != nullptr) PrefetchL1(p.norm.beta + at);
      }
    }
    AwaitPreviousKernel();
    float added[T::kFinished][4] = {};
    float row_scale[T::kFinished] = {};
#pragma unroll
    for (int i = 0; i < T::kFinished; ++i) {
      if (!is_mine(i)) break;
      if constexpr (T::kInteger && !T::kMakesA) row_scale[i] = p.a_scale[row_of(i)];
      if (p.residual == nullptr) continue;
      const Narrow* residual = static_cast<const Narrow*>(p.residual) + int64_t{row_of(i)} * p.ld_residual + column;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (column + j < p.n) added[i][j] = ToFloat(residual[j]);
      }
    }

    if constexpr (T::kMakesA) {
      const CodesPlace place = {made, scales, first_block, blocks};
      const int maker = warp > T::kConsumers / 32 ? warp - 1 : warp;
      if constexpr (T::kNormed && T::kOneRow) {
        NormalizeAndCodeRow<T>(p, norm_weights, place);
      } else if constexpr (T::kNormed) {
        NormalizeRows<T>(p, first_a, maker, place);
      } else if constexpr (T::kOneRow) {
        CodeRow<T>(p, place);
      } else {
        CodeRowOfWarp<T>(p, first_a, maker, place);
      }
      AsyncProxyFence();
      NamedBarrierSync(1, T::kMakers);
      if (warp > T::kConsumers / 32) return;  // barriers of the cluster wait for no thread that has ended
      if constexpr (T::kInteger) {
#pragma unroll
        for (int i = 0; i < T::kFinished; ++i) {
          if (is_mine(i)) row_scale[i] = __uint_as_float(LoadShared(scales + (first_row + i * T::kFinishStep) * 4));
        }
      }
    }

    Sum sums[T::kRowsA / 2];
    if (blocks == 0) {
#pragma unroll
      for (int i = 0; i < T::kRowsA / 2; ++i) sums[i] = 0;
    }
    RingPosition<T::kStages> ring;
    uint32_t previous = 0;
    const uint32_t half = warp / 4 * 64 * kBlockBytes;
    for (int block = 0; block < blocks; ++block) {
      BarrierWait(full(ring.stage), ring.parity);
      const uint32_t stage = stages + ring.stage * T::kStageBytes;
      const uint64_t w = TileDescriptor(stage + half);
      const uint64_t a = TileDescriptor(T::kMakesA ? made + block * T::kRowsA * kBlockBytes : stage + T::kWBytes);
      WgmmaFence();
#pragma unroll
      for (int k = 0; k < kBlockBytes / 32; ++k) {
        WgmmaShared<T::kRowsA, Element>::Run(sums, w + 2 * k, a + 2 * k, block > 0 || k > 0);
      }
      WgmmaCommit();
      WgmmaWait<1>();
      if (block > 0 && lane == 0) BarrierArrive(empty(previous));
      previous = ring.stage;
      ring.Next();
    }
    WgmmaWait<0>();
    KeepInRegisters(sums);

    NamedBarrierSync(1, T::kConsumers);  // no product reads the ring any more
    Sum* mine = reinterpret_cast<Sum*>(shared);
#pragma unroll
    for (int i = 0; i < T::kRowsA / 2; ++i) {
      const int row = i / 4 * 8 + lane % 4 * 2 + i % 2;
      mine[row * T::kPitch + warp * 16 + lane / 4 + i / 2 % 2 * 8] = sums[i];
    }
    if constexpr (T::kSplit > 1) {
      ClusterSync();
    } else {
      NamedBarrierSync(1, T::kConsumers);
    }

    // All of a thread's shared-memory reads at once: one latency.
    uint4 slices[T::kFinished][kParts][T::kSplit];
#pragma unroll
    for (int i = 0; i < T::kFinished; ++i) {
      // Rows past `a` are read as well: they are there, up to kRowsA.
      const int row = min(first_row + i * T::kFinishStep, T::kRowsA - 1);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int at = (row * T::kPitch + part * T::kColumns + within) * 4;
        if constexpr (T::kSplit == 1) {
          slices[i][part][0] = *reinterpret_cast<const uint4*>(shared + at);
        } else {
#pragma unroll
          for (int slice = 0; slice < T::kSplit; ++slice) {
            slices[i][part][slice] = LoadCluster(InCluster(stages + at, slice));
          }
        }
      }
    }
    const auto total = [&](int i, int part, float (&value)[4]) {
      Sum sum[4] = {};
#pragma unroll
      for (int slice = 0; slice < T::kSplit; ++slice) Add(sum, slices[i][part][slice]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if constexpr (T::kInteger) {  // step by step as gemm.h has it: nothing may be contracted
          value[j] =
              __fadd_rn(__fmul_rn(__int2float_rn(sum[j]), __fmul_rn(row_scale[i], w_scale[part][j])), bias[part][j]);
        } else {
          value[j] = sum[j] + bias[part][j];
        }
      }
    };
    float value[T::kFinished][4], gated[T::kFinished][4];
#pragma unroll
    for (int i = 0; i < T::kFinished; ++i) {
      total(i, 0, value[i]);
      if constexpr (T::kGated) total(i, 1, gated[i]);
    }
    if constexpr (T::kSplit > 1) ClusterArrive();
    const auto activate = [&](auto function) {
#pragma unroll
      for (int i = 0; i < T::kFinished; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) value[i][j] = function(value[i][j]);
      }
    };
    switch (p.activation) {
      case Activation::kNone:
        break;
      case Activation::kGeluTanh:
        activate(GeluTanh);
        break;
      case Activation::kGeluErf:
        activate(GeluErf);
        break;
      case Activation::kSilu:
        activate(Silu);
        break;
    }
#pragma unroll
    for (int i = 0; i < T::kFinished; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if constexpr (T::kGated) value[i][j] *= gated[i][j];
        if (p.residual != nullptr) value[i][j] += added[i][j];
      }
    }
    const bool vectors = column + 4 <= p.n && p.ldd % 4 == 0 && reinterpret_cast<uintptr_t>(p.d) % 16 == 0;
    const auto store = [&]<class Output>(Output* d, const float (&x)[4]) {
      if (vectors) {
        if constexpr (sizeof(Output) == 4) {
          *reinterpret_cast<float4*>(d) = make_float4(x[0], x[1], x[2], x[3]);
        } else {
          *reinterpret_cast<uint2*>(d) = make_uint2(PackPair<Output>(x[0], x[1]), PackPair<Output>(x[2], x[3]));
        }
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (column + j < p.n) d[j] = FromFloat<Output>(x[j]);
        }
      }
    };
#pragma unroll
    for (int i = 0; i < T::kFinished; ++i) {
      if (!is_mine(i)) break;
      const int64_t at = int64_t{row_of(i)} * p.ldd + column;
      if (p.f32_output) {
        store(static_cast<float*>(p.d) + at, value[i]);
      } else {
        store(static_cast<Narrow*>(p.d) + at, value[i]);
      }
    }
  }
  if constexpr (T::kSplit > 1) ClusterWait();  // a CTA stays while others may still read its sums
#else
  __trap();  // compiled for an architecture without wgmma: GemmRowsSm90 launches it on Hopper alone
#endif
}

template <class T>
cudaError_t Launch(const GemmArgs& args, cudaStream_t stream) {
  constexpr int kBlock = kBlockBytes / static_cast<int>(sizeof(typename T::Element));
  const auto encode = [&](const void* data, int64_t rows, int64_t stride, int box_rows, CUtensorMap* map) {
    TensorMapDesc desc;
    desc.data = data;
    desc.dtype = args.dtype;
    desc.rank = 2;
    desc.extents[0] = args.k;
    desc.extents[1] = rows;
    desc.strides[0] = 1;
    desc.strides[1] = stride;
    desc.box[0] = kBlock;
    desc.box[1] = box_rows;
    return EncodeTensorMap(desc, map);
  };
  CUtensorMap map_a, map_w;
  const int64_t rows_w = T::kGated ? 2 * int64_t{args.n} : args.n;
  if (cudaError_t error = encode(args.w, rows_w, args.ldw, T::kColumns, &map_w)) return error;
  if constexpr (T::kMakesA) {
    map_a = map_w;  // not read
  } else {
    if (cudaError_t error = encode(args.a, args.m, args.lda, T::kRowsA, &map_a)) return error;
  }
  Params params;
  params.args = args;
  params.k_blocks = (args.k + kBlock - 1) / kBlock;
  params.tiles = (args.n + T::kColumns - 1) / T::kColumns;
  const int64_t blocks = int64_t{(args.m + T::kRowsA - 1) / T::kRowsA} * params.tiles * T::kSplit;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  return LaunchOverlapped(RowsKernel<T>, static_cast<int>(blocks), T::kSplit, T::kThreads, T::kSharedBytes, stream,
                          map_a, map_w, params);
}

// Picks the kernel of one element type. One file a type defines it.
template <Dtype kDtype>
cudaError_t LaunchElement(const GemmArgs& args, const GemmRowsSm90Config& config, cudaStream_t stream);

// Codes without a norm, by the length of the rows.
template <int kSplit, bool kOneRow>
cudaError_t LaunchCoded(const GemmArgs& args, cudaStream_t stream) {
  const auto launch = [&]<int kRowVectors>() {
    return Launch<Traits<int8_t, kMostNormedRows, 64, kSplit, false, 0, kRowVectors, kOneRow>>(args, stream);
  };
  const int vectors = (args.k + 128 * 8 - 1) / (128 * 8);
  if (vectors == 1) return launch.template operator()<1>();
  if (vectors <= 3) return launch.template operator()<3>();
  if constexpr (kOneRow) {
    if (vectors <= 8) return launch.template operator()<8>();
  }
  return cudaErrorNotSupported;
}

template <class Element, int kTileRows, int kSplit, bool kGated>
cudaError_t LaunchRows(const GemmArgs& args, cudaStream_t stream) {
  if (args.norm.gamma != nullptr) {
    if constexpr (kTileRows == 64) {
      constexpr int kColumnsOfVector = 32 * 8;
      const int vectors = (args.k + kColumnsOfVector - 1) / kColumnsOfVector;
      if constexpr (sizeof(Element) == 1) {
        if (args.m == 1) {
          if (vectors <= 3) return Launch<Traits<Element, 8, kTileRows, kSplit, kGated, 3, 1, true>>(args, stream);
          if (vectors <= 4) return Launch<Traits<Element, 8, kTileRows, kSplit, kGated, 4, 1, true>>(args, stream);
          return Launch<Traits<Element, 8, kTileRows, kSplit, kGated, 8, 2, true>>(args, stream);
        }
      }
      if (vectors <= 3) return Launch<Traits<Element, kMostNormedRows, kTileRows, kSplit, kGated, 3>>(args, stream);
      if (vectors <= 4) return Launch<Traits<Element, kMostNormedRows, kTileRows, kSplit, kGated, 4>>(args, stream);
      return Launch<Traits<Element, kMostNormedRows, kTileRows, kSplit, kGated, 8>>(args, stream);
    } else {
      return cudaErrorNotSupported;
    }
  }
  if (args.quantize) {
    if constexpr (sizeof(Element) == 1 && kTileRows == 64 && kSplit > 1 && !kGated) {
      return args.m == 1 ? LaunchCoded<kSplit, true>(args, stream) : LaunchCoded<kSplit, false>(args, stream);
    } else {
      return cudaErrorNotSupported;
    }
  }
  if (args.m <= 8) return Launch<Traits<Element, 8, kTileRows, kSplit, kGated>>(args, stream);
  if (args.m <= 16) return Launch<Traits<Element, 16, kTileRows, kSplit, kGated>>(args, stream);
  if (args.m <= 32) return Launch<Traits<Element, 32, kTileRows, kSplit, kGated>>(args, stream);
  return Launch<Traits<Element, 64, kTileRows, kSplit, kGated>>(args, stream);
}

template <class Element, int kTileRows, int kSplit>
cudaError_t LaunchTile(const GemmArgs& args, cudaStream_t stream) {
  return args.gated ? LaunchRows<Element, kTileRows, kSplit, true>(args, stream)
                    : LaunchRows<Element, kTileRows, kSplit, false>(args, stream);
}

template <class Element>
cudaError_t LaunchElementOf(const GemmArgs& args, const GemmRowsSm90Config& config, cudaStream_t stream) {
  if (config.tile_rows == 128) {
    return config.split_k == 1 ? LaunchTile<Element, 128, 1>(args, stream) : cudaErrorNotSupported;
  }
  switch (config.split_k) {
    case 1:
      return LaunchTile<Element, 64, 1>(args, stream);
    case 2:
      return LaunchTile<Element, 64, 2>(args, stream);
    case 4:
      return LaunchTile<Element, 64, 4>(args, stream);
    default:
      return LaunchTile<Element, 64, 8>(args, stream);
  }
}

}  // namespace flashflow::cuda::gemm_rows_sm90

#endif  // KERNELS_CUDA_GEMM_ROWS_SM90_CUH_
