// The kernel behind GemmSm90. See gemm.h for what it computes.
//
// A CTA is persistent and has three warpgroups. One thread of the first streams k-blocks of 128 bytes of rows of `a`
// and `w` through a ring in shared memory. The other two each own whole output tiles, in turn: while one applies its
// epilogue, the other keeps the tensor cores busy ("ping-pong"). A warpgroup holds a tile of 128 x tile_n in its
// registers: two products of 64 rows share each block of `w`.
//
// Two CTAs form a cluster: they work on tiles one below the other, so that each loads one half of the block of `w` and
// sends it to both.
#ifndef KERNELS_CUDA_GEMM_SM90_CUH_
#define KERNELS_CUDA_GEMM_SM90_CUH_

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/hopper_barrier.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tensor_map.h"

namespace flashflow::cuda::gemm_sm90 {

inline constexpr int kTileM = 128;
inline constexpr int kTileKBytes = 128;
inline constexpr int kClusterSize = 2;
inline constexpr int kChunkColumns = 32;  // the epilogue's step
inline constexpr int kConsumers = 2;      // warpgroups
inline constexpr int kThreads = (1 + kConsumers) * 128;
inline constexpr int kRasterRows = 8;  // rows of cluster tiles that are worked on together, for reuse in L2

// What is known when the kernel is compiled.
template <class Element_, int kTileN_, Activation kActivation_, bool kGated_, bool kResidual_, bool kF32Output_>
struct Traits {
  using Element = Element_;  // of a and w
  static constexpr bool kInteger = std::is_same_v<Element, int8_t>;
  using Sum = std::conditional_t<kInteger, int32_t, float>;
  using Narrow = std::conditional_t<kInteger, __nv_bfloat16, Element>;  // of the residual, and of d unless f32
  static constexpr int kTileN = kTileN_;
  static constexpr Activation kActivation = kActivation_;
  static constexpr bool kGated = kGated_;
  static constexpr bool kResidual = kResidual_;
  static constexpr bool kF32Output = kF32Output_;

  static constexpr int kTileK = kTileKBytes / static_cast<int>(sizeof(Element));
  static constexpr int kOutputColumns = kGated ? kTileN / 2 : kTileN;
  static constexpr int kChunks = kOutputColumns / kChunkColumns;
  static constexpr int kChunkBytes = kTileM * kChunkColumns * (kF32Output ? 4 : 2);
  // A warpgroup's; with four, the scales of s8 would cost a stage.
  static constexpr int kChunkBuffers = kF32Output ? 2 : kInteger ? 3 : 4;
  static constexpr int kABytes = kTileM * kTileKBytes;
  static constexpr int kBBytes = kTileN * kTileKBytes;
  static constexpr int kStageBytes = kABytes + kBBytes;
  static constexpr int kEpilogueBytes = kConsumers * kChunkBuffers * kChunkBytes;
  static constexpr int kMaxSharedBytes = 227 * 1024;
  // A column's part in the epilogue: its bias, with s8 its scale and its bias.
  using Column = std::conditional_t<kInteger, float2, float>;
  static constexpr int kColumnsOffset = 256;  // from the barriers
  static constexpr int kBarrierBytes = kColumnsOffset + kConsumers * kTileN * static_cast<int>(sizeof(Column));
  static constexpr int kStages = (kMaxSharedBytes - kBarrierBytes - kEpilogueBytes) / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + kEpilogueBytes + kBarrierBytes;

