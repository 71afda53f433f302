#include <cstdint>

#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope_append.h"
#include "kernels/cuda/rotate.cuh"
#include "kernels/cuda/row_of.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kThreads = 128;

// A thread has kCount channels of the first half of a head, and those that they are turned with.
template <class E, class Angle, int kCount>
__global__ void __launch_bounds__(kThreads) RopeAppendKernel(const __grid_constant__ RopeAppendArgs args) {
  LetNextKernelStart();
  const int half = args.head_dim / 2;
  const int steps = half / kCount;
  const int all_heads = args.heads + 2 * args.kv_heads;
  const int64_t index = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  const int channel = static_cast<int>(index % steps) * kCount;
  const int head = static_cast<int>(index / steps % all_heads);
  const int64_t token = index / steps / all_heads;
  if (token >= args.tokens) return;

  const bool is_q = head < args.heads;
  const bool is_v = head >= args.heads + args.kv_heads;
  const TokenHeads& part = is_q ? args.q : is_v ? args.v : args.k;
  const int part_head = is_q ? head : is_v ? head - args.heads - args.kv_heads : head - args.heads;
  // Where it goes is known before the kernel ahead has ended.
  E* to;
  if (is_q) {
    to = static_cast<E*>(args.q_out.data) + token * args.q_out.stride + part_head * args.head_dim + channel;
  } else {
    const int row = RowOf(args.rows, static_cast<int>(token));
    const int slot = args.rows.kv_len[row] - (args.rows.row_start[row + 1] - static_cast<int>(token));
    const int64_t page = args.rows.block_table[int64_t{row} * args.rows.pages_per_row + slot / args.page_size];
    to = static_cast<E*>(args.cache) +
         (((page * 2 + (is_v ? 1 : 0)) * args.kv_heads + part_head) * args.page_size + slot % args.page_size) *
             args.head_dim +
         channel;
  }

  AwaitPreviousKernel();
  const E* from = static_cast<const E*>(part.data) + token * part.stride + part_head * args.head_dim + channel;
  float low[kCount], high[kCount];
  LoadChunk(from, low);
  LoadChunk(from + half, high);
  if (args.cos != nullptr && !is_v) {
    const int64_t at = token * args.head_dim + channel;
    float cos[kCount], sin[kCount], cos_high[kCount], sin_high[kCount];
    LoadChunk(static_cast<const Angle*>(args.cos) + at, cos);
    LoadChunk(static_cast<const Angle*>(args.sin) + at, sin);
    LoadChunk(static_cast<const Angle*>(args.cos) + at + half, cos_high);
    LoadChunk(static_cast<const Angle*>(args.sin) + at + half, sin_high);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float x = low[i];
      low[i] = RotateLow(x, high[i], cos[i], sin[i]);
      high[i] = RotateHigh(high[i], x, cos_high[i], sin_high[i]);
    }
  }
  SaveChunk(to, low);
  SaveChunk(to + half, high);
}

template <class E, class Angle>
cudaError_t Launch(const RopeAppendArgs& args, bool vectors, cudaStream_t stream) {
  const int64_t threads =
      int64_t{args.tokens} * (args.heads + 2 * args.kv_heads) * (args.head_dim / 2 / (vectors ? 8 : 1));
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  const auto kernel = vectors ? RopeAppendKernel<E, Angle, 8> : RopeAppendKernel<E, Angle, 1>;
  return LaunchOverlapped(kernel, static_cast<int>(blocks), 1, kThreads, 0, stream, args);
}

template <class E>
cudaError_t Dispatch(const RopeAppendArgs& args, bool vectors, cudaStream_t stream) {
  return args.angle_dtype == Dtype::kF32 ? Launch<E, float>(args, vectors, stream)
                                         : Launch<E, E>(args, vectors, stream);
}

}  // namespace

cudaError_t RopeAppend(const RopeAppendArgs& args, cudaStream_t stream) {
  if (args.tokens < 0 || args.heads < 0 || args.kv_heads < 1 || args.head_dim < 1 || args.page_size < 1 ||
      args.rows.rows < 1 || args.rows.pages_per_row < 1 || args.k.data == nullptr || args.v.data == nullptr ||
      args.cache == nullptr || args.rows.row_start == nullptr || args.rows.kv_len == nullptr ||
      args.rows.block_table == nullptr || (args.cos != nullptr) != (args.sin != nullptr) ||
      (args.heads > 0 && (args.q.data == nullptr || args.q_out.data == nullptr))) {
    return cudaErrorInvalidValue;
  }
  if (args.head_dim % 2 != 0 || (args.angle_dtype != Dtype::kF32 && args.angle_dtype != args.dtype)) {
    return cudaErrorNotSupported;
  }
  if (args.tokens == 0) return cudaSuccess;
  const int bytes = ElementBytes(args.dtype);
  bool vectors = args.head_dim % 16 == 0;
  for (const void* pointer : {static_cast<const void*>(args.q.data), static_cast<const void*>(args.q_out.data),
                              static_cast<const void*>(args.k.data), static_cast<const void*>(args.v.data),
                              static_cast<const void*>(args.cache), args.cos, args.sin}) {
    vectors = vectors && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  }
  for (int64_t stride : {args.q.stride, args.q_out.stride, args.k.stride, args.v.stride}) {
    vectors = vectors && stride * bytes % 16 == 0;
  }
  switch (args.dtype) {
    case Dtype::kF32:
      return Dispatch<float>(args, vectors, stream);
    case Dtype::kF16:
      return Dispatch<__half>(args, vectors, stream);
    case Dtype::kBf16:
      return Dispatch<__nv_bfloat16>(args, vectors, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
