// The kernel behind FusedAttentionSm80 and PagedPrefill. See fused_attention.h and paged_attention.h for what they
// compute.
//
// A block has 64 queries of one head, 16 a warp, and passes over the keys, 64 at a time, with two blocks of keys and
// values in shared memory: one in use, one on its way. Scores, sums and output stay in registers (after Dao,
// FlashAttention-2, 2023). Blocks of keys are counted from key 0 and leave a query that sees nothing in them as it is:
// so its sums do not depend on the queries beside it.
#ifndef KERNELS_CUDA_FUSED_ATTENTION_SM80_CUH_
#define KERNELS_CUDA_FUSED_ATTENTION_SM80_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/attention_params.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

namespace flashflow::cuda::attention_sm80 {

inline constexpr int kThreads = 128;
inline constexpr int kTileQueries = 64;
inline constexpr int kBlockKeys = 64;

// kHeadDim: head_dim, rounded up to one that is compiled.
template <class E, int kHeadDim, bool kPaged>
__global__ void __launch_bounds__(kThreads) FusedAttentionKernel(const __grid_constant__ AttentionParams params) {
  using Layout = TileLayout<kHeadDim>;
  constexpr int kChunks = kHeadDim / 8;  // of 16 bytes, in a row
  constexpr int kBlockBytes = kBlockKeys * Layout::kRowBytes;
  constexpr int kSteps = kHeadDim / 16;
  extern __shared__ __align__(128) uint8_t shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Under a causal mask the last queries have the most to do: they begin first.
  const int heads_and_rows = params.heads * params.batch;
  const int tile = params.tiles - 1 - static_cast<int>(blockIdx.x) / heads_and_rows;
  const int head = blockIdx.x % heads_and_rows % params.heads;
  const int row = blockIdx.x % heads_and_rows / params.heads;
  const int kv_head = head / (params.heads / params.kv_heads);

  LetNextKernelStart();
  AwaitPreviousKernel();
  const RowSpan span = SpanOf<kPaged>(params, row);
  const int queries = span.queries, keys = span.keys;
  const int tile_query = tile * kTileQueries;
  if (tile_query >= queries) return;

  // Query i sees keys [i + 1 + past - window, i + 1 + past), or all.
  const int past = keys - queries;
  const int last_query = min(tile_query + kTileQueries, queries) - 1;
  const int end = params.causal ? last_query + 1 + past : keys;
  const int begin = params.window > 0 ? max(0, tile_query + 1 + past - params.window) : 0;
  const int end_block = (end + kBlockKeys - 1) / kBlockKeys;

  const uint32_t ring = ToShared(shared);
  const auto load = [&](int block) {
    const uint32_t to = ring + block % 2 * (2 * kBlockBytes);
#pragma unroll
    for (int i = 0; i < kBlockKeys * kChunks / kThreads; ++i) {
      const int index = i * kThreads + threadIdx.x;
      const int key = block * kBlockKeys + index / kChunks, chunk = index % kChunks;
      // What no query of the tile sees may lie nowhere: zeros in its place.
      const bool valid = key >= begin && key < end && chunk * 8 < params.head_dim;
      const auto [k, v] = KeyAndValue<E, kPaged>(params, span, row, max(begin, min(key, end - 1)), kv_head);
      const uint32_t offset = to + Layout::Offset(index / kChunks, chunk);
      CopyAsync16(offset, k + (valid ? chunk * 8 : 0), valid);
      CopyAsync16(offset + kBlockBytes, v + (valid ? chunk * 8 : 0), valid);
    }
  };
  int block = begin / kBlockKeys;
  load(block);
  CopyCommit();

  // A thread's two queries, lane / 4 and 8 more of its warp's 16.
  int low[2], high[2];
  uint32_t q[kSteps][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = tile_query + warp * 16 + lane / 4 + 8 * half;
    high[half] = params.causal ? query + 1 + past : keys;
    low[half] = params.window > 0 ? high[half] - params.window : 0;
    const E* from = static_cast<const E*>(params.q.data) + span.first_query + query * params.q.token_stride +
                    head * params.q.head_stride;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int right = 0; right < 2; ++right) {
        const int channel = 16 * step + 8 * right + 2 * (lane % 4);
        q[step][half + 2 * right] =
            query < queries && channel < params.head_dim ? *reinterpret_cast<const uint32_t*>(from + channel) : 0u;
      }
    }
  }
  // Blocks within these keys are seen whole by the warp's queries.
  const int warp_query = tile_query + warp * 16;
  const int all_see_end = params.causal ? min(keys, warp_query + 1 + past) : keys;
  const int all_see_begin = params.window > 0 ? warp_query + 16 + past - params.window : 0;

  float o[2 * kSteps][4] = {};
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  for (; block < end_block; ++block) {
    CopyWait<0>();
    __syncthreads();  // everyone's copies have arrived, and the other half of the ring is no longer read
    if (block + 1 < end_block) load(block + 1);
    CopyCommit();
    const uint32_t k_block = ring + block % 2 * (2 * kBlockBytes), v_block = k_block + kBlockBytes;

    float s[kBlockKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int pair = 0; pair < kBlockKeys / 16; ++pair) {
        uint32_t k[4];
        LoadFragments(k_block + Layout::Offset(pair * 16 + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2), k);
        Mma<E>(s[2 * pair], q[step], k[0], k[1]);
        Mma<E>(s[2 * pair + 1], q[step], k[2], k[3]);
      }
    }
    const int first = block * kBlockKeys;
    if (first < all_see_begin || first + kBlockKeys > all_see_end) {
#pragma unroll
      for (int i = 0; i < kBlockKeys / 8; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = first + 8 * i + 2 * (lane % 4) + e % 2;
          if (key < low[e / 2] || key >= high[e / 2]) s[i][e] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float before = max[half];
#pragma unroll
      for (int i = 0; i < kBlockKeys / 8; ++i) {
        max[half] = fmaxf(max[half], fmaxf(s[i][2 * half], s[i][2 * half + 1]));
      }
      max[half] = fmaxf(max[half], __shfl_xor_sync(~0u, max[half], 1));
      max[half] = fmaxf(max[half], __shfl_xor_sync(~0u, max[half], 2));
      const float base = max[half] == -INFINITY ? 0.0f : max[half] * params.scale_log2;
      // Exactly one where the maximum stays: a block that only other queries of the tile see changes no bit.
      const float rescale = before == max[half] ? 1.0f : Exp2(__fmaf_rn(before, params.scale_log2, -base));
      float more = 0;
#pragma unroll
      for (int i = 0; i < kBlockKeys / 8; ++i) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[i][e] = Exp2(__fmaf_rn(s[i][e], params.scale_log2, -base));
          more += s[i][e];
        }
      }
      sum[half] = __fmaf_rn(sum[half], rescale, more);
