// The tensor-core kernel behind PagedAttention. See paged_attention.h for what it computes.
//
// The queries that read one kv head of one row, tokens times heads of its group, are columns: eight a tensor-core tile.
// Scores are S^T = K q^T, with 16 keys as the tile's rows, so that a lone query wastes tensor-core work, which is
// plentiful here, and not bytes. The context is cut by position alone: tile u, of 16 slots, belongs to warp u / 2 % 4
// of split u / 8 % 8. Each warp of each split takes its tiles in order, with a softmax of its own; then the warps of a
// split are folded in order, and then the splits. Whether one thread block computes all splits or a cluster shares them
// is a question of speed: the sums are the same ones in the same order. (After Dao et al., Flash-Decoding, 2023.)
//
// Every warp streams its own tiles through its own ring of shared memory, so that in the loop no warp waits for
// another.
//
// In decode a row's newest key and value come from the projection, not from the cache: the warp that has their tile
// turns the key, writes both to the cache, and puts them in its ring when it comes to them. No other slot depends on
// the kernel ahead, so all loads begin before that has ended.
#ifndef KERNELS_CUDA_PAGED_ATTENTION_CUH_
#define KERNELS_CUDA_PAGED_ATTENTION_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/hopper_barrier.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/rotate.cuh"

namespace flashflow::cuda::paged_attention {

inline constexpr int kTileKeys = 16;
inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kSplits = 8;
inline constexpr int kRunTiles = 2;  // neighboring tiles of a warp
inline constexpr int kRoundTiles = kSplits * kWarps * kRunTiles;

template <class Element_, int kHeadDim_, int kColumnTiles_, int kBlocks_>
struct Traits {
  using Element = Element_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kColumnTiles = kColumnTiles_;
  static constexpr int kBlocks = kBlocks_;  // that share a row: 1, 2 or 8

  static constexpr int kColumns = 8 * kColumnTiles;
  static constexpr bool kAlone = kBlocks == 1;
  static constexpr int kStages = kBlocks == kSplits ? 2 : kAlone || kHeadDim <= 96 ? 4 : 3;
  // Blocks take splits in turn, so that all have some of a short context. In a block alone so do the warps, each with
  // all parts of a split; else a warp has one part of each of the block's splits.
  static constexpr int kParts = kSplits / kBlocks;
  using Layout = TileLayout<kHeadDim>;
  static constexpr int kTileBytes = kTileKeys * Layout::kRowBytes;
  static constexpr int kRingBytes = kStages * 2 * kTileBytes;  // of a warp
  // A column's sums in shared memory: head_dim outputs, the maximum, the sum. The four floats more also keep the stores
  // of a warp apart.
  static constexpr int kSumsStride = kHeadDim + 4;
  // Sums that a block keeps of each column: of its parts, then (in a cluster's first block) of all splits.
  static constexpr int kPartSums = kAlone ? 0 : kParts * kWarps;
};

// What decode does beside attention.
struct Append {
  const void* k = nullptr;  // null: nothing, the cache has all slots
  const void* v = nullptr;
  int64_t k_stride = 0, v_stride = 0;
  const void* cos = nullptr;  // null: heads are not turned
  const void* sin = nullptr;
  bool f32_angles = true;
  void* cache = nullptr;
};

struct Params {
  const void* q;
  void* o;
  const void* cache;
  PagedRows rows;
  int64_t q_stride;
  int heads, kv_heads, group, page_size, window;
  int column_blocks;  // thread blocks, or clusters, for the queries of a row on a kv head
  float scale_log2;
  Append append;
};

// What a column's sums so far, and those of more slots, are multiplied by where they are joined.
struct Factors {
  float before, more;
};
__device__ __forceinline__ Factors JoinFactors(float& max, float more_max, float scale_log2) {
  const float before = max;
  max = fmaxf(before, more_max);
  const float base = max == -INFINITY ? 0.0f : max * scale_log2;
  return {Exp2(__fmaf_rn(before, scale_log2, -base)), Exp2(__fmaf_rn(more_max, scale_log2, -base))};
}
__device__ __forceinline__ float Join(float before, float more, const Factors& factors) {
  return __fmaf_rn(before, factors.before, __fmul_rn(more, factors.more));
}

// A warp's sums over some slots: of column 8 * tile + 2 * (lane % 4) + e, channels 16 * i + lane / 4 (and 8 more) are
// in o[i][tile][e] (and [e + 2]). Maxima are of raw scores.
template <class T>
struct Sums {
  float o[T::kHeadDim / 16][T::kColumnTiles][4];
  float max[T::kColumnTiles][2], sum[T::kColumnTiles][2];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int tile = 0; tile < T::kColumnTiles; ++tile) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        max[tile][e] = -INFINITY;
        sum[tile][e] = 0;
      }
