// A warp a head of a token: a lane has channels a warp apart of the first half, and those that they are turned with.
#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/int8_cache.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize_row.cuh"
#include "kernels/cuda/rotate.cuh"
#include "kernels/cuda/row_of.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxHeadDim = 256;
constexpr int kSteps = kMaxHeadDim / 2 / 32;  // channels of the first half that a lane may have

template <class E, class Angle>
__global__ void __launch_bounds__(32 * kWarps) Int8AppendKernel(const __grid_constant__ Int8AppendArgs args) {
  LetNextKernelStart();
  const int lane = threadIdx.x % 32;
  const int half = args.head_dim / 2;
  const int all_heads = args.heads + 2 * args.kv_heads;
  const int64_t index = blockIdx.x * int64_t{kWarps} + threadIdx.x / 32;
  const int head = static_cast<int>(index % all_heads);
  const int64_t token = index / all_heads;
  if (token >= args.tokens) return;

  const bool is_q = head < args.heads;
  const bool is_v = head >= args.heads + args.kv_heads;
  const TokenHeads& part = is_q ? args.q : is_v ? args.v : args.k;
  const int part_head = is_q ? head : is_v ? head - args.heads - args.kv_heads : head - args.heads;
  // Where it goes is known before the kernel ahead has ended.
  int8_t* codes = nullptr;
  float* scale = nullptr;
  if (!is_q) {
    const int row = RowOf(args.rows, static_cast<int>(token));
    const int slot = args.rows.kv_len[row] - (args.rows.row_start[row + 1] - static_cast<int>(token));
    const int64_t page = args.rows.block_table[int64_t{row} * args.rows.pages_per_row + slot / args.page_size];
    const int64_t head_bytes = int64_t{args.page_size} * (args.head_dim + 4);
    int8_t* page_head =
        static_cast<int8_t*>(args.cache) + ((page * 2 + (is_v ? 1 : 0)) * args.kv_heads + part_head) * head_bytes;
    codes = page_head + (slot % args.page_size) * args.head_dim;
    scale = reinterpret_cast<float*>(page_head + args.page_size * args.head_dim) + slot % args.page_size;
  }

  AwaitPreviousKernel();
  const E* from = static_cast<const E*>(part.data) + token * part.stride + part_head * args.head_dim;
  float low[kSteps] = {}, high[kSteps] = {};
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int channel = i * 32 + lane;
    if (channel >= half) continue;
    low[i] = ToFloat(from[channel]);
    high[i] = ToFloat(from[channel + half]);
    if (args.cos != nullptr && !is_v) {
      const Angle* cos = static_cast<const Angle*>(args.cos) + token * args.head_dim + channel;
      const Angle* sin = static_cast<const Angle*>(args.sin) + token * args.head_dim + channel;
      const float x = low[i];
      low[i] = ToFloat(FromFloat<E>(RotateLow(x, high[i], ToFloat(cos[0]), ToFloat(sin[0]))));
      high[i] = ToFloat(FromFloat<E>(RotateHigh(high[i], x, ToFloat(cos[half]), ToFloat(sin[half]))));
    }
    most = max(most, max(Magnitude(low[i]), Magnitude(high[i])));
  }
  if (is_q) {
    E* to = static_cast<E*>(args.q_out.data) + token * args.q_out.stride + part_head * args.head_dim;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int channel = i * 32 + lane;
      if (channel >= half) continue;
      to[channel] = FromFloat<E>(low[i]);
      to[channel + half] = FromFloat<E>(high[i]);
    }
    return;
  }
  const RowScale row_scale = ScaleOf(__reduce_max_sync(~0u, most), INFINITY);
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const int channel = i * 32 + lane;
    if (channel >= half) continue;
    codes[channel] = static_cast<int8_t>(Code(low[i], row_scale.factor));
    codes[channel + half] = static_cast<int8_t>(Code(high[i], row_scale.factor));
  }
  if (lane == 0) *scale = row_scale.scale;
}

template <class E>
cudaError_t Launch(const Int8AppendArgs& args, cudaStream_t stream) {
  const int64_t blocks = (int64_t{args.tokens} * (args.heads + 2 * args.kv_heads) + kWarps - 1) / kWarps;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  const auto kernel = args.angle_dtype == Dtype::kF32 ? Int8AppendKernel<E, float> : Int8AppendKernel<E, E>;
  return LaunchOverlapped(kernel, static_cast<int>(blocks), 1, 32 * kWarps, 0, stream, args);
}

}  // namespace

cudaError_t Int8Append(const Int8AppendArgs& args, cudaStream_t stream) {
  if (args.tokens < 0 || args.heads < 0 || args.kv_heads < 1 || args.head_dim < 1 || args.page_size < 1 ||
      args.rows.rows < 1 || args.rows.pages_per_row < 1 || args.k.data == nullptr || args.v.data == nullptr ||
      args.cache == nullptr || args.rows.row_start == nullptr || args.rows.kv_len == nullptr ||
      args.rows.block_table == nullptr || (args.cos != nullptr) != (args.sin != nullptr) ||
      (args.heads > 0 && (args.q.data == nullptr || args.q_out.data == nullptr))) {
    return cudaErrorInvalidValue;
  }
  if (args.head_dim % 2 != 0 || args.head_dim > kMaxHeadDim || args.page_size % 4 != 0 ||
      reinterpret_cast<uintptr_t>(args.cache) % 4 != 0 ||
      (args.angle_dtype != Dtype::kF32 && args.angle_dtype != args.dtype)) {
    return cudaErrorNotSupported;
  }
  if (args.tokens == 0) return cudaSuccess;
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