  static_assert(kOutputColumns % kChunkColumns == 0);
  static_assert(kStages >= 3);
};

struct Params {
  const float* bias;
  const float* a_scale;
  const float* w_scale;
  int m, n;     // of d
  int tiles_m;  // in cluster tiles of 2 * kTileM rows
  int tiles_n;
  int k_blocks;
  int second_half;  // the row of w at which the second half of a block starts, less that of the first
  int step_n;       // columns of d a tile
};

struct TileCoordinates {
  int m, n;
};

// Bands of kRasterRows rows of tiles; within a band, down the rows first.
__device__ __forceinline__ TileCoordinates Locate(const Params& params, int tile) {
  const int band_tiles = kRasterRows * params.tiles_n;
  const int band = tile / band_tiles;
  const int rest = tile - band * band_tiles;
  const int rows = min(kRasterRows, params.tiles_m - band * kRasterRows);
  const int n = rest / rows;
  return {band * kRasterRows + rest - n * rows, n};
}

template <Activation kActivation>
__device__ __forceinline__ float Activate(float x) {
  if constexpr (kActivation == Activation::kGeluTanh) {
    return GeluTanh(x);
  } else if constexpr (kActivation == Activation::kGeluErf) {
    return GeluErf(x);
  } else if constexpr (kActivation == Activation::kSilu) {
    return Silu(x);
  } else {
    return x;
  }
}

// What the epilogue needs of column `column` of w's rows. Without a bias a s8 sum gets -0, which leaves its bits alone.
template <class T>
__device__ __forceinline__ typename T::Column LoadColumn(const Params& params, int column, bool inside) {
  if constexpr (T::kInteger) {
    if (!inside) return make_float2(0, 0);
    return make_float2(params.w_scale[column], params.bias == nullptr ? -0.0f : params.bias[column]);
  } else {
    return inside && params.bias != nullptr ? params.bias[column] : 0.0f;
  }
}

// The linear layer's result in two neighboring columns.
__device__ __forceinline__ float2 Linear(const float* sum, const float* columns, float) {
  const float2 bias = *reinterpret_cast<const float2*>(columns);
  return make_float2(sum[0] + bias.x, sum[1] + bias.y);
}
// Step by step as gemm.h has it: nothing may be contracted.
__device__ __forceinline__ float2 Linear(const int32_t* sum, const float2* columns, float row_scale) {
  const float4 c = *reinterpret_cast<const float4*>(columns);  // scale, bias, scale, bias
  return make_float2(__fadd_rn(__fmul_rn(__int2float_rn(sum[0]), __fmul_rn(row_scale, c.x)), c.y),
                     __fadd_rn(__fmul_rn(__int2float_rn(sum[1]), __fmul_rn(row_scale, c.z)), c.w));
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    GemmKernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_w,
               const __grid_constant__ CUtensorMap map_d, const __grid_constant__ CUtensorMap map_residual,
               const __grid_constant__ Params params) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using namespace hopper;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t stages = SharedAddress(shared);
  const uint32_t chunks = stages + T::kStages * T::kStageBytes;
  const uint32_t barriers = chunks + T::kEpilogueBytes;
  const auto full = [&](uint32_t stage) { return barriers + 8 * stage; };
  const auto empty = [&](uint32_t stage) { return barriers + 8 * (T::kStages + stage); };
  const auto residual_full = [&](uint32_t consumer, uint32_t buffer) {
    return barriers + 8 * (2 * T::kStages + consumer * T::kChunkBuffers + buffer);
  };

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / 128, 0);
  const uint32_t rank = ClusterRank();

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < T::kStages; ++stage) {
      BarrierInit(full(stage), 1);
      BarrierInit(empty(stage), 4 * kClusterSize);  // the warps of the warpgroup in each CTA that read the stage
    }
    for (int i = 0; i < kConsumers * T::kChunkBuffers; ++i) BarrierInit(residual_full(0, i), 1);
    BarrierInitFence();
    PrefetchTensorMap(&map_a);
    PrefetchTensorMap(&map_w);
    PrefetchTensorMap(&map_d);
  }
  __syncwarp();
  ClusterSync();
  LetNextKernelStart();
  AwaitPreviousKernel();

  const int clusters = gridDim.x / kClusterSize;
  const int first_tile = blockIdx.x / kClusterSize;
  const int tiles = params.tiles_m * params.tiles_n;

  if (warpgroup == 0) {
    GiveRegisters<40>();
    if (threadIdx.x == 0) {
      RingPosition<T::kStages> ring;
      for (int tile = first_tile; tile < tiles; tile += clusters) {
        const TileCoordinates at = Locate(params, tile);
        const int row_a = (at.m * kClusterSize + rank) * kTileM;
        const int row_w = at.n * params.step_n + rank * params.second_half;
        for (int block = 0; block < params.k_blocks; ++block) {
          BarrierWaitCluster(empty(ring.stage), ring.parity ^ 1);
          const uint32_t stage = stages + ring.stage * T::kStageBytes;
          const uint32_t half = stage + T::kABytes + rank * (T::kBBytes / kClusterSize);
          BarrierArriveExpect(full(ring.stage), T::kStageBytes);
          TensorLoad2d(stage, &map_a, full(ring.stage), block * T::kTileK, row_a);
          TensorLoad2dMulticast(half, &map_w, full(ring.stage), block * T::kTileK, row_w, (1 << kClusterSize) - 1);
          ring.Next();
        }
      }
    }
  } else {
    TakeRegisters<232>();
    const uint32_t consumer = warpgroup - 1;
    const int thread = threadIdx.x % 128;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const bool leader = thread == 0;
    const uint32_t buffers = chunks + consumer * T::kChunkBuffers * T::kChunkBytes;
    using Column = T::Column;
    using Narrow = T::Narrow;
    Column* columns =
        reinterpret_cast<Column*>(shared + (barriers - stages) + T::kColumnsOffset) + consumer * T::kTileN;
    uint32_t residual_parity = 0;  // a bit a buffer

    RingPosition<T::kStages> ring;
    if (consumer == 1) ring.Advance(params.k_blocks);
    // Named barriers 1 and 2 are a warpgroup's own, 3 and 4 its turn at the ring: a wait on a barrier of the ring knows
    // one phase from the next, no more, so a warpgroup starts once the other has seen all of its own blocks.
    const auto await_turn = [&] { NamedBarrierSync(3 + consumer, 256); };
    const auto pass_turn = [&] { NamedBarrierArrive(4 - consumer, 256); };
    if (consumer == 1) pass_turn();

    int tile = first_tile + consumer * clusters;
    for (; tile < tiles; tile += kConsumers * clusters) {
      const TileCoordinates at = Locate(params, tile);
      const int row_d = (at.m * kClusterSize + rank) * kTileM;
      const int column_d = at.n * params.step_n;

      const auto load_residual = [&](int chunk) {
        const uint32_t buffer = chunk % T::kChunkBuffers;
        BarrierArriveExpect(residual_full(consumer, buffer), T::kChunkBytes);
        TensorLoad2d(buffers + buffer * T::kChunkBytes, &map_residual, residual_full(consumer, buffer),
                     column_d + chunk * kChunkColumns, row_d);
      };
      if constexpr (T::kResidual) {
        if (leader) {
          StoreWaitRead<0>();
          for (int chunk = 0; chunk < min(T::kChunks, T::kChunkBuffers); ++chunk) load_residual(chunk);
        }
        __syncwarp();
      }

      // This tile's columns; the turn's barrier makes them visible.
      for (int i = thread; i < T::kTileN; i += 128) {
        const int half = i / T::kOutputColumns;  // 1 only where gated
        const int column = column_d + i - half * T::kOutputColumns;
        columns[i] = LoadColumn<T>(params, half * params.n + column, column < params.n);
      }
      float row_scale[2][2] = {};  // of the rows of d that this thread holds
      if constexpr (T::kInteger) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = row_d + i / 2 * 64 + warp * 16 + lane / 4 + i % 2 * 8;
          if (row < params.m) row_scale[i / 2][i % 2] = params.a_scale[row];
        }
      }
      await_turn();
      typename T::Sum accumulator[2][T::kTileN / 2];
      uint32_t previous = 0;
      for (int block = 0; block < params.k_blocks; ++block) {
        BarrierWait(full(ring.stage), ring.parity);
        const uint32_t stage = stages + ring.stage * T::kStageBytes;
        const uint64_t a = TileDescriptor(stage);
        const uint64_t b = TileDescriptor(stage + T::kABytes);
        WgmmaFence();
#pragma unroll
        for (int k = 0; k < kTileKBytes / 32; ++k) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            // 64 rows are 8 KB; descriptors count units of 16 bytes.
            WgmmaShared<T::kTileN, typename T::Element>::Run(accumulator[half], a + half * 512 + 2 * k, b + 2 * k,
                                                             block > 0 || k > 0);
          }
        }
        WgmmaCommit();
        WgmmaWait<1>();
        if (block > 0 && lane < kClusterSize) BarrierArriveCluster(empty(previous), lane);
        previous = ring.stage;
        ring.Next();
      }
      pass_turn();
      WgmmaWait<0>();
      KeepInRegisters(accumulator[0]);
      KeepInRegisters(accumulator[1]);
      if (lane < kClusterSize) BarrierArriveCluster(empty(previous), lane);
      ring.Advance(params.k_blocks);  // the other warpgroup's tile

      // The epilogue, kChunkColumns columns at a time: registers, shared memory, copy engine.