#pragma unroll
      for (int i = 0; i < T::kHeadDim / 16; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) o[i][tile][e] = 0;
      }
    }
  }

  // From each lane's own keys to all of the warp's.
  __device__ __forceinline__ void ReduceSum() {
#pragma unroll
    for (int tile = 0; tile < T::kColumnTiles; ++tile) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2) sum[tile][e] += __shfl_xor_sync(~0u, sum[tile][e], lanes);
      }
    }
  }

  __device__ __forceinline__ void JoinWith(const Sums& more, float scale_log2) {
#pragma unroll
    for (int tile = 0; tile < T::kColumnTiles; ++tile) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (more.max[tile][e] == -INFINITY) continue;
        const Factors factors = JoinFactors(max[tile][e], more.max[tile][e], scale_log2);
        sum[tile][e] = Join(sum[tile][e], more.sum[tile][e], factors);
#pragma unroll
        for (int i = 0; i < T::kHeadDim / 16; ++i) {
          o[i][tile][e] = Join(o[i][tile][e], more.o[i][tile][e], factors);
          o[i][tile][e + 2] = Join(o[i][tile][e + 2], more.o[i][tile][e + 2], factors);
        }
      }
    }
  }

  // to[column * kSumsStride + channel], the first `columns` of them.
  __device__ __forceinline__ void Store(float* to, int columns, int lane) const {
#pragma unroll
    for (int tile = 0; tile < T::kColumnTiles; ++tile) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = 8 * tile + 2 * (lane % 4) + e;
        if (column >= columns) continue;
        float* at = to + column * T::kSumsStride;
#pragma unroll
        for (int i = 0; i < T::kHeadDim / 16; ++i) {
          at[16 * i + lane / 4] = o[i][tile][e];
          at[16 * i + lane / 4 + 8] = o[i][tile][e + 2];
        }
        if (lane < 4) {
          at[T::kHeadDim] = max[tile][e];
          at[T::kHeadDim + 1] = sum[tile][e];
        }
      }
    }
  }
};

// Two channels of a column's sums, joined in order over kCount stores of them, `stride` floats apart.
struct JoinedPair {
  float max = -INFINITY, sum = 0;
  float2 o = make_float2(0, 0);
};
template <int kHeadDim, int kCount>
__device__ __forceinline__ JoinedPair JoinStored(const float* sums, int channel, int stride, float scale_log2) {
  JoinedPair joined;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float* more = sums + i * stride;
    const float2 max_and_sum = *reinterpret_cast<const float2*>(more + kHeadDim);
    if (max_and_sum.x == -INFINITY) continue;
    const float2 o = *reinterpret_cast<const float2*>(more + channel);
    const Factors factors = JoinFactors(joined.max, max_and_sum.x, scale_log2);
    joined.sum = Join(joined.sum, max_and_sum.y, factors);
    joined.o.x = Join(joined.o.x, o.x, factors);
    joined.o.y = Join(joined.o.y, o.y, factors);
  }
  return joined;
}

__device__ __forceinline__ void StoreShared(uint32_t shared, const uint4& value) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(value.x), "r"(value.y), "r"(value.z),
               "r"(value.w)
               : "memory");
}

__device__ __forceinline__ void StoreCluster(uint32_t shared, uint32_t rank, float2 value) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.v2.f32 [remote], {%2, %3};\n"
      "}\n" ::"r"(shared),
      "r"(rank), "f"(value.x), "f"(value.y)
      : "memory");
#endif
}

// The tiles of one warp in the order in which it takes them, part after part.
template <class T>
struct Cursor {
  int first_tile, end_tile;  // of the slots that any column sees
  int warp, rank;
  int part = -1, index = 0, end = 0;

