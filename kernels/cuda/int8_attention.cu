// The queries that read one kv head of one row, tokens times heads of its group, are columns; a block has a few of
// them.
//
// The context is cut by position alone: tile u, of 32 slots, belongs to part u % 16. A warp takes a part's tiles in
// order, with a softmax of its own, and then perhaps another part; at the end the parts are joined in order. So neither
// the number of warps of a block nor that of its columns shows in the bits.
//
// Within a warp eight lanes, a team, share a slot, each with chunks of eight channels, and a team has eight slots of a
// tile: its lanes exchange the partial sums of eight products so that each ends with the score of one slot. A lane then
// sees to that slot alone: its scale, its exponential, where its page lies.
#include <cstdint>

#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/int8_cache.h"
#include "kernels/cuda/launch.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kTileSlots = 32;
constexpr int kParts = 16;
constexpr int kTeams = 4, kTeamLanes = 8;
constexpr int kTeamSlots = kTileSlots / kTeams;
constexpr int kChunk = 8;  // channels that a lane reads at once

struct Params {
  const void* q;
  void* o;
  const int8_t* cache;
  PagedRows rows;
  Dtype dtype;
  int64_t q_stride;
  int heads, kv_heads, group, head_dim, page_size, window;
  int column_blocks;  // of a row on a kv head
  float scale_log2;
};

template <int kChunks, int kColumns>
struct PartSums {
  float o[kParts][kColumns][kChunks * kTeamLanes * kChunk];
  float max[kParts][kColumns], sum[kParts][kColumns];
};

// Four codes, each with its sign bit turned over: floats, exactly.
__device__ __forceinline__ void ToFloats(uint32_t flipped, float* x) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // 2^23 + (code + 128), less 2^23 + 128.
    x[i] = __uint_as_float(__byte_perm(flipped, 0x4b000000u, 0x7440 + i)) - 8388736.0f;
  }
}

__device__ __forceinline__ void ToFloats(uint2 codes, float (&x)[kChunk]) {
  ToFloats(codes.x ^ 0x80808080u, x);
  ToFloats(codes.y ^ 0x80808080u, x + 4);
}

__device__ __forceinline__ void LoadQuery(const Params& params, int64_t at, float (&x)[kChunk]) {
  if (params.dtype == Dtype::kBf16) LoadChunk(static_cast<const __nv_bfloat16*>(params.q) + at, x);
  if (params.dtype == Dtype::kF16) LoadChunk(static_cast<const __half*>(params.q) + at, x);
  if (params.dtype == Dtype::kF32) LoadChunk(static_cast<const float*>(params.q) + at, x);
}

__device__ __forceinline__ void SaveResult(const Params& params, int64_t at, float x) {
  if (params.dtype == Dtype::kBf16) static_cast<__nv_bfloat16*>(params.o)[at] = FromFloat<__nv_bfloat16>(x);
  if (params.dtype == Dtype::kF16) static_cast<__half*>(params.o)[at] = FromFloat<__half>(x);
  if (params.dtype == Dtype::kF32) static_cast<float*>(params.o)[at] = x;
}

// Lane i of a team gets the sum over the team's lanes of their x[i].
__device__ __forceinline__ float SumAcrossTeam(float (&x)[kTeamSlots]) {
  const int lane = threadIdx.x % kTeamLanes;
#pragma unroll
  for (int width = kTeamLanes / 2; width >= 1; width /= 2) {
    const bool upper = (lane & width) != 0;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const float sent = upper ? x[i] : x[i + width];
      const float kept = upper ? x[i + width] : x[i];
      x[i] = __fadd_rn(kept, __shfl_xor_sync(~0u, sent, width));
    }
  }
  return x[0];
}

