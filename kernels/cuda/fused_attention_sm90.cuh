// The kernel behind FusedAttentionSm90. See fused_attention.h for what it computes.
//
// A CTA is persistent and works on tiles of kWarpgroups * 64 queries of one head. One thread of the first warpgroup
// streams keys and values, kBlockKeys at a time, through rings in shared memory. Each other warpgroup owns 64 queries:
// it keeps their scores, their output and the softmax's running maximum and sum in registers. The product of the next
// block's scores is issued before the product of this block's probabilities with v, and the softmax works while the
// latter runs (the method of FlashAttention-3: Shah et al., 2024).
//
// The warpgroups take turns at issuing products, one block a turn, so that while one's run the others' softmaxes do.
// Under a causal mask each stops at its own diagonal and only passes its turn on. Tiles are handed out longest first,
// in a snake over the CTAs, which levels the triangle's unequal rows without a counter in device memory.
#ifndef KERNELS_CUDA_FUSED_ATTENTION_SM90_CUH_
#define KERNELS_CUDA_FUSED_ATTENTION_SM90_CUH_

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/hopper_barrier.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tensor_map.h"

namespace flashflow::cuda::attention_sm90 {

inline constexpr int kBlockKeys = 128;
inline constexpr int kWarpgroupQueries = 64;
inline constexpr int kBlockColumns = 64;  // of a tile in shared memory: 128 bytes

enum class MaskKind { kNone, kCausal, kWindow };  // kWindow: causal, and the last keys only

template <int kHeadDim_, int kWarpgroups_, int kStages_, MaskKind kMask>
struct Traits {
  static constexpr int kHeadDim = kHeadDim_;        // a multiple of 16
  static constexpr int kWarpgroups = kWarpgroups_;  // that compute
  static constexpr int kStages = kStages_;          // of each ring
  static constexpr bool kCausal = kMask != MaskKind::kNone;
  static constexpr bool kWindow = kMask == MaskKind::kWindow;