  // Of the part's tiles, those before `tile`.
  __device__ __forceinline__ int CountBefore(int tile) const {
    const int past = tile - PartTile(part);
    return past <= 0 ? 0 : past / kRoundTiles * kRunTiles + min(past % kRoundTiles, kRunTiles);
  }
  __device__ __forceinline__ int PartSplit(int p) const {
    return T::kAlone ? p / kWarps * kWarps + warp : p * T::kBlocks + rank;
  }
  __device__ __forceinline__ int PartTile(int p) const {
    return (PartSplit(p) * kWarps + (T::kAlone ? p % kWarps : warp)) * kRunTiles;
  }
  __device__ __forceinline__ int Tile() const {
    return PartTile(part) + index / kRunTiles * kRoundTiles + index % kRunTiles;
  }
  __device__ __forceinline__ void EnterPart(int p) {
    part = p;
    index = CountBefore(first_tile);
    end = CountBefore(end_tile);
  }
  // To the next part that has tiles, or past the last.
  __device__ __forceinline__ void SkipEmpty() {
    while (part < T::kParts && index >= end) EnterPart(part + 1);
  }
  __device__ __forceinline__ bool InPart() const { return index < end; }
  __device__ __forceinline__ bool Done() const { return part >= T::kParts; }
};

// Who takes a tile.
template <class T>
__device__ __forceinline__ bool IsMine(int tile, int warp, int rank) {
  const int split = tile / (kRunTiles * kWarps) % kSplits;
  return T::kAlone ? split % kWarps == warp : split % T::kBlocks == rank && tile / kRunTiles % kWarps == warp;
}

// Two angles' cosines, or sines.
template <class E>
__device__ __forceinline__ float2 LoadAngles(const void* from, int64_t at, bool f32) {
  return f32 ? *reinterpret_cast<const float2*>(static_cast<const float*>(from) + at)
             : UnpackPair<E>(*reinterpret_cast<const uint32_t*>(static_cast<const E*>(from) + at));
}

// Two neighboring channels, from `at` on in the angles, turned; `partners` are those half a head away.
template <class E>
__device__ __forceinline__ uint32_t TurnPair(uint32_t pair, uint32_t partners, bool first_half, const Append& append,
                                             int64_t at) {
  const float2 x = UnpackPair<E>(pair), other = UnpackPair<E>(partners);
  const float2 cos = LoadAngles<E>(append.cos, at, append.f32_angles);
  const float2 sin = LoadAngles<E>(append.sin, at, append.f32_angles);
  return first_half ? PackPair<E>(RotateLow(x.x, other.x, cos.x, sin.x), RotateLow(x.y, other.y, cos.y, sin.y))
                    : PackPair<E>(RotateHigh(x.x, other.x, cos.x, sin.x), RotateHigh(x.y, other.y, cos.y, sin.y));
}