// kChunks: how many chunks of the head a lane has; its i-th is chunk i * kTeamLanes + lane.
template <int kChunks, int kColumns, int kWarps>
__global__ void __launch_bounds__(32 * kWarps) Int8AttentionKernel(const __grid_constant__ Params params) {
  __shared__ PartSums<kChunks, kColumns> parts;
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int kv_head = blockIdx.x / params.column_blocks % params.kv_heads;
  const int row = blockIdx.x / params.column_blocks / params.kv_heads;
  const int first_token = params.rows.row_start[row];
  const int tokens = params.rows.row_start[row + 1] - first_token;
  const int first_column = blockIdx.x % params.column_blocks * kColumns;
  const int columns = min(kColumns, tokens * params.group - first_column);
  if (columns <= 0) return;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int team = lane / kTeamLanes, team_lane = lane % kTeamLanes;
  const int d = params.head_dim;
  // The slots [begin, end) that a column sees; what all of the block's see lies in those of the first and the last.
  const auto token_of = [&](int column) { return (first_column + column) / params.group; };
  const auto end_of = [&](int column) { return params.rows.kv_len[row] - tokens + token_of(column) + 1; };
  const auto begin_of = [&](int end) { return params.window > 0 ? max(0, end - params.window) : 0; };
  const auto head_of = [&](int column) { return kv_head * params.group + (first_column + column) % params.group; };
  const int all_begin = begin_of(end_of(0)), all_end = end_of(columns - 1);
  const int first_tile = all_begin / kTileSlots;

  float q[kColumns][kChunks][kChunk];
  int end[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    end[c] = c < columns ? end_of(c) : 0;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int channel = (i * kTeamLanes + team_lane) * kChunk;
#pragma unroll
      for (int e = 0; e < kChunk; ++e) q[c][i][e] = 0;
      if (c < columns && channel < d) {
        LoadQuery(params, (first_token + token_of(c)) * params.q_stride + int64_t{head_of(c)} * d + channel, q[c][i]);
      }
    }
  }

  const int32_t* table = params.rows.block_table + int64_t{row} * params.rows.pages_per_row;
  const int head_bytes = params.page_size * (d + 4);
  const int64_t v_bytes = int64_t{params.kv_heads} * head_bytes;  // from a page's keys to its values
  for (int part = warp; part < kParts; part += kWarps) {
    float o[kColumns][kChunks][kChunk] = {}, max_score[kColumns], sum[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      max_score[c] = -INFINITY;
      sum[c] = 0;
    }
    for (int tile = first_tile + ((part - first_tile) & (kParts - 1)); tile * kTileSlots < all_end; tile += kParts) {
      // Of the lane's own slot, its team's team_lane-th; of the others it asks the lanes that own them.
      const int slot = tile * kTileSlots + team_lane * kTeams + team;
      int at = -1;  // in 8 bytes
      float k_scale = 0, v_scale = 0;
      if (slot >= all_begin && slot < all_end) {
        const int page_index = slot / params.page_size;
        const int in_page = slot - page_index * params.page_size;
        const int8_t* keys = params.cache + (int64_t{table[page_index]} * 2 * params.kv_heads + kv_head) * head_bytes;
        const float* scales = reinterpret_cast<const float*>(keys + params.page_size * d) + in_page;
        at = static_cast<int>((keys + in_page * d - params.cache) / 8);
        k_scale = *scales;
        v_scale = *reinterpret_cast<const float*>(reinterpret_cast<const int8_t*>(scales) + v_bytes);
      }
      uint2 k[kTeamSlots][kChunks], v[kTeamSlots][kChunks];
#pragma unroll
      for (int s = 0; s < kTeamSlots; ++s) {
        const int slot_at = __shfl_sync(~0u, at, s, kTeamLanes);
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
          const int channel = (i * kTeamLanes + team_lane) * kChunk;
          k[s][i] = v[s][i] = make_uint2(0, 0);
          if (slot_at < 0 || channel >= d) continue;
          const int8_t* keys = params.cache + int64_t{slot_at} * 8 + channel;
          k[s][i] = *reinterpret_cast<const uint2*>(keys);
          v[s][i] = *reinterpret_cast<const uint2*>(keys + v_bytes);
        }
      }
      float dot[kColumns][kTeamSlots] = {};
#pragma unroll
      for (int s = 0; s < kTeamSlots; ++s) {
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
          float key[kChunk];
          ToFloats(k[s][i], key);
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int e = 0; e < kChunk; ++e) dot[c][s] = fmaf(q[c][i][e], key[e], dot[c][s]);
          }
        }
      }
      float share[kColumns];  // of the lane's own slot: its probability so far, times the scale of its value
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const float product = SumAcrossTeam(dot[c]);
        const bool seen = slot >= begin_of(end[c]) && slot < end[c];
        const float score = seen ? __fmul_rn(product, k_scale) : -INFINITY;
        float most = score;
#pragma unroll
        for (int width = 16; width >= 1; width /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, width));
        most = fmaxf(most, max_score[c]);
        const float shift = most == -INFINITY ? 0.0f : most;
        const float rescale = Exp2(__fmul_rn(__fsub_rn(max_score[c], shift), params.scale_log2));
        const float p = Exp2(__fmul_rn(__fsub_rn(score, shift), params.scale_log2));
        max_score[c] = most;
        sum[c] = fmaf(sum[c], rescale, p);
        share[c] = __fmul_rn(p, v_scale);
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
#pragma unroll
          for (int e = 0; e < kChunk; ++e) o[c][i][e] = __fmul_rn(o[c][i][e], rescale);
        }
      }
