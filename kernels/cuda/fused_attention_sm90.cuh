// The kernel behind FusedAttentionSm90 and PagedPrefillSm90. See fused_attention.h and paged_attention.h for what they
// compute.
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
//
// Over the paged cache rows have lengths of their own, in device memory: every CTA sorts them by their tiles, so that
// only tiles with work are numbered. A block of keys is then several copies, none of which crosses a page. Blocks of
// keys are counted from slot 0, and each warpgroup's queries from the row's first, so that what a query adds up does
// not depend on its neighbors.
#ifndef KERNELS_CUDA_FUSED_ATTENTION_SM90_CUH_
#define KERNELS_CUDA_FUSED_ATTENTION_SM90_CUH_

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/hopper_barrier.cuh"
#include "kernels/cuda/hopper_wgmma.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/paged_rows.h"
#include "kernels/cuda/tensor_map.h"

namespace flashflow::cuda::attention_sm90 {

inline constexpr int kBlockKeys = 128;
inline constexpr int kWarpgroupQueries = 64;
inline constexpr int kBlockColumns = 64;  // of a tile in shared memory: 128 bytes

// What a block finds out about the rows of the paged cache, in shared memory.
inline constexpr int kMostRows = 512;
inline constexpr int kMostBands = 1024;
struct RowTable {
  int start[kMostRows + 1];  // as PagedRows has them
  int slots[kMostRows];
  int tiles[kMostRows];   // of a head
  int order[kMostRows];   // the rows, those of most tiles first
  int alive[kMostBands];  // how many rows have a tile in a band: they are the first of `order`
};

enum class MaskKind { kNone, kCausal, kWindow };  // kWindow: causal, and the last keys only

template <int kHeadDim_, int kWarpgroups_, int kStages_, MaskKind kMask, bool kPaged_>
struct Traits {
  static constexpr int kHeadDim = kHeadDim_;        // a multiple of 16
  static constexpr int kWarpgroups = kWarpgroups_;  // that compute
  static constexpr int kStages = kStages_;          // of each ring
  static constexpr bool kCausal = kMask != MaskKind::kNone;
  static constexpr bool kWindow = kMask == MaskKind::kWindow;
  static constexpr bool kPaged = kPaged_;

  static constexpr int kThreads = (1 + kWarpgroups) * 128;
  // To find pages takes more than to find tiles of tensors.
  static constexpr int kProducerRegisters = kWarpgroups == 2 ? (kPaged ? 72 : 24) : 32;
  static constexpr int kConsumerRegisters = kWarpgroups == 2 ? (kPaged ? 216 : 240) : 160;
  static constexpr int kTileQueries = kWarpgroups * kWarpgroupQueries;
  // Columns past head_dim are zeros that the copy engine makes up. No product reads whole 16 of them.
  static constexpr int kColumnBlocks = (kHeadDim + kBlockColumns - 1) / kBlockColumns;
  static constexpr int kRowBytes = kColumnBlocks * kBlockColumns * 2;
  static constexpr int kQueryBytes = kWarpgroupQueries * kRowBytes;  // of one warpgroup
  static constexpr int kKeyBytes = kBlockKeys * kRowBytes;           // of one block of keys, or of values
  static constexpr int kQuerySlots = 2;  // the next tile's queries arrive while this tile's are in use
  static constexpr int kRingBytes = kStages * kKeyBytes;
  static constexpr int kBarriers = 4 * kStages + 2 * kQuerySlots * kWarpgroups;
  static constexpr int kRowTableBytes = kPaged ? sizeof(RowTable) : 0;
  static constexpr int kSharedBytes =
      kWarpgroups * kQuerySlots * kQueryBytes + 2 * kRingBytes + 8 * kBarriers + kRowTableBytes;
  static_assert(kHeadDim % 16 == 0);
  static_assert(kSharedBytes <= 227 * 1024);
  // Warpgroups that take more registers than the launch gave the block would wait for ever.
  static_assert(kProducerRegisters + kWarpgroups * kConsumerRegisters <=
                (1 + kWarpgroups) * (64 * 1024 / kThreads / 8 * 8));
};

struct Params {
  int heads, queries_per_kv_head, q_tokens, kv_tokens;
  int window;       // of Traits with one
  int query_tiles;  // a head
  int band_tiles;   // neighboring tiles of a head that are handed out one after another and share keys in L2
  int bands;        // of a head
  int all_heads;    // batch * heads
  float scale_log2;