template <class T>
__global__ void __launch_bounds__(kThreads) PagedAttentionKernel(const __grid_constant__ Params params) {
#if __CUDA_ARCH__ >= 900
  constexpr bool kRuns = true;
#else
  constexpr bool kRuns = T::kAlone;  // clusters came with Hopper
#endif
  if constexpr (!kRuns) {
    __trap();
  } else {
    using E = typename T::Element;
    extern __shared__ __align__(128) uint8_t shared[];
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    const int rank = blockIdx.x % T::kBlocks;
    const int unit = blockIdx.x / T::kBlocks;
    const int kv_head = unit % params.kv_heads;
    const int column_block = unit / params.kv_heads % params.column_blocks;
    const int row = unit / params.kv_heads / params.column_blocks;
    // The barrier that counts the arrival of the splits' sums in the cluster's first block.
    const uint32_t arrived = ToShared(shared + kWarps * T::kRingBytes);
    float* const sums_memory = reinterpret_cast<float*>(shared + kWarps * T::kRingBytes + 16);

    LetNextKernelStart();
#if __CUDA_ARCH__ >= 900
    if constexpr (!T::kAlone) {
      if (rank == 0 && threadIdx.x == 0) {
        hopper::BarrierInit(arrived, T::kBlocks * kWarps);
        hopper::BarrierInitFence();
      }
      hopper::ClusterArrive();
    }
#endif

    const int32_t* table = params.rows.block_table + int64_t{row} * params.rows.pages_per_row;
    const int tiles_per_page = params.page_size / kTileKeys;
    // Without a window this is the first tile's page, asked for before the row's length is known.
    Cursor<T> cursor{0, 0, warp, rank};
    const int guess = cursor.PartTile(0) / tiles_per_page;
    int page = table[min(guess, params.rows.pages_per_row - 1)];
    const int first_token = params.rows.row_start[row];
    const int tokens = params.rows.row_start[row + 1] - first_token;
    const int first_slot = params.rows.kv_len[row] - tokens;
    const int first_column = column_block * T::kColumns;
    const int columns = min(T::kColumns, tokens * params.group - first_column);
    // Slots [begin, end) are seen by some column.
    const int begin = params.window > 0 ? max(0, first_slot + first_column / params.group + 1 - params.window) : 0;
    const int end = columns <= 0 ? 0 : first_slot + (first_column + columns - 1) / params.group + 1;

    cursor.first_tile = begin / kTileKeys;
    cursor.end_tile = (end + kTileKeys - 1) / kTileKeys;
    cursor.EnterPart(0);
    cursor.SkipEmpty();
    if (!cursor.Done() && cursor.Tile() / tiles_per_page != guess) page = table[cursor.Tile() / tiles_per_page];

    // Decode: the tile of the token's slot, and the page if this warp has it.
    const bool decodes = params.append.k != nullptr;
    const int own_tile = decodes && columns > 0 ? first_slot / kTileKeys : -1;
    const bool brings_own = own_tile >= 0 && IsMine<T>(own_tile, warp, rank);
    const int own_page = brings_own ? table[own_tile / tiles_per_page] : 0;

    const int64_t head_elements = int64_t{params.page_size} * T::kHeadDim;
    const E* cache = static_cast<const E*>(params.cache) + kv_head * head_elements;
    const uint32_t ring = ToShared(shared) + warp * T::kRingBytes;
    uint32_t load_slot = ring;
    const auto load_next = [&] {
      if (!cursor.Done()) {
        const int tile = cursor.Tile();
        const int in_page = tile % tiles_per_page;
        const E* k = cache + int64_t{page} * 2 * params.kv_heads * head_elements + in_page * kTileKeys * T::kHeadDim;
        const E* v = k + params.kv_heads * head_elements;
        const int valid = end - tile * kTileKeys;
        const int own_slot = tile == own_tile ? first_slot % kTileKeys : -1;
        // The next tile's page, in time for it.
        ++cursor.index;
        cursor.SkipEmpty();
        if (!cursor.Done()) page = table[cursor.Tile() / tiles_per_page];
        // Slots past the end hold anything; as zeros they cannot make NaN of a probability of zero.
#pragma unroll
        for (int i = 0; i < T::kHeadDim / 16; ++i) {
          const int chunk = i * 32 + lane;
          const int slot = chunk / (T::kHeadDim / 8);
          const uint32_t to = load_slot + T::Layout::Offset(slot, chunk % (T::kHeadDim / 8));
          if (slot == own_slot) continue;
          CopyAsync16(to, k + chunk * 8, slot < valid);
          CopyAsync16(to + T::kTileBytes, v + chunk * 8, slot < valid);
        }
      }
      CopyCommit();
      load_slot = load_slot + 2 * T::kTileBytes == ring + T::kRingBytes ? ring : load_slot + 2 * T::kTileBytes;
    };
    // Keys and values of earlier steps need not wait for the kernel ahead, which makes this step's.
    bool waits = true;
#pragma unroll
    for (int stage = 0; stage < T::kStages; ++stage) {
      if (waits && !decodes && !cursor.Done() && (cursor.Tile() + 1) * kTileKeys > first_slot) {
        AwaitPreviousKernel();
        waits = false;
      }
      load_next();
    }
    if (waits) AwaitPreviousKernel();

    // Lanes 0 to kChunks - 1 have the token's key, 16 bytes each, the next kChunks lanes its value.
    constexpr int kChunks = T::kHeadDim / 8;
    static_assert(2 * kChunks <= 32);
    uint4 own = {};
    if (brings_own && lane < 2 * kChunks) {
      const Append& append = params.append;
      const bool is_v = lane >= kChunks;
      const int chunk = is_v ? lane - kChunks : lane;
      const uint4* from = reinterpret_cast<const uint4*>(static_cast<const E*>(is_v ? append.v : append.k) +
                                                         first_token * (is_v ? append.v_stride : append.k_stride) +
                                                         kv_head * T::kHeadDim);
      own = from[chunk];
      if (!is_v && append.cos != nullptr) {
        const bool first_half = chunk < kChunks / 2;
        const uint4 partner = from[first_half ? chunk + kChunks / 2 : chunk - kChunks / 2];
        const int64_t at = int64_t{first_token} * T::kHeadDim + chunk * 8;
        own = {TurnPair<E>(own.x, partner.x, first_half, append, at),
               TurnPair<E>(own.y, partner.y, first_half, append, at + 2),
               TurnPair<E>(own.z, partner.z, first_half, append, at + 4),
               TurnPair<E>(own.w, partner.w, first_half, append, at + 6)};
      }
      if (column_block == 0) {
        E* to = static_cast<E*>(append.cache) +
                ((int64_t{own_page} * 2 + (is_v ? 1 : 0)) * params.kv_heads + kv_head) * head_elements +
                first_slot % params.page_size * T::kHeadDim + chunk * 8;
        *reinterpret_cast<uint4*>(to) = own;
      }
    }

    // The queries, as the right operand of S^T = K q^T.
    uint32_t q[T::kColumnTiles][T::kHeadDim / 16][2];
    // Column 2 * (lane % 4) + e of a tile sees slots [low, high).
    int low[T::kColumnTiles][2], high[T::kColumnTiles][2];
#pragma unroll
    for (int tile = 0; tile < T::kColumnTiles; ++tile) {
      const int column = 8 * tile + lane / 4;
      const int query = first_column + column;
      const E* from = static_cast<const E*>(params.q) + (first_token + query / params.group) * params.q_stride +
                      (kv_head * params.group + query % params.group) * T::kHeadDim + 2 * (lane % 4);
#pragma unroll
      for (int step = 0; step < T::kHeadDim / 16; ++step) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          q[tile][step][half] = column < columns ? *reinterpret_cast<const uint32_t*>(from + 16 * step + 8 * half) : 0u;
        }
      }
      if (params.append.cos != nullptr && column < columns) {
        constexpr int kHalf = T::kHeadDim / 16;  // in eights of channels
        const int64_t at = int64_t{first_token} * T::kHeadDim + 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < kHalf; ++i) {
          const int j = i + kHalf;
          uint32_t& low_pair = q[tile][i / 2][i % 2];
          uint32_t& high_pair = q[tile][j / 2][j % 2];
          const uint32_t before = low_pair;
          low_pair = TurnPair<E>(low_pair, high_pair, true, params.append, at + 8 * i);
          high_pair = TurnPair<E>(high_pair, before, false, params.append, at + 8 * j);
        }
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        high[tile][e] = first_slot + (first_column + 8 * tile + 2 * (lane % 4) + e) / params.group + 1;
        low[tile][e] = params.window > 0 ? high[tile][e] - params.window : 0;
      }
    }
    // Tiles within these slots are seen whole by every column.
    const int all_see_end = first_slot + first_column / params.group + 1;
    const int all_see_begin = params.window > 0 ? max(0, end - params.window) : 0;

    Sums<T> sums, split;
    sums.Clear();
    uint32_t slot = ring;
    const auto attend = [&](int tile) {
      float s[T::kColumnTiles][4] = {};
#pragma unroll
      for (int step = 0; step < T::kHeadDim / 16; ++step) {
        uint32_t k[4];
        LoadFragments(slot + T::Layout::Offset(lane % 16, 2 * step + lane / 16), k);
#pragma unroll
        for (int t = 0; t < T::kColumnTiles; ++t) Mma<E>(s[t], k, q[t][step][0], q[t][step][1]);
      }
      if (tile * kTileKeys < all_see_begin || (tile + 1) * kTileKeys > all_see_end) {
#pragma unroll
        for (int t = 0; t < T::kColumnTiles; ++t) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int key = tile * kTileKeys + lane / 4 + i / 2 * 8;
            if (key < low[t][i % 2] || key >= high[t][i % 2]) s[t][i] = -INFINITY;
          }
        }
      }
      uint32_t p[T::kColumnTiles][2];