  static constexpr int kThreads = (1 + kWarpgroups) * 128;
  static constexpr int kProducerRegisters = kWarpgroups == 2 ? 24 : 32;
  static constexpr int kConsumerRegisters = kWarpgroups == 2 ? 240 : 160;
  static constexpr int kTileQueries = kWarpgroups * kWarpgroupQueries;
  // Columns past head_dim are zeros that the copy engine makes up. No product reads whole 16 of them.
  static constexpr int kColumnBlocks = (kHeadDim + kBlockColumns - 1) / kBlockColumns;
  static constexpr int kRowBytes = kColumnBlocks * kBlockColumns * 2;
  static constexpr int kQueryBytes = kWarpgroupQueries * kRowBytes;  // of one warpgroup
  static constexpr int kKeyBytes = kBlockKeys * kRowBytes;           // of one block of keys, or of values
  static constexpr int kQuerySlots = 2;  // the next tile's queries arrive while this tile's are in use
  static constexpr int kRingBytes = kStages * kKeyBytes;
  static constexpr int kBarriers = 4 * kStages + 2 * kQuerySlots * kWarpgroups;
  static constexpr int kSharedBytes = kWarpgroups * kQuerySlots * kQueryBytes + 2 * kRingBytes + 8 * kBarriers;
  static_assert(kHeadDim % 16 == 0);
  static_assert(kSharedBytes <= 227 * 1024);
};

struct Params {
  int heads, queries_per_kv_head, q_tokens, kv_tokens;
  int window;       // of Traits with one
  int query_tiles;  // a head
  int band_tiles;   // neighboring tiles of a head that are handed out one after another and share keys in L2
  int all_heads;    // batch * heads
  float scale_log2;
};

struct Tile {
  int query;  // the first; below zero where the tile's first warpgroups have nothing to do
  int head, batch;
};

// Tile `index` of the order in which they are handed out: bands of all heads, the longest first.
template <class T>
__device__ __forceinline__ Tile Locate(const Params& params, int index) {
  const int tiles_a_band = params.band_tiles * params.all_heads;
  const int band = index / tiles_a_band;
  const int rest = index - band * tiles_a_band;
  const int first = band * params.band_tiles;
  const int height = min(params.band_tiles, params.query_tiles - first);
  const int head = rest / height;
  const int tile = first + rest - head * height;
  const int batch = head / params.heads;
  // Tiles end at the last query's warpgroup: if one is incomplete, it is the shortest.
  const int warpgroups = (params.q_tokens + kWarpgroupQueries - 1) / kWarpgroupQueries;
  return {(warpgroups - (tile + 1) * T::kWarpgroups) * kWarpgroupQueries, head - batch * params.heads, batch};
}

// Blocks of keys that queries [0, end) may see.
template <class T>
__device__ __forceinline__ int KeyBlocks(const Params& params, int end) {
  const int all = (params.kv_tokens + kBlockKeys - 1) / kBlockKeys;
  if (!T::kCausal) return all;
  return min(all, (end + params.kv_tokens - params.q_tokens + kBlockKeys - 1) / kBlockKeys);
}

// The first block of keys that queries from `query` on may see.
template <class T>
__device__ __forceinline__ int FirstKeyBlock(const Params& params, int query) {
  if (!T::kWindow) return 0;
  return max(0, max(0, query) + 1 + params.kv_tokens - params.q_tokens - params.window) / kBlockKeys;
}

// The maximum that probabilities are relative to follows the true one only when that has grown by more than a factor of
// 2^kLazyGrowth: they then stay far below overflow, and most blocks leave older sums as they are.
inline constexpr float kLazyGrowth = 8.0f;

// The maximum of a row that has seen no key. Finite, so that a block in which it sees none either leaves it as it is.
inline constexpr float kNothingSeen = -1e30f;

// The running softmax of a thread's two rows: query rows lane / 4 and that + 8 of its warp's 16.
struct RowState {
  float max[2] = {kNothingSeen, kNothingSeen};  // of the raw scores, or less by up to kLazyGrowth
  float sum[2] = {0, 0};                        // this thread's columns only
};

// Turns raw scores into unnormalized probabilities and gives the factors that bring older sums to the new maximum.
__device__ __forceinline__ void Softmax(float (&s)[kBlockKeys / 2], RowState& rows, float (&rescale)[2],
                                        float scale_log2) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float maximum = rows.max[row];
#pragma unroll
    for (int i = 0; i < kBlockKeys / 8; ++i) {
      maximum = fmaxf(maximum, fmaxf(s[4 * i + 2 * row], s[4 * i + 2 * row + 1]));
    }
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, 2));
    const float growth = (maximum - rows.max[row]) * scale_log2;
    const bool grown = growth > kLazyGrowth;
    rescale[row] = grown ? Exp2(-growth) : 1.0f;
    if (grown) rows.max[row] = maximum;
    const float offset = rows.max[row] * scale_log2;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kBlockKeys / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = s[4 * i + 2 * row + e];
        x = Exp2(fmaf(x, scale_log2, -offset));
        sum += x;
      }
    }
    rows.sum[row] = fmaf(rows.sum[row], rescale[row], sum);
  }
}