#pragma unroll
      for (int chunk = 0; chunk < T::kChunks; ++chunk) {
        const uint32_t buffer = buffers + (chunk % T::kChunkBuffers) * T::kChunkBytes;
        if constexpr (T::kResidual) {
          BarrierWait(residual_full(consumer, chunk % T::kChunkBuffers),
                      (residual_parity >> (chunk % T::kChunkBuffers)) & 1);
          residual_parity ^= 1u << (chunk % T::kChunkBuffers);
        } else {
          if (leader) {
            // The last tile's stores have had a mainloop's time; which of them used this buffer is not worth knowing.
            if (chunk == 0) StoreWaitRead<0>();
            if (chunk >= T::kChunkBuffers) StoreWaitRead<T::kChunkBuffers - 1>();
          }
          NamedBarrierSync(1 + consumer, 128);
        }

        // Arithmetic for many elements at once, so that independent work hides the latency of each step: for the whole
        // chunk, or for s8, whose scales take registers, for half of it.
        constexpr int kElements = kChunkColumns / 2;
        constexpr int kAtOnce = T::kInteger ? kElements / 2 : kElements;
        float values[2][kElements];
        const auto compute = [&](int first) {
#pragma unroll
          for (int i = first; i < first + kAtOnce; i += 2) {
            // A thread's columns are two in each group of eight; elements i and i + 1 are in row 0 or 8 of the same
            // two.
            const Column* at = columns + chunk * kChunkColumns + i / 4 * 8 + 2 * (lane % 4);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const auto* sum = accumulator[half] + chunk * kElements + i;
              const float scale = row_scale[half][i / 2 % 2];
              const float2 z = Linear(sum, at, scale);
              float* x = values[half] + i;
              x[0] = Activate<T::kActivation>(z.x);
              x[1] = Activate<T::kActivation>(z.y);
              if constexpr (T::kGated) {
                const float2 up = Linear(sum + T::kTileN / 4, at + T::kOutputColumns, scale);
                x[0] *= up.x;
                x[1] *= up.y;
              }
            }
          }
        };