#pragma unroll
      for (int t = 0; t < T::kColumnTiles; ++t) {
        float rescale[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float max = fmaxf(s[t][e], s[t][e + 2]);
#pragma unroll
          for (int lanes = 4; lanes < 32; lanes *= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, lanes));
          const float before = sums.max[t][e];
          max = fmaxf(max, before);
          const float base = max == -INFINITY ? 0.0f : max * params.scale_log2;
          // Exactly one where the maximum stays, which the rounding of `base` would miss: a tile of which a column sees
          // nothing, and which is there for its neighbors, then changes no bit of the column's sums.
          rescale[e] = before == max ? 1.0f : Exp2(__fmaf_rn(before, params.scale_log2, -base));
          sums.max[t][e] = max;
          s[t][e] = Exp2(__fmaf_rn(s[t][e], params.scale_log2, -base));
          s[t][e + 2] = Exp2(__fmaf_rn(s[t][e + 2], params.scale_log2, -base));
          sums.sum[t][e] = __fmaf_rn(sums.sum[t][e], rescale[e], s[t][e] + s[t][e + 2]);
        }
#pragma unroll
        for (int i = 0; i < T::kHeadDim / 16; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums.o[i][t][e] *= rescale[e % 2];
        }
        p[t][0] = Transpose(PackPair<E>(s[t][0], s[t][1]));
        p[t][1] = Transpose(PackPair<E>(s[t][2], s[t][3]));
      }