// Sets to -inf what a thread's two rows may not see: key columns, counted from the block's first, at or past
// limit[row], and with a window those before limit[row] - window.
template <class T>
__device__ __forceinline__ void Mask(float (&s)[kBlockKeys / 2], const int (&limit)[2], int window) {
#pragma unroll
  for (int i = 0; i < kBlockKeys / 2; ++i) {
    const int column = 8 * (i / 4) + i % 2, end = limit[i / 2 % 2];
    if (column >= end || (T::kWindow && column < end - window)) s[i] = -INFINITY;
  }
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1)
    FusedAttentionKernel(const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_k,
                         const __grid_constant__ CUtensorMap map_v, const __grid_constant__ CUtensorMap map_o,
                         const __grid_constant__ Params params) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using namespace hopper;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t ring_k = SharedAddress(shared);
  const uint32_t ring_v = ring_k + T::kRingBytes;
  const uint32_t queries = ring_v + T::kRingBytes;
  const uint32_t barriers = queries + T::kWarpgroups * T::kQuerySlots * T::kQueryBytes;
  const auto k_full = [&](uint32_t stage) { return barriers + 8 * stage; };
  const auto k_empty = [&](uint32_t stage) { return barriers + 8 * (T::kStages + stage); };
  const auto v_full = [&](uint32_t stage) { return barriers + 8 * (2 * T::kStages + stage); };
  const auto v_empty = [&](uint32_t stage) { return barriers + 8 * (3 * T::kStages + stage); };
  const auto q_full = [&](uint32_t warpgroup, uint32_t slot) {
    return barriers + 8 * (4 * T::kStages + warpgroup * T::kQuerySlots + slot);
  };
  const auto q_empty = [&](uint32_t warpgroup, uint32_t slot) {
    return q_full(warpgroup, slot) + 8 * T::kQuerySlots * T::kWarpgroups;
  };
  const auto query_slot = [&](uint32_t warpgroup, uint32_t slot) {
    return queries + (warpgroup * T::kQuerySlots + slot) * T::kQueryBytes;
  };

  const int role = __shfl_sync(~0u, threadIdx.x / 128, 0);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < T::kStages; ++stage) {
      BarrierInit(k_full(stage), 1);
      BarrierInit(v_full(stage), 1);
      BarrierInit(k_empty(stage), 4 * T::kWarpgroups);  // one arrival a warp
      BarrierInit(v_empty(stage), 4 * T::kWarpgroups);
    }
    for (int i = 0; i < T::kWarpgroups * T::kQuerySlots; ++i) {
      BarrierInit(q_full(0, i), 1);
      BarrierInit(q_empty(0, i), 1);
    }
    BarrierInitFence();
    PrefetchTensorMap(&map_q);
    PrefetchTensorMap(&map_k);
    PrefetchTensorMap(&map_v);
    PrefetchTensorMap(&map_o);
  }
  __syncthreads();
  LetNextKernelStart();
  AwaitPreviousKernel();

  const int tiles = params.query_tiles * params.all_heads;
  const int grid = gridDim.x;
  const auto tile_of_round = [&](int round) {
    return round * grid + (round % 2 == 0 ? static_cast<int>(blockIdx.x) : grid - 1 - static_cast<int>(blockIdx.x));
  };

  if (role == 0) {
    GiveRegisters<T::kProducerRegisters>();
    if (threadIdx.x == 0) {
      RingPosition<T::kStages> ring;
      RingPosition<T::kQuerySlots> slot;
      for (int round = 0; round * grid < tiles; ++round) {
        const int index = tile_of_round(round);
        if (index >= tiles) continue;
        const Tile tile = Locate<T>(params, index);
        const int kv_head = tile.head / params.queries_per_kv_head;
        const auto load = [&](uint32_t to, const CUtensorMap* map, uint32_t barrier, int rows, int token, int head) {
          BarrierArriveExpect(barrier, rows * T::kRowBytes);
#pragma unroll
          for (int block = 0; block < T::kColumnBlocks; ++block) {
            TensorLoad4d(to + block * rows * kBlockColumns * 2, map, barrier, block * kBlockColumns, token, head,
                         tile.batch);
          }
        };
        for (int w = 0; w < T::kWarpgroups; ++w) {
          BarrierWait(q_empty(w, slot.stage), slot.parity ^ 1);
          load(query_slot(w, slot.stage), &map_q, q_full(w, slot.stage), kWarpgroupQueries,
               tile.query + w * kWarpgroupQueries, tile.head);
        }
        slot.Next();
        const int blocks = KeyBlocks<T>(params, tile.query + T::kTileQueries);
        for (int block = FirstKeyBlock<T>(params, tile.query); block < blocks; ++block) {
          BarrierWait(k_empty(ring.stage), ring.parity ^ 1);
          load(ring_k + ring.stage * T::kKeyBytes, &map_k, k_full(ring.stage), kBlockKeys, block * kBlockKeys, kv_head);
          BarrierWait(v_empty(ring.stage), ring.parity ^ 1);
          load(ring_v + ring.stage * T::kKeyBytes, &map_v, v_full(ring.stage), kBlockKeys, block * kBlockKeys, kv_head);
          ring.Next();
        }
      }
    }
  } else {
    TakeRegisters<T::kConsumerRegisters>();
    const uint32_t warpgroup = role - 1;
    const int thread = threadIdx.x % 128;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const bool leader = thread == 0;
    const auto release = [&](uint32_t barrier) {
      if (lane == 0) BarrierArrive(barrier);
    };
    // Named barriers 1 to kWarpgroups are a warpgroup's own, the next kWarpgroups its turns.
    const auto await_turn = [&] { NamedBarrierSync(1 + T::kWarpgroups + warpgroup, 256); };
    const auto pass_turn = [&] { NamedBarrierArrive(1 + T::kWarpgroups + (warpgroup + 1) % T::kWarpgroups, 256); };
    if (warpgroup == T::kWarpgroups - 1) pass_turn();

    RingPosition<T::kStages> ring;  // of the block whose scores are next
    RingPosition<T::kQuerySlots> slot;
    uint32_t storing = 0;  // the barrier to arrive on once the last tile's output has left its query slot; 0 for none
    for (int round = 0; round * grid < tiles; ++round) {
      const int index = tile_of_round(round);
      if (index >= tiles) continue;
      const Tile tile = Locate<T>(params, index);
      const int first_query = tile.query + warpgroup * kWarpgroupQueries;
      const int all_blocks = KeyBlocks<T>(params, tile.query + T::kTileQueries);
      const int first_block = FirstKeyBlock<T>(params, tile.query);
      const int blocks = first_query >= 0 ? KeyBlocks<T>(params, first_query + kWarpgroupQueries) : first_block;
      // Blocks that every one of the warpgroup's queries sees whole.
      const int open_keys =
          T::kCausal ? min(params.kv_tokens, first_query + 1 + params.kv_tokens - params.q_tokens) : params.kv_tokens;
      const int open_blocks = min(blocks, open_keys / kBlockKeys);
      const int first_open_block =
          T::kWindow ? (max(0, first_query + kWarpgroupQueries + params.kv_tokens - params.q_tokens - params.window) +
                        kBlockKeys - 1) /
                           kBlockKeys
                     : 0;

      const uint32_t q_shared = query_slot(warpgroup, slot.stage);
      BarrierWait(q_full(warpgroup, slot.stage), slot.parity);

      float s[kBlockKeys / 2];
      float o[T::kHeadDim / 2];
      uint32_t p[kBlockKeys / 4];
      RowState rows;
      float rescale[2];

      const auto issue_scores = [&]() {
        const uint64_t q = TileDescriptor(q_shared);
        const uint64_t k = TileDescriptor(ring_k + ring.stage * T::kKeyBytes);
        WgmmaFence();
#pragma unroll
        for (int step = 0; step < T::kHeadDim / 16; ++step) {
          // A step is 32 bytes along the rows; each column block of 64 lies behind the one before it.
          const int within = step % 4 * 2;
          const int block = step / 4;
          WgmmaShared<kBlockKeys>::Run(s, q + within + block * (kWarpgroupQueries * 128 / 16),
                                       k + within + block * (kBlockKeys * 128 / 16), step > 0);
        }
        WgmmaCommit();
      };
      const auto issue_values = [&](uint32_t stage) {
        const uint64_t v = TileDescriptor(ring_v + stage * T::kKeyBytes, kBlockKeys * 128);
        WgmmaFence();
#pragma unroll
        for (int step = 0; step < kBlockKeys / 16; ++step) {
          WgmmaRegisters<T::kHeadDim>::Run(o, p[4 * step], p[4 * step + 1], p[4 * step + 2], p[4 * step + 3],
                                           v + step * (16 * 128 / 16));
        }
        WgmmaCommit();
      };
      const auto await_next_keys = [&] {
        RingPosition<T::kStages> next = ring;
        next.Next();
        BarrierWait(k_full(next.stage), next.parity);
      };
      const auto mask = [&](int block) {
        const int row = first_query + warp * 16 + lane / 4;
        int limit[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int visible = T::kCausal ? min(params.kv_tokens, row + 8 * i + 1 + params.kv_tokens - params.q_tokens)
                                         : params.kv_tokens;
          limit[i] = visible - block * kBlockKeys - 2 * (lane % 4);
        }
        Mask<T>(s, limit, params.window);
      };
      const auto round_probabilities = [&]() {
#pragma unroll
        for (int i = 0; i < kBlockKeys / 4; ++i) p[i] = PackBf16(s[2 * i], s[2 * i + 1]);
      };

      if (blocks > first_block) {
#pragma unroll
        for (int i = 0; i < T::kHeadDim / 2; ++i) o[i] = 0;
        BarrierWait(k_full(ring.stage), ring.parity);
        await_turn();
        issue_scores();
        pass_turn();
        if (leader && storing != 0) {
          StoreWaitRead<0>();
          BarrierArrive(storing);
        }
        __syncwarp();
        WgmmaWait<0>();
        KeepInRegisters(s);
        release(k_empty(ring.stage));
        if (open_blocks <= first_block || first_block < first_open_block) mask(first_block);
        Softmax(s, rows, rescale, params.scale_log2);
        round_probabilities();
        if (blocks > first_block + 1) await_next_keys();

        const auto step = [&](int block, auto masked) {
          const RingPosition<T::kStages> before = ring;
          ring.Next();
          await_turn();
          issue_scores();
          BarrierWait(v_full(before.stage), before.parity);
          issue_values(before.stage);
          pass_turn();
          WgmmaWait<1>();
          KeepInRegisters(s);
          release(k_empty(ring.stage));
          if constexpr (decltype(masked)::value) mask(block);
          Softmax(s, rows, rescale, params.scale_log2);
          // Waiting for the next keys here, and not where they are used, also keeps ptxas from moving the wait for the
          // product of values up into the softmax.
          if (block + 1 < blocks) await_next_keys();
          WgmmaWait<0>();
          KeepInRegisters(o);
          release(v_empty(before.stage));
          if (__any_sync(~0u, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
            for (int i = 0; i < T::kHeadDim / 2; ++i) o[i] *= rescale[i / 2 % 2];
          }
          round_probabilities();
        };
        int block = first_block + 1;
        if constexpr (T::kWindow) {
          for (; block < min(first_open_block, blocks); ++block) step(block, std::true_type());
        }
        for (; block < open_blocks; ++block) step(block, std::false_type());
        for (; block < blocks; ++block) step(block, std::true_type());

        BarrierWait(v_full(ring.stage), ring.parity);
        issue_values(ring.stage);
        WgmmaWait<0>();
        KeepInRegisters(o);
        release(v_empty(ring.stage));
        ring.Next();
      } else if (leader && storing != 0) {
        StoreWaitRead<0>();
        BarrierArrive(storing);
      }
      // Blocks that only later queries of the tile see. They must have arrived before they are given back.
      for (int block = blocks; block < all_blocks; ++block) {
        await_turn();
        pass_turn();
        BarrierWait(k_full(ring.stage), ring.parity);
        release(k_empty(ring.stage));
        BarrierWait(v_full(ring.stage), ring.parity);
        release(v_empty(ring.stage));
        ring.Next();
      }

      // The queries are no longer needed: their slot takes the output, in the same layout.
      if (blocks > first_block) {
        float inverse[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          float sum = rows.sum[row];
          sum += __shfl_xor_sync(~0u, sum, 1);
          sum += __shfl_xor_sync(~0u, sum, 2);
          inverse[row] = 1.0f / sum;
        }
#pragma unroll
        for (int i = 0; i < T::kHeadDim / 16; ++i) {
          const float* x = o + 8 * i;
          const uint32_t at = q_shared + i / 4 * (kWarpgroupQueries * 128) +
                              Swizzle128((warp * 16 + lane % 16) * 128 + i % 4 * 32 + lane / 16 * 16);
          StoreMatrix4(at, PackBf16(x[0] * inverse[0], x[1] * inverse[0]),
                       PackBf16(x[2] * inverse[1], x[3] * inverse[1]), PackBf16(x[4] * inverse[0], x[5] * inverse[0]),
                       PackBf16(x[6] * inverse[1], x[7] * inverse[1]));
        }
        AsyncProxyFence();
        NamedBarrierSync(1 + warpgroup, 128);
        if (leader) {
#pragma unroll
          for (int block = 0; block < T::kColumnBlocks; ++block) {
            TensorStore4d(&map_o, q_shared + block * (kWarpgroupQueries * 128), block * kBlockColumns, first_query,
                          tile.head, tile.batch);
          }
          StoreCommit();
        }
        __syncwarp();
      }
      storing = q_empty(warpgroup, slot.stage);
      slot.Next();
    }
    if (leader) StoreWaitRead<0>();
    __syncwarp();
    if (warpgroup == 0) await_turn();  // the turn that the last warpgroup passed on
  }
#else
  __trap();  // compiled for an architecture without wgmma: FusedAttentionSm90 launches it on Hopper alone
#endif
}