#pragma unroll
      for (int i = 0; i < 2 * kSteps; ++i) {
        o[i][2 * half] *= rescale;
        o[i][2 * half + 1] *= rescale;
      }
    }
#pragma unroll
    for (int step = 0; step < kBlockKeys / 16; ++step) {
      const uint32_t p[4] = {PackPair<E>(s[2 * step][0], s[2 * step][1]), PackPair<E>(s[2 * step][2], s[2 * step][3]),
                             PackPair<E>(s[2 * step + 1][0], s[2 * step + 1][1]),
                             PackPair<E>(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        uint32_t v[4];
        LoadTransposedFragments(v_block + Layout::Offset(step * 16 + lane % 16, 2 * i + lane / 16), v);
        Mma<E>(o[2 * i], p, v[0], v[1]);
        Mma<E>(o[2 * i + 1], p, v[2], v[3]);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
    sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
    const float inverse = 1.0f / sum[half];
    const int query = tile_query + warp * 16 + lane / 4 + 8 * half;
    if (query >= queries) continue;
    E* to = static_cast<E*>(params.o.data) + span.first_output + query * params.o.token_stride +
            head * params.o.head_stride;
#pragma unroll
    for (int i = 0; i < 2 * kSteps; ++i) {
      const int channel = 8 * i + 2 * (lane % 4);
      if (channel < params.head_dim) {
        *reinterpret_cast<uint32_t*>(to + channel) =
            PackPair<E>(o[i][2 * half] * inverse, o[i][2 * half + 1] * inverse);
      }
    }
  }
}

template <class E, int kHeadDim, bool kPaged>
cudaError_t LaunchKernel(const AttentionParams& params, cudaStream_t stream) {
  const int64_t blocks = int64_t{params.tiles} * params.heads * params.batch;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  return LaunchOverlapped(FusedAttentionKernel<E, kHeadDim, kPaged>, static_cast<int>(blocks), 1, kThreads,
                          size_t{4} * kBlockKeys * TileLayout<kHeadDim>::kRowBytes, stream, params);
}

// Defined a type a file, fused_attention_sm80_*.cu. params.tiles: blocks of kTileQueries queries. Precondition:
// head_dim is a multiple of 8 up to 128.
template <class E>
cudaError_t Launch(const AttentionParams& params, bool paged, cudaStream_t stream);

template <class E>
cudaError_t LaunchElement(const AttentionParams& params, bool paged, cudaStream_t stream) {
  const auto launch = [&]<int kHeadDim>() {
    return paged ? LaunchKernel<E, kHeadDim, true>(params, stream) : LaunchKernel<E, kHeadDim, false>(params, stream);
  };
  if (params.head_dim <= 64) return launch.template operator()<64>();
  if (params.head_dim <= 80) return launch.template operator()<80>();
  if (params.head_dim <= 96) return launch.template operator()<96>();
  return launch.template operator()<128>();
}

}  // namespace flashflow::cuda::attention_sm80

#endif  // KERNELS_CUDA_FUSED_ATTENTION_SM80_CUH_