#pragma unroll
      for (int i = 0; i < T::kHeadDim / 16; ++i) {
        uint32_t v[4];
        LoadTransposedFragments(
            slot + T::kTileBytes + T::Layout::Offset(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2), v);
#pragma unroll
        for (int t = 0; t < T::kColumnTiles; ++t) Mma<E>(sums.o[i][t], v, p[t][0], p[t][1]);
      }
    };

    // Of a part, and of a split, `columns` columns each.
    float* const part_sums = sums_memory;
    float* const split_sums = sums_memory + T::kPartSums * columns * T::kSumsStride;
    Cursor<T> at{cursor.first_tile, cursor.end_tile, warp, rank};
#pragma unroll 1
    for (int part = 0; part < T::kParts; ++part) {
#pragma unroll 1
      for (at.EnterPart(part); at.InPart(); ++at.index) {
        CopyWait<T::kStages - 1>();
        if (at.Tile() == own_tile && lane < 2 * kChunks) {
          const uint32_t to = slot + (lane < kChunks ? 0 : T::kTileBytes) +
                              T::Layout::Offset(first_slot % kTileKeys, lane < kChunks ? lane : lane - kChunks);
          StoreShared(to, own);
        }
        __syncwarp();  // the other lanes' copies too
        attend(at.Tile());
        __syncwarp();  // all have read the slot that is filled again
        slot = slot + 2 * T::kTileBytes == ring + T::kRingBytes ? ring : slot + 2 * T::kTileBytes;
        load_next();
      }
      sums.ReduceSum();
      if constexpr (T::kAlone) {
        if (part % kWarps == 0) split.Clear();
        split.JoinWith(sums, params.scale_log2);
        if (part % kWarps == kWarps - 1) {
          split.Store(split_sums + at.PartSplit(part) * columns * T::kSumsStride, columns, lane);
        }
      } else {
        sums.Store(part_sums + (part * kWarps + warp) * columns * T::kSumsStride, columns, lane);
      }
      sums.Clear();
    }

    const int pairs = columns * (T::kHeadDim / 2);
    __syncthreads();
    if constexpr (!T::kAlone) {
#if __CUDA_ARCH__ >= 900
      hopper::ClusterWait();  // the first block runs, and its barrier is set up
      for (int i = threadIdx.x; i < T::kParts * pairs; i += kThreads) {
        const int part = i / pairs, pair = i - part * pairs;
        const int column = pair / (T::kHeadDim / 2);
        const int channel = pair % (T::kHeadDim / 2) * 2;
        const float* from = part_sums + (part * kWarps * columns + column) * T::kSumsStride;
        const JoinedPair joined =
            JoinStored<T::kHeadDim, kWarps>(from, channel, columns * T::kSumsStride, params.scale_log2);
        const uint32_t to = ToShared(split_sums + ((part * T::kBlocks + rank) * columns + column) * T::kSumsStride);
        StoreCluster(to + channel * 4, 0, joined.o);
        if (channel == 0) StoreCluster(to + T::kHeadDim * 4, 0, make_float2(joined.max, joined.sum));
      }
      __syncwarp();
      if (lane == 0) hopper::BarrierReleaseCluster(arrived, 0);
      if (rank != 0) return;
      hopper::BarrierWaitCluster(arrived, 0);
#endif
    }
    for (int pair = threadIdx.x; pair < pairs; pair += kThreads) {
      const int column = pair / (T::kHeadDim / 2);
      const int channel = pair % (T::kHeadDim / 2) * 2;
      const JoinedPair joined = JoinStored<T::kHeadDim, kSplits>(split_sums + column * T::kSumsStride, channel,
                                                                 columns * T::kSumsStride, params.scale_log2);
      const float inverse = 1.0f / joined.sum;
      const int query = first_column + column;
      E* to =
          static_cast<E*>(params.o) +
          (int64_t{first_token + query / params.group} * params.heads + kv_head * params.group + query % params.group) *
              T::kHeadDim +
          channel;
      *reinterpret_cast<uint32_t*>(to) = PackPair<E>(joined.o.x * inverse, joined.o.y * inverse);
    }
  }
}

