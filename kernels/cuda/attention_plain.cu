// A block a query. A key is read by eight lanes, 16 keys at a time by the block; each eight lanes have a softmax of
// their own over every sixteenth key, and these are joined in order at the end.
#include <cstdint>

#include "kernels/cuda/attention_plain.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/launch.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kLanes = 8;  // that share a key
constexpr int kTeams = kThreads / kLanes;
constexpr int kChunk = 8;  // channels that a lane reads at once
constexpr int kMaxHeadDim = 256;

// kChunks: how many chunks of the head a lane has; its i-th is chunk i * kLanes + lane.
template <class E, int kChunks, bool kPaged>
__global__ void __launch_bounds__(kThreads) PlainAttentionKernel(const __grid_constant__ AttentionParams params) {
  __shared__ float team_o[kTeams][kMaxHeadDim];
  __shared__ float team_max[kTeams], team_sum[kTeams];
  const int head = blockIdx.x % params.heads;
  const int query = blockIdx.x / params.heads % params.q_tokens;
  const int row = blockIdx.x / params.heads / params.q_tokens;
  LetNextKernelStart();
  AwaitPreviousKernel();
  const RowSpan span = SpanOf<kPaged>(params, row);
  if (query >= span.queries) return;
  const int end = params.causal ? span.keys - span.queries + query + 1 : span.keys;
  const int begin = params.window > 0 ? max(0, end - params.window) : 0;

  const int team = threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  const auto chunk_at = [&](int i) { return (i * kLanes + lane) * kChunk; };
  float q[kChunks][kChunk], o[kChunks][kChunk];
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
#pragma unroll
    for (int e = 0; e < kChunk; ++e) q[i][e] = o[i][e] = 0;
    if (chunk_at(i) < params.head_dim) {
      LoadChunk(static_cast<const E*>(params.q.data) + span.first_query + query * params.q.token_stride +
                    head * params.q.head_stride + chunk_at(i),
                q[i]);
    }
  }

  float max = -INFINITY, sum = 0;
  const int kv_head = head / (params.heads / params.kv_heads);
  // Whole warps go round together, for their shuffles; a team whose slot is outside does nothing with it.
  for (int first = begin / kTeams * kTeams; first < end; first += kTeams) {
    const int slot = first + team;
    const bool seen = slot >= begin && slot < end;
    float k[kChunks][kChunk] = {}, v[kChunks][kChunk] = {};
    if (seen) {
      const auto [keys, values] = KeyAndValue<E, kPaged>(params, span, row, slot, kv_head);
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        if (chunk_at(i) < params.head_dim) {
          LoadChunk(keys + chunk_at(i), k[i]);
          LoadChunk(values + chunk_at(i), v[i]);
        }
      }
    }
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
#pragma unroll
      for (int e = 0; e < kChunk; ++e) dot = fmaf(q[i][e], k[i][e], dot);
    }
#pragma unroll
    for (int lanes = 1; lanes < kLanes; lanes *= 2) dot += __shfl_xor_sync(~0u, dot, lanes);
    if (!seen) continue;
    const float before = max;
    max = fmaxf(max, dot);
    const float rescale = exp2f((before - max) * params.scale_log2);
    const float p = exp2f((dot - max) * params.scale_log2);
    sum = fmaf(sum, rescale, p);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
#pragma unroll
      for (int e = 0; e < kChunk; ++e) o[i][e] = fmaf(p, v[i][e], o[i][e] * rescale);
    }
  }
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
#pragma unroll
    for (int e = 0; e < kChunk; ++e) {
      if (chunk_at(i) < params.head_dim) team_o[team][chunk_at(i) + e] = o[i][e];
    }
  }
  if (lane == 0) {
    team_max[team] = max;
    team_sum[team] = sum;
  }
  __syncthreads();
  float all_max = -INFINITY, all_sum = 0;
  for (int i = 0; i < kTeams; ++i) all_max = fmaxf(all_max, team_max[i]);
  for (int i = 0; i < kTeams; ++i) all_sum += team_sum[i] * exp2f((team_max[i] - all_max) * params.scale_log2);
  E* to =
      static_cast<E*>(params.o.data) + span.first_output + query * params.o.token_stride + head * params.o.head_stride;
  for (int channel = threadIdx.x; channel < params.head_dim; channel += kThreads) {
    float value = 0;
    for (int i = 0; i < kTeams; ++i) {
      value = fmaf(team_o[i][channel], exp2f((team_max[i] - all_max) * params.scale_log2), value);
    }
    to[channel] = FromFloat<E>(value / all_sum);
  }
}

template <class E, bool kPaged>
cudaError_t LaunchElement(const AttentionParams& params, cudaStream_t stream) {
  const int64_t blocks = int64_t{params.batch} * params.q_tokens * params.heads;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  const int chunks = (params.head_dim + kLanes * kChunk - 1) / (kLanes * kChunk);
  const auto kernel = chunks == 1   ? PlainAttentionKernel<E, 1, kPaged>
                      : chunks == 2 ? PlainAttentionKernel<E, 2, kPaged>
                                    : PlainAttentionKernel<E, 4, kPaged>;
  return LaunchOverlapped(kernel, static_cast<int>(blocks), 1, kThreads, 0, stream, params);
}

template <class E>
cudaError_t LaunchElement(const AttentionParams& params, bool paged, cudaStream_t stream) {
  return paged ? LaunchElement<E, true>(params, stream) : LaunchElement<E, false>(params, stream);
}

}  // namespace

cudaError_t LaunchPlainAttention(const AttentionParams& params, Dtype dtype, bool paged, cudaStream_t stream) {
  switch (dtype) {
    case Dtype::kF32:
      return LaunchElement<float>(params, paged, stream);
    case Dtype::kF16:
      return LaunchElement<__half>(params, paged, stream);
    case Dtype::kBf16:
      return LaunchElement<__nv_bfloat16>(params, paged, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