  // Of Traits with pages. q_tokens is then the most that a row has, and query_tiles follow from it.
  PagedRows rows;
  const __nv_bfloat16* cache;
  __nv_bfloat16* o;
  int64_t o_stride;  // between tokens
  int kv_heads, head_dim;
  int page_shift;  // page_size is 1 << page_shift
  int box_slots;   // that one copy moves: a divisor of page_size and of kBlockKeys
};

struct Tile {
  int query;  // the first; below zero where the tile's first warpgroups have nothing to do
  int head, batch;
  int q_tokens, kv_tokens;  // of its row
  int first_token;          // of its row in q and o
};

// Tiles of queries end at the row's last query: if one is incomplete, it is the shortest. `tile` counts from there.
template <class T>
__device__ __forceinline__ int FirstQuery(int q_tokens, int tile) {
  const int warpgroups = (q_tokens + kWarpgroupQueries - 1) / kWarpgroupQueries;
  return (warpgroups - (tile + 1) * T::kWarpgroups) * kWarpgroupQueries;
}

// The tiles of this block, in order. They are numbered in bands of all heads, the longest first.
template <class T>
class TileWalk {
 public:
  __device__ __forceinline__ TileWalk(const Params& params, const RowTable* rows) : params_(params), rows_(rows) {}

  // The next one; false past the last.
  __device__ __forceinline__ bool Next(Tile& tile) {
    const int block = static_cast<int>(blockIdx.x), grid = static_cast<int>(gridDim.x);
    while (true) {
      const int index = round_ * grid + (round_ % 2 == 0 ? block : grid - 1 - block);
      ++round_;
      if constexpr (T::kPaged) {
        while (index >= band_end_) {
          if (++band_ == params_.bands) return false;
          band_begin_ = band_end_;
          band_end_ += Height() * params_.heads * rows_->alive[band_];
        }
      } else {
        if (index >= params_.query_tiles * params_.all_heads) return false;
        band_ = index / (params_.band_tiles * params_.all_heads);
        band_begin_ = band_ * params_.band_tiles * params_.all_heads;
      }
      const int rest = index - band_begin_;
      const int head = rest / Height();
      const int in_band = rest - head * Height();
      tile.batch = head / params_.heads;
      tile.head = head - tile.batch * params_.heads;
      if constexpr (T::kPaged) {
        tile.batch = rows_->order[tile.batch];
        // The longest row's tiles are numbered from 0 on; a shorter one's are the last of them.
        const int tile_of_row = band_ * params_.band_tiles + in_band - (params_.query_tiles - rows_->tiles[tile.batch]);
        if (tile_of_row < 0) continue;
        tile.first_token = rows_->start[tile.batch];
        tile.q_tokens = rows_->start[tile.batch + 1] - tile.first_token;
        tile.kv_tokens = rows_->slots[tile.batch];
        tile.query = FirstQuery<T>(tile.q_tokens, tile_of_row);
      } else {
        tile.first_token = 0;
        tile.q_tokens = params_.q_tokens;
        tile.kv_tokens = params_.kv_tokens;
        tile.query = FirstQuery<T>(tile.q_tokens, band_ * params_.band_tiles + in_band);
      }
      return true;
    }
  }

 private:
  __device__ __forceinline__ int Height() const {
    return min(params_.band_tiles, params_.query_tiles - band_ * params_.band_tiles);
  }