inline cudaError_t Encode(const AttentionTensor& tensor, const AttentionArgs& args, int tokens, int heads,
                          int box_tokens, CUtensorMap* map) {
  TensorMapDesc desc;
  desc.data = tensor.data;
  desc.rank = 4;
  desc.extents[0] = args.head_dim;
  desc.extents[1] = tokens;
  desc.extents[2] = heads;
  desc.extents[3] = args.batch;
  desc.strides[0] = 1;
  desc.strides[1] = tensor.token_stride;
  desc.strides[2] = tensor.head_stride;
  desc.strides[3] = tensor.batch_stride;
  desc.box[0] = kBlockColumns;
  desc.box[1] = box_tokens;
  desc.box[2] = desc.box[3] = 1;
  desc.swizzle_bytes = 128;
  return EncodeTensorMap(desc, map);
}

template <class T>
cudaError_t LaunchTraits(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream) {
  CUtensorMap map_q, map_k, map_v, map_o;
  if (cudaError_t error = Encode(args.q, args, args.q_tokens, args.heads, kWarpgroupQueries, &map_q)) return error;
  if (cudaError_t error = Encode(args.k, args, args.kv_tokens, args.kv_heads, kBlockKeys, &map_k)) return error;
  if (cudaError_t error = Encode(args.v, args, args.kv_tokens, args.kv_heads, kBlockKeys, &map_v)) return error;
  if (cudaError_t error = Encode(args.o, args, args.q_tokens, args.heads, kWarpgroupQueries, &map_o)) return error;

  Params params;
  params.heads = args.heads;
  params.queries_per_kv_head = args.heads / args.kv_heads;
  params.q_tokens = args.q_tokens;
  params.kv_tokens = args.kv_tokens;
  params.window = args.window;
  params.query_tiles = (args.q_tokens + T::kTileQueries - 1) / T::kTileQueries;
  params.all_heads = args.batch * args.heads;
  params.scale_log2 = args.scale * kLog2E;
  // Strictly longest first is the most even. It also has every head's keys and values in use at once, so where those
  // exceed half of L2, some tiles of each head share them: more where a tile has few queries to use a block of keys
  // for.
  const int64_t kv_bytes = int64_t{4} * args.batch * args.kv_heads * args.kv_tokens * args.head_dim;
  params.band_tiles = kv_bytes <= l2_bytes / 2 ? 1 : 8 / T::kWarpgroups;

  return LaunchOverlapped(FusedAttentionKernel<T>, std::min(params.query_tiles * params.all_heads, sms), 1, T::kThreads,
                          T::kSharedBytes, stream, map_q, map_k, map_v, map_o, params);
}

template <int kHeadDim, int kWarpgroups, int kStages>
cudaError_t LaunchShape(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream) {
  if (args.window > 0) {
    return LaunchTraits<Traits<kHeadDim, kWarpgroups, kStages, MaskKind::kWindow>>(args, sms, l2_bytes, stream);
  }
  return args.causal
             ? LaunchTraits<Traits<kHeadDim, kWarpgroups, kStages, MaskKind::kCausal>>(args, sms, l2_bytes, stream)
             : LaunchTraits<Traits<kHeadDim, kWarpgroups, kStages, MaskKind::kNone>>(args, sms, l2_bytes, stream);
}

// Defined a head_dim a file, fused_attention_sm90_*.cu; args.head_dim is at most kHeadDim.
template <int kHeadDim>
cudaError_t Launch(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);

}  // namespace flashflow::cuda::attention_sm90

#endif  // KERNELS_CUDA_FUSED_ATTENTION_SM90_CUH_