#pragma unroll
      for (int s = 0; s < kTeamSlots; ++s) {
        float slot_share[kColumns];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) slot_share[c] = __shfl_sync(~0u, share[c], s, kTeamLanes);
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
          float value[kChunk];
          ToFloats(v[s][i], value);
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int e = 0; e < kChunk; ++e) o[c][i][e] = fmaf(slot_share[c], value[e], o[c][i][e]);
          }
        }
      }
    }
    // The teams' sums, the same in each afterwards.
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int width = 1; width < 32; width *= 2) sum[c] = __fadd_rn(sum[c], __shfl_xor_sync(~0u, sum[c], width));
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
#pragma unroll
        for (int e = 0; e < kChunk; ++e) {
          float x = o[c][i][e];
          x = __fadd_rn(x, __shfl_xor_sync(~0u, x, kTeamLanes));
          x = __fadd_rn(x, __shfl_xor_sync(~0u, x, 2 * kTeamLanes));
          if (team == 0) parts.o[part][c][(i * kTeamLanes + team_lane) * kChunk + e] = x;
        }
      }
      if (lane == 0) {
        parts.max[part][c] = max_score[c];
        parts.sum[part][c] = sum[c];
      }
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < columns * d; i += 32 * kWarps) {
    const int c = i / d, channel = i % d;
    float most = -INFINITY;
#pragma unroll
    for (int part = 0; part < kParts; ++part) most = fmaxf(most, parts.max[part][c]);
    float all = 0, value = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const float factor = Exp2(__fmul_rn(__fsub_rn(parts.max[part][c], most), params.scale_log2));
      all = fmaf(parts.sum[part][c], factor, all);
      value = fmaf(parts.o[part][c][channel], factor, value);
    }
    SaveResult(params, (int64_t{first_token + token_of(c)} * params.heads + head_of(c)) * d + channel,
               __fdiv_rn(value, all));
  }
}

template <int kChunks, int kColumns, int kWarps>
cudaError_t Launch(Params& params, int rows, int64_t columns, cudaStream_t stream) {
  const int64_t column_blocks = (columns + kColumns - 1) / kColumns;
  const int64_t blocks = rows * int64_t{params.kv_heads} * column_blocks;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  params.column_blocks = static_cast<int>(column_blocks);
  return LaunchOverlapped(Int8AttentionKernel<kChunks, kColumns, kWarps>, static_cast<int>(blocks), 1, 32 * kWarps, 0,
                          stream, params);
}

}  // namespace

cudaError_t Int8Attention(const Int8AttentionArgs& args, cudaStream_t stream) {
  const PagedRows& rows = args.rows;
  for (const void* pointer :
       {args.q, static_cast<const void*>(args.o), args.cache, static_cast<const void*>(rows.row_start),
        static_cast<const void*>(rows.kv_len), static_cast<const void*>(rows.block_table)}) {
    if (pointer == nullptr) return cudaErrorInvalidValue;
  }
  if (rows.rows < 1 || rows.pages_per_row < 1 || args.max_row_tokens < 1 || args.kv_heads < 1 || args.heads < 1 ||
      args.heads % args.kv_heads != 0 || args.page_size < 1 || args.head_dim < 1 || !(args.scale > 0) ||
      args.window < 0) {
    return cudaErrorInvalidValue;
  }
  for (const void* pointer : {args.q, args.cache}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return cudaErrorNotSupported;
  }
  if (args.dtype == Dtype::kS8 || args.head_dim % 8 != 0 || args.head_dim > 256 || args.page_size % 4 != 0 ||
      args.q_stride * ElementBytes(args.dtype) % 16 != 0) {
    return cudaErrorNotSupported;
  }
  Params params;
  params.q = args.q;
  params.o = args.o;
  params.cache = static_cast<const int8_t*>(args.cache);
  params.rows = rows;
  params.dtype = args.dtype;
  params.q_stride = args.q_stride;
  params.heads = args.heads;
  params.kv_heads = args.kv_heads;
  params.group = args.heads / args.kv_heads;
  params.head_dim = args.head_dim;
  params.page_size = args.page_size;
  params.window = args.window;
  params.scale_log2 = args.scale * kLog2E;
  const int64_t columns = int64_t{params.group} * args.max_row_tokens;
  if (args.head_dim <= 64) {
    return columns == 1 ? Launch<1, 1, 16>(params, rows.rows, columns, stream)
                        : Launch<1, 4, 8>(params, rows.rows, columns, stream);
  }
  if (args.head_dim <= 128) {
    return columns == 1 ? Launch<2, 1, 8>(params, rows.rows, columns, stream)
                        : Launch<2, 2, 8>(params, rows.rows, columns, stream);
  }
  return Launch<4, 1, 8>(params, rows.rows, columns, stream);
}

}  // namespace flashflow::cuda