// Dynamic shared memory of a block that has `columns` columns.
template <class T>
constexpr size_t SharedBytes(int columns) {
  return kWarps * T::kRingBytes + 16 + size_t{T::kPartSums + kSplits} * columns * T::kSumsStride * 4;
}

template <class Element, int kHeadDim, int kColumnTiles, int kBlocks>
cudaError_t LaunchTraits(Params& params, int64_t columns, cudaStream_t stream) {
  using T = Traits<Element, kHeadDim, kColumnTiles, kBlocks>;
  const int64_t column_blocks = (columns + T::kColumns - 1) / T::kColumns;
  const int64_t blocks = params.rows.rows * column_blocks * params.kv_heads * kBlocks;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  params.column_blocks = static_cast<int>(column_blocks);
  const size_t shared_bytes = SharedBytes<T>(static_cast<int>(columns < T::kColumns ? columns : T::kColumns));
  return LaunchOverlapped(PagedAttentionKernel<T>, static_cast<int>(blocks), kBlocks, kThreads, shared_bytes, stream,
                          params);
}

// `columns`: the most queries of a row on a kv head. `blocks` share a row.
template <class Element, int kHeadDim>
cudaError_t LaunchHeadDim(Params& params, int64_t columns, int blocks, cudaStream_t stream) {
  // The parts' sums of more columns would take more shared memory than there is.
  if (blocks == 2 && columns <= 8) return LaunchTraits<Element, kHeadDim, 1, 2>(params, columns, stream);
  if (blocks > 1) {
    return columns <= 8 ? LaunchTraits<Element, kHeadDim, 1, kSplits>(params, columns, stream)
                        : LaunchTraits<Element, kHeadDim, 2, kSplits>(params, columns, stream);
  }
  // Other GPUs than Hopper's have less shared memory. Which of them refuse a head_dim may not depend on the batch, as
  // bits would then too; eight columns at a time or sixteen have the same bits.
  using Narrow = Traits<Element, kHeadDim, 1, 1>;
  using Wide = Traits<Element, kHeadDim, 2, 1>;
  int device = 0, limit = 0;
  if (cudaError_t error = cudaGetDevice(&device)) return error;
  if (cudaError_t error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) return error;
  if (SharedBytes<Narrow>(Narrow::kColumns) > static_cast<size_t>(limit)) return cudaErrorNotSupported;
  return columns <= 8 || SharedBytes<Wide>(Wide::kColumns) > static_cast<size_t>(limit)
             ? LaunchTraits<Element, kHeadDim, 1, 1>(params, columns, stream)
             : LaunchTraits<Element, kHeadDim, 2, 1>(params, columns, stream);
}

// Defined a type a file, paged_attention_*.cu. cudaErrorNotSupported for a head_dim that has no such kernel.
template <class Element>
cudaError_t LaunchTensorCores(Params& params, int head_dim, int64_t columns, int blocks, cudaStream_t stream);

}  // namespace flashflow::cuda::paged_attention

#endif  // KERNELS_CUDA_PAGED_ATTENTION_CUH_