#pragma unroll
        for (int pair = 0; pair < kChunkColumns / 16; ++pair) {
          if (pair * 8 % kAtOnce == 0) compute(pair * 8);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float* x = values[half] + pair * 8;  // 16 columns of 16 rows: one stmatrix
            const int row = half * 64 + warp * 16;
            if constexpr (T::kF32Output) {
#pragma unroll
              for (int i = 0; i < 8; i += 2) {
                const int r = row + lane / 4 + (i & 2) * 4;
                const int c = pair * 16 + (i / 4) * 8 + 2 * (lane % 4);
                asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(buffer + Swizzle128(r * 128 + c * 4)), "f"(x[i]),
                             "f"(x[i + 1])
                             : "memory");
              }
            } else {
              const uint32_t address = buffer + Swizzle64((row + lane % 16) * 64 + pair * 32 + (lane / 16) * 16);
              if constexpr (T::kResidual) {
                uint32_t residual[4];
                LoadMatrix4(address, residual);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                  const float2 added = UnpackPair<Narrow>(residual[i]);
                  x[2 * i] += added.x;
                  x[2 * i + 1] += added.y;
                }
              }
              StoreMatrix4(address, PackPair<Narrow>(x[0], x[1]), PackPair<Narrow>(x[2], x[3]),
                           PackPair<Narrow>(x[4], x[5]), PackPair<Narrow>(x[6], x[7]));
            }
          }
        }

        AsyncProxyFence();
        NamedBarrierSync(1 + consumer, 128);
        if (leader) {
          TensorStore2d(&map_d, buffer, column_d + chunk * kChunkColumns, row_d);
          StoreCommit();
          if constexpr (T::kResidual) {
            // The buffer before this one: its store has had a chunk's time to read it.
            if (chunk > 0 && chunk - 1 + T::kChunkBuffers < T::kChunks) {
              StoreWaitRead<1>();
              load_residual(chunk - 1 + T::kChunkBuffers);
            }
          }
        }
        __syncwarp();
      }
    }
    if (tile - clusters < tiles) await_turn();  // the turn that the last tile's warpgroup passed on
    if (leader) StoreWaitRead<0>();
  }
  // A CTA stays while its neighbor may still write to its shared memory or arrive on its barriers.
  __syncwarp();
  ClusterSync();
#else
  __trap();  // compiled for an architecture without wgmma: GemmSm90 launches it on Hopper alone
#endif
}