  const Params& params_;
  const RowTable* rows_;
  int round_ = 0, band_ = -1;
  int band_begin_ = 0, band_end_ = 0;  // numbers of the band's tiles
};

// By all threads of a block. What it writes is visible after a __syncthreads.
template <class T>
__device__ __forceinline__ void FillRowTable(const Params& params, RowTable& table) {
  const int rows = params.rows.rows;
  for (int row = threadIdx.x; row <= rows; row += T::kThreads) table.start[row] = params.rows.row_start[row];
  for (int row = threadIdx.x; row < rows; row += T::kThreads) table.slots[row] = params.rows.kv_len[row];
  __syncthreads();
  for (int row = threadIdx.x; row < rows; row += T::kThreads) {
    table.tiles[row] = (table.start[row + 1] - table.start[row] + T::kTileQueries - 1) / T::kTileQueries;
  }
  __syncthreads();
  for (int row = threadIdx.x; row < rows; row += T::kThreads) {
    int before = 0;
    for (int other = 0; other < rows; ++other) {
      const int more = table.tiles[other] - table.tiles[row];
      before += more > 0 || (more == 0 && other < row);
    }
    table.order[before] = row;
  }
  for (int band = threadIdx.x; band < params.bands; band += T::kThreads) {
    // With so many tiles a row has one in the band.
    const int least = params.query_tiles - min((band + 1) * params.band_tiles, params.query_tiles) + 1;
    int alive = 0;
    for (int row = 0; row < rows; ++row) alive += table.tiles[row] >= least;
    table.alive[band] = alive;
  }
}

// Blocks of keys that queries [0, end) may see.
template <class T>
__device__ __forceinline__ int KeyBlocks(const Tile& tile, int end) {
  const int all = (tile.kv_tokens + kBlockKeys - 1) / kBlockKeys;
  if (!T::kCausal) return all;
  return min(all, (end + tile.kv_tokens - tile.q_tokens + kBlockKeys - 1) / kBlockKeys);
}

// The first key that queries from `query` on may see.
template <class T>
__device__ __forceinline__ int FirstKey(const Params& params, const Tile& tile, int query) {
  if (!T::kWindow) return 0;
  return max(0, max(0, query) + 1 + tile.kv_tokens - tile.q_tokens - params.window);
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

// Of a slot of a row.
__device__ __forceinline__ int InPage(const Params& params, int slot) { return slot & ((1 << params.page_shift) - 1); }

// Zeros for the values of a box of slots beyond those that the row has, and its values in the others: no copy tells
// them apart within a page. What else may lie there, NaN too, would reach a sum in spite of a probability of zero. By a
// warp; `page` < 0: no slot is seen.
template <class T>
__device__ __forceinline__ void FillValues(const Params& params, const Tile& tile, int kv_head, int page,
                                           int first_slot, uint32_t block_of_values) {
  constexpr int kChunks = T::kHeadDim / 8;  // of 16 bytes
  const int64_t row = (int64_t{page} * 2 + 1) * params.kv_heads + kv_head;
  const __nv_bfloat16* from =
      params.cache + ((row << params.page_shift) + InPage(params, first_slot)) * params.head_dim;
#pragma unroll 1
  for (int i = threadIdx.x % 32; i < params.box_slots * kChunks; i += 32) {
    const int slot = i / kChunks, chunk = i % kChunks;
    uint4 value = {};
    if (page >= 0 && first_slot + slot < tile.kv_tokens && chunk * 8 < params.head_dim) {
      value = *reinterpret_cast<const uint4*>(from + slot * params.head_dim + chunk * 8);
    }
    const uint32_t to = block_of_values + chunk / 8 * (kBlockKeys * 128) +
                        hopper::Swizzle128((first_slot % kBlockKeys + slot) * 128 + chunk % 8 * 16);
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(value.x), "r"(value.y), "r"(value.z),
                 "r"(value.w)
                 : "memory");
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
  RowTable* rows_table = nullptr;
  if constexpr (T::kPaged) rows_table = reinterpret_cast<RowTable*>(shared + T::kSharedBytes - T::kRowTableBytes);
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
  if constexpr (T::kPaged) FillRowTable<T>(params, *rows_table);
  __syncthreads();
  LetNextKernelStart();
  AwaitPreviousKernel();

  TileWalk<T> walk(params, rows_table);
  Tile tile;

  if (role == 0) {
    GiveRegisters<T::kProducerRegisters>();
    RingPosition<T::kStages> ring;
    RingPosition<T::kQuerySlots> slot;
    const auto load = [&](uint32_t to, int block_stride, const CUtensorMap* map, uint32_t barrier, int c1, int c2,
                          int c3) {
#pragma unroll
      for (int block = 0; block < T::kColumnBlocks; ++block) {
        TensorLoad4d(to + block * block_stride, map, barrier, block * kBlockColumns, c1, c2, c3);
      }
    };
    const auto load_queries = [&] {
      for (int w = 0; w < T::kWarpgroups; ++w) {
        BarrierWait(q_empty(w, slot.stage), slot.parity ^ 1);
        BarrierArriveExpect(q_full(w, slot.stage), T::kQueryBytes);
        load(query_slot(w, slot.stage), kWarpgroupQueries * 128, &map_q, q_full(w, slot.stage),
             tile.first_token + tile.query + w * kWarpgroupQueries, tile.head, T::kPaged ? 0 : tile.batch);
      }
    };
    if constexpr (T::kPaged) {
      // A lane has a box of each block.
      const int lane = threadIdx.x;
      while (threadIdx.x < 32 && walk.Next(tile)) {
        if (lane == 0) load_queries();
        slot.Next();
        const int kv_head = tile.head / params.queries_per_kv_head;
        const int32_t* pages = params.rows.block_table + int64_t{tile.batch} * params.rows.pages_per_row;
        const int first_key = FirstKey<T>(params, tile, tile.query);
        const int blocks = KeyBlocks<T>(tile, tile.query + T::kTileQueries);
        const int box_bytes = params.box_slots * T::kRowBytes;
        const auto page_of = [&](int block) {
          const int first_slot = block * kBlockKeys + lane * params.box_slots;
          const bool seen = block < blocks && lane * params.box_slots < kBlockKeys && first_slot < tile.kv_tokens &&
                            first_slot + params.box_slots > first_key;
          return seen ? pages[first_slot >> params.page_shift] : -1;
        };
        int block = first_key / kBlockKeys;
#pragma unroll 1
        for (int next_page = page_of(block); block < blocks; ++block) {
          const int page = next_page;
          next_page = page_of(block + 1);
          const int first_slot = block * kBlockKeys + lane * params.box_slots;
          const int in_page = InPage(params, first_slot);
          const uint32_t to = ring.stage * T::kKeyBytes + lane * params.box_slots * 128;
          const int seen = __popc(__ballot_sync(~0u, page >= 0));
          BarrierWait(k_empty(ring.stage), ring.parity ^ 1);
          if (lane == 0) BarrierArriveExpect(k_full(ring.stage), seen * box_bytes);
          __syncwarp();
          if (page >= 0) load(ring_k + to, kBlockKeys * 128, &map_k, k_full(ring.stage), in_page, kv_head, page);

          const bool whole = page >= 0 && first_slot + params.box_slots <= tile.kv_tokens;
          const int copied = __popc(__ballot_sync(~0u, whole));
          BarrierWait(v_empty(ring.stage), ring.parity ^ 1);
          uint32_t rest = __ballot_sync(~0u, lane * params.box_slots < kBlockKeys && !whole);
          if (rest != 0) {
            for (; rest != 0; rest &= rest - 1) {
              const int box = __ffs(static_cast<int>(rest)) - 1;
              FillValues<T>(params, tile, kv_head, __shfl_sync(~0u, page, box),
                            block * kBlockKeys + box * params.box_slots, ring_v + ring.stage * T::kKeyBytes);
            }
            AsyncProxyFence();
          }
          __syncwarp();
          if (lane == 0) BarrierArriveExpect(v_full(ring.stage), copied * box_bytes);
          __syncwarp();
          if (whole) {
            load(ring_v + to, kBlockKeys * 128, &map_k, v_full(ring.stage), in_page, params.kv_heads + kv_head, page);
          }
          ring.Next();
        }
      }
    } else {
      while (threadIdx.x == 0 && walk.Next(tile)) {
        load_queries();
        slot.Next();
        const int kv_head = tile.head / params.queries_per_kv_head;
        const int blocks = KeyBlocks<T>(tile, tile.query + T::kTileQueries);
        for (int block = FirstKey<T>(params, tile, tile.query) / kBlockKeys; block < blocks; ++block) {
          const auto load_block = [&](uint32_t to, const CUtensorMap* map, uint32_t barrier) {
            BarrierArriveExpect(barrier, T::kKeyBytes);
            load(to, kBlockKeys * 128, map, barrier, block * kBlockKeys, kv_head, tile.batch);
          };
          BarrierWait(k_empty(ring.stage), ring.parity ^ 1);
          load_block(ring_k + ring.stage * T::kKeyBytes, &map_k, k_full(ring.stage));
          BarrierWait(v_empty(ring.stage), ring.parity ^ 1);
          load_block(ring_v + ring.stage * T::kKeyBytes, &map_v, v_full(ring.stage));
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
    while (walk.Next(tile)) {
      const int first_query = tile.query + static_cast<int>(warpgroup) * kWarpgroupQueries;
      const int past = tile.kv_tokens - tile.q_tokens;
      const int all_blocks = KeyBlocks<T>(tile, tile.query + T::kTileQueries);
      const int first_block = FirstKey<T>(params, tile, tile.query) / kBlockKeys;
      const int blocks = first_query >= 0 ? KeyBlocks<T>(tile, first_query + kWarpgroupQueries) : first_block;
      // Blocks that every one of the warpgroup's queries sees whole.
      const int open_keys = T::kCausal ? min(tile.kv_tokens, first_query + 1 + past) : tile.kv_tokens;
      const int open_blocks = min(blocks, open_keys / kBlockKeys);
      const int first_open_block =
          T::kWindow ? (max(0, first_query + kWarpgroupQueries + past - params.window) + kBlockKeys - 1) / kBlockKeys
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
          const int visible = T::kCausal ? min(tile.kv_tokens, row + 8 * i + 1 + past) : tile.kv_tokens;
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

      // The queries are no longer needed: their slot takes the output, in the same layout. In a batch of rows of many
      // lengths the copy engine would write over the next row where this one ends within the tile.
      if (blocks > first_block) {
        const bool whole = !T::kPaged || first_query + kWarpgroupQueries <= tile.q_tokens;
        float inverse[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          float sum = rows.sum[row];
          sum += __shfl_xor_sync(~0u, sum, 1);
          sum += __shfl_xor_sync(~0u, sum, 2);
          inverse[row] = 1.0f / sum;
        }
        if (whole) {
#pragma unroll
          for (int i = 0; i < T::kHeadDim / 16; ++i) {
            const float* x = o + 8 * i;
            const uint32_t at = q_shared + i / 4 * (kWarpgroupQueries * 128) +
                                Swizzle128((warp * 16 + lane % 16) * 128 + i % 4 * 32 + lane / 16 * 16);
            StoreMatrix4(at, PackBf16(x[0] * inverse[0], x[1] * inverse[0]),
                         PackBf16(x[2] * inverse[1], x[3] * inverse[1]), PackBf16(x[4] * inverse[0], x[5] * inverse[0]),
                         PackBf16(x[6] * inverse[1], x[7] * inverse[1]));
          }
        } else if constexpr (T::kPaged) {
          const int query = first_query + warp * 16 + lane / 4;
          __nv_bfloat16* to = params.o + (tile.first_token + query) * params.o_stride + tile.head * params.head_dim;
#pragma unroll
          for (int i = 0; i < T::kHeadDim / 4; ++i) {
            const int half = i % 2, column = i / 2 * 8 + 2 * (lane % 4);
            if (query + 8 * half < tile.q_tokens && column < params.head_dim) {
              *reinterpret_cast<uint32_t*>(to + half * 8 * params.o_stride + column) =
                  PackBf16(o[2 * i] * inverse[half], o[2 * i + 1] * inverse[half]);
            }
          }
        }
        AsyncProxyFence();
        NamedBarrierSync(1 + warpgroup, 128);
        if (leader && whole) {
#pragma unroll
          for (int block = 0; block < T::kColumnBlocks; ++block) {
            TensorStore4d(&map_o, q_shared + block * (kWarpgroupQueries * 128), block * kBlockColumns,
                          tile.first_token + first_query, tile.head, T::kPaged ? 0 : tile.batch);
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

inline cudaError_t Encode(const AttentionTensor& tensor, int head_dim, int tokens, int heads, int batch, int box_tokens,
                          CUtensorMap* map) {
  TensorMapDesc desc;
  desc.data = tensor.data;
  desc.rank = 4;
  desc.extents[0] = head_dim;
  desc.extents[1] = tokens;
  desc.extents[2] = heads;
  desc.extents[3] = batch;
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
  const auto encode = [&](const AttentionTensor& tensor, int tokens, int heads, int box_tokens, CUtensorMap* map) {
    return Encode(tensor, args.head_dim, tokens, heads, args.batch, box_tokens, map);
  };
  CUtensorMap map_q, map_k, map_v, map_o;
  if (cudaError_t error = encode(args.q, args.q_tokens, args.heads, kWarpgroupQueries, &map_q)) return error;
  if (cudaError_t error = encode(args.k, args.kv_tokens, args.kv_heads, kBlockKeys, &map_k)) return error;
  if (cudaError_t error = encode(args.v, args.kv_tokens, args.kv_heads, kBlockKeys, &map_v)) return error;
  if (cudaError_t error = encode(args.o, args.q_tokens, args.heads, kWarpgroupQueries, &map_o)) return error;

  Params params = {};
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
  const auto launch = [&]<MaskKind kMask>() {
    return LaunchTraits<Traits<kHeadDim, kWarpgroups, kStages, kMask, /*kPaged=*/false>>(args, sms, l2_bytes, stream);
  };
  if (args.window > 0) return launch.template operator()<MaskKind::kWindow>();
  return args.causal ? launch.template operator()<MaskKind::kCausal>() : launch.template operator()<MaskKind::kNone>();
}

template <class T>
cudaError_t LaunchPagedTraits(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream) {
  // Groups of eight rows are what the swizzle repeats over.
  const auto page_size = static_cast<unsigned>(args.page_size);
  if (!std::has_single_bit(page_size) || page_size < 8 || args.rows.rows > kMostRows) return cudaErrorNotSupported;
  const int box_slots = std::min(args.page_size, kBlockKeys);
  const int64_t o_stride = int64_t{args.heads} * args.head_dim, head_elements = int64_t{args.page_size} * args.head_dim;
  CUtensorMap map_q, map_cache, map_o;
  if (cudaError_t error = Encode({const_cast<void*>(args.q), 0, args.q_stride, args.head_dim}, args.head_dim,
                                 args.tokens, args.heads, 1, kWarpgroupQueries, &map_q)) {
    return error;
  }
  if (cudaError_t error = Encode({args.o, 0, o_stride, args.head_dim}, args.head_dim, args.tokens, args.heads, 1,
                                 kWarpgroupQueries, &map_o)) {
    return error;
  }
  // Keys' heads and then values' are a page's. How many pages there are only the block table says.
  constexpr int kManyPages = 1 << 30;
  const AttentionTensor cache = {const_cast<void*>(args.cache), 2 * args.kv_heads * head_elements, args.head_dim,
                                 head_elements};
  if (cudaError_t error =
          Encode(cache, args.head_dim, args.page_size, 2 * args.kv_heads, kManyPages, box_slots, &map_cache)) {
    return error;
  }

  Params params = {};
  params.heads = args.heads;
  params.queries_per_kv_head = args.heads / args.kv_heads;
  params.q_tokens = args.max_row_tokens;
  params.window = args.window;
  params.query_tiles = (args.max_row_tokens + T::kTileQueries - 1) / T::kTileQueries;
  params.all_heads = args.rows.rows * args.heads;
  params.scale_log2 = args.scale * kLog2E;
  params.rows = args.rows;
  params.cache = static_cast<const __nv_bfloat16*>(args.cache);
  params.o = static_cast<__nv_bfloat16*>(args.o);
  params.o_stride = o_stride;
  params.kv_heads = args.kv_heads;
  params.head_dim = args.head_dim;
  params.page_shift = std::countr_zero(page_size);
  params.box_slots = box_slots;
  // As above, but of rows whose slots are this step's. Heads of 64 gain nothing by it.
  const int64_t kv_bytes = int64_t{4} * args.tokens * args.kv_heads * args.head_dim;
  params.band_tiles = T::kHeadDim <= 64 || kv_bytes <= l2_bytes / 2 ? 1 : 8 / T::kWarpgroups;
  params.bands = (params.query_tiles + params.band_tiles - 1) / params.band_tiles;
  if (params.bands > kMostBands) return cudaErrorNotSupported;

  const int64_t most_tiles = (args.tokens / T::kTileQueries + int64_t{args.rows.rows}) * args.heads;
  return LaunchOverlapped(FusedAttentionKernel<T>, static_cast<int>(std::min<int64_t>(most_tiles, sms)), 1, T::kThreads,
                          T::kSharedBytes, stream, map_q, map_cache, map_cache, map_o, params);
}

template <int kHeadDim, int kWarpgroups, int kStages>
cudaError_t LaunchPagedShape(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream) {
  const auto launch = [&]<MaskKind kMask>() {
    return LaunchPagedTraits<Traits<kHeadDim, kWarpgroups, kStages, kMask, /*kPaged=*/true>>(args, sms, l2_bytes,
                                                                                             stream);
  };
  return args.window > 0 ? launch.template operator()<MaskKind::kWindow>()
                         : launch.template operator()<MaskKind::kCausal>();
}

// Defined a head_dim a file, fused_attention_sm90_*.cu; args.head_dim is at most kHeadDim.
template <int kHeadDim>
cudaError_t Launch(const AttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);
template <int kHeadDim>
cudaError_t LaunchPaged(const PagedAttentionArgs& args, int sms, int64_t l2_bytes, cudaStream_t stream);

}  // namespace flashflow::cuda::attention_sm90

#endif  // KERNELS_CUDA_FUSED_ATTENTION_SM90_CUH_
