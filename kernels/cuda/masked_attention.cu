// A warp takes every fourth key; each warp has a softmax of its own, and these are joined in order at the end.
#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/masked_attention.h"

namespace flashflow::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// What the mask adds to a score: -infinity hides the key.
__device__ __forceinline__ float MaskAt(const MaskedAttentionArgs& args, int64_t at) {
  switch (args.mask_dtype) {
    case Dtype::kBool:
      return static_cast<const uint8_t*>(args.mask)[at] != 0 ? 0.0f : -INFINITY;
    case Dtype::kF16:
      return ToFloat(static_cast<const __half*>(args.mask)[at]);
    case Dtype::kBf16:
      return ToFloat(static_cast<const __nv_bfloat16*>(args.mask)[at]);
    default:
      return static_cast<const float*>(args.mask)[at];
  }
}

// kChannels: how many channels of a head a lane has; its i-th is channel i * 32 + lane.
template <class E, int kChannels>
__global__ void __launch_bounds__(kThreads) MaskedAttentionKernel(const __grid_constant__ MaskedAttentionArgs args) {
  __shared__ float warp_o[kWarps][kChannels * 32];
  __shared__ float warp_most[kWarps], warp_sum[kWarps];
  const int query = blockIdx.x % args.queries;
  const int head = blockIdx.x / args.queries % args.heads;
  const int row = blockIdx.x / args.queries / args.heads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t kv_head = int64_t{row} * args.kv_heads + head / (args.heads / args.kv_heads);
  const E* keys = static_cast<const E*>(args.k) + kv_head * args.keys * args.head_dim;
  const E* values = static_cast<const E*>(args.v) + kv_head * args.keys * args.value_dim;
  const int64_t mask = row * args.mask_strides[0] + head * args.mask_strides[1] + query * args.mask_strides[2];
  // The last key in sight, by causality and the window.
  const int64_t last = int64_t{query} + args.keys - args.queries;
  const int64_t end = args.causal ? max(min(last + 1, int64_t{args.keys}), int64_t{0}) : args.keys;
  const int64_t begin = args.window > 0 ? max(last - args.window + 1, int64_t{0}) : 0;

  float q[kChannels], o[kChannels];
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = i * 32 + lane;
    o[i] = 0;
    q[i] = channel < args.head_dim
               ? ToFloat(static_cast<const E*>(args.q)[blockIdx.x * int64_t{args.head_dim} + channel])
               : 0.0f;
  }
  float most = -INFINITY, sum = 0;
  for (int64_t key = begin / kWarps * kWarps + warp; key < end; key += kWarps) {
    if (key < begin) continue;
    const float added = args.mask == nullptr ? 0.0f : MaskAt(args, mask + key * args.mask_strides[3]);
    if (added == -INFINITY) continue;  // the same for the whole warp
    float score = 0;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int channel = i * 32 + lane;
      if (channel < args.head_dim) score = fmaf(q[i], ToFloat(keys[key * args.head_dim + channel]), score);
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) score += __shfl_xor_sync(~0u, score, lanes);
    score = score * args.scale + added;
    const float before = most;
    most = fmaxf(most, score);
    // A score of -infinity that no mask made: weight zero, and no difference of infinities.
    const float rescale = before == most ? 1.0f : expf(before - most);
    const float weight = score == -INFINITY ? 0.0f : expf(score - most);
    sum = fmaf(sum, rescale, weight);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int channel = i * 32 + lane;
      if (channel < args.value_dim) {
        o[i] = fmaf(weight, ToFloat(values[key * args.value_dim + channel]), o[i] * rescale);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) warp_o[warp][i * 32 + lane] = o[i];
  if (lane == 0) {
    warp_most[warp] = most;
    warp_sum[warp] = sum;
  }
  __syncthreads();
  float all_most = -INFINITY, all_sum = 0, factor[kWarps];
#pragma unroll
  for (int i = 0; i < kWarps; ++i) all_most = fmaxf(all_most, warp_most[i]);
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    factor[i] = warp_most[i] == all_most ? 1.0f : expf(warp_most[i] - all_most);
    all_sum = fmaf(warp_sum[i], factor[i], all_sum);
  }
  for (int channel = threadIdx.x; channel < args.value_dim; channel += kThreads) {
    float value = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) value = fmaf(warp_o[i][channel], factor[i], value);
    static_cast<E*>(args.y)[blockIdx.x * int64_t{args.value_dim} + channel] =
        FromFloat<E>(all_sum == 0 ? 0.0f : value / all_sum);
  }
}

template <class E>
cudaError_t Launch(const MaskedAttentionArgs& args, cudaStream_t stream) {
  const int64_t heads = int64_t{args.batch} * args.heads;
  if (heads > INT32_MAX / args.queries) return cudaErrorNotSupported;
  const auto kernel =
      args.head_dim <= 128 && args.value_dim <= 128 ? MaskedAttentionKernel<E, 4> : MaskedAttentionKernel<E, 16>;
  return LaunchOverlapped(kernel, static_cast<int>(heads * args.queries), 1, kThreads, 0, stream, args);
}

}  // namespace

cudaError_t MaskedAttention(const MaskedAttentionArgs& args, cudaStream_t stream) {
  if (args.batch < 0 || args.heads < 0 || args.queries < 0 || args.keys < 0 || args.head_dim < 0 ||
      args.value_dim < 0 || args.window < 0 || args.kv_heads < 1 || args.heads % args.kv_heads != 0) {
    return cudaErrorInvalidValue;
  }
  if (args.head_dim > kMaxMaskedHeadDim || args.value_dim > kMaxMaskedHeadDim ||
      (args.mask != nullptr && args.mask_dtype != Dtype::kBool && args.mask_dtype != Dtype::kF32 &&
       args.mask_dtype != args.dtype)) {
    return cudaErrorNotSupported;
  }
  if (args.batch == 0 || args.heads == 0 || args.queries == 0 || args.value_dim == 0) return cudaSuccess;
  if (args.y == nullptr || (args.q == nullptr && args.head_dim > 0) ||
      (args.keys > 0 && ((args.k == nullptr && args.head_dim > 0) || args.v == nullptr))) {
    return cudaErrorInvalidValue;
  }
  switch (args.dtype) {
    case Dtype::kF32:
      return Launch<float>(args, stream);
    case Dtype::kF16:
      return Launch<__half>(args, stream);
    case Dtype::kBf16:
      return Launch<__nv_bfloat16>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