// Launches the kernel of traits T on a GPU of `sms` multiprocessors.
template <class T>
cudaError_t Launch(const GemmArgs& args, int sms, cudaStream_t stream) {
  const int rows_w = args.gated ? 2 * args.n : args.n;
  const auto encode = [](const void* data, int64_t rows, int64_t columns, int64_t stride, int box_rows, int box_columns,
                         int swizzle, Dtype dtype, CUtensorMap* map) {
    TensorMapDesc desc;
    desc.data = data;
    desc.dtype = dtype;
    desc.rank = 2;
    desc.extents[0] = columns;
    desc.extents[1] = rows;
    desc.strides[0] = 1;
    desc.strides[1] = stride;
    desc.box[0] = box_columns;
    desc.box[1] = box_rows;
    desc.swizzle_bytes = swizzle;
    return EncodeTensorMap(desc, map);
  };
  constexpr Dtype kElement = kDtypeOf<typename T::Element>;
  constexpr Dtype kNarrow = kDtypeOf<typename T::Narrow>;
  CUtensorMap map_a, map_w, map_d, map_residual;
  if (cudaError_t error = encode(args.a, args.m, args.k, args.lda, kTileM, T::kTileK, 128, kElement, &map_a))
    return error;
  if (cudaError_t error = encode(args.w, rows_w, args.k, args.ldw, T::kTileN / 2, T::kTileK, 128, kElement, &map_w)) {
    return error;
  }
  constexpr int kSwizzleD = T::kF32Output ? 128 : 64;
  if (cudaError_t error = encode(args.d, args.m, args.n, args.ldd, kTileM, kChunkColumns, kSwizzleD,
                                 T::kF32Output ? Dtype::kF32 : kNarrow, &map_d)) {
    return error;
  }
  map_residual = map_d;
  if constexpr (T::kResidual) {
    if (cudaError_t error = encode(args.residual, args.m, args.n, args.ld_residual, kTileM, kChunkColumns, 64, kNarrow,
                                   &map_residual)) {
      return error;
    }
  }

  Params params;
  params.bias = args.bias;
  params.a_scale = args.a_scale;
  params.w_scale = args.w_scale;
  params.m = args.m;
  params.n = args.n;
  params.tiles_m = (args.m + kClusterSize * kTileM - 1) / (kClusterSize * kTileM);
  params.tiles_n = (args.n + T::kOutputColumns - 1) / T::kOutputColumns;
  params.k_blocks = (args.k + T::kTileK - 1) / T::kTileK;
  params.second_half = args.gated ? args.n : T::kTileN / 2;
  params.step_n = T::kOutputColumns;

  const int clusters = min(params.tiles_m * params.tiles_n, sms / kClusterSize);
  return LaunchOverlapped(GemmKernel<T>, clusters * kClusterSize, kClusterSize, kThreads, T::kSharedBytes, stream,
                          map_a, map_w, map_d, map_residual, params);
}

// Picks the kernel of one element type and tile width; cudaErrorNotSupported where there is none. One file a pair
// defines it.
template <Dtype kDtype, int kTileN>
cudaError_t LaunchTile(const GemmArgs& args, int sms, cudaStream_t stream);

template <class Element, int kTileN>
cudaError_t LaunchTileOf(const GemmArgs& args, int sms, cudaStream_t stream) {
  using enum Activation;
  if (args.gated) {
    if constexpr (kTileN / 2 % kChunkColumns == 0) {
      if (args.activation == kSilu && args.residual == nullptr && !args.f32_output) {
        return Launch<Traits<Element, kTileN, kSilu, true, false, false>>(args, sms, stream);
      }
    }
    return cudaErrorNotSupported;
  }
  if (args.f32_output) {
    if (args.activation != kNone || args.residual != nullptr) return cudaErrorNotSupported;
    return Launch<Traits<Element, kTileN, kNone, false, false, true>>(args, sms, stream);
  }
  if (args.residual != nullptr) {
    if (args.activation != kNone) return cudaErrorNotSupported;
    return Launch<Traits<Element, kTileN, kNone, false, true, false>>(args, sms, stream);
  }
  switch (args.activation) {
    case kNone:
      return Launch<Traits<Element, kTileN, kNone, false, false, false>>(args, sms, stream);
    case kGeluTanh:
      return Launch<Traits<Element, kTileN, kGeluTanh, false, false, false>>(args, sms, stream);
    case kGeluErf:
      return Launch<Traits<Element, kTileN, kGeluErf, false, false, false>>(args, sms, stream);
    case kSilu:
      return cudaErrorNotSupported;
  }
  return cudaErrorInvalidValue;
}

}  // namespace flashflow::cuda::gemm_sm90

#endif  // KERNELS_CUDA_GEMM_SM90_CUH_
