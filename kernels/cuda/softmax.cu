// The kernels behind Softmax: short rows stay in registers, long ones are read twice by a whole block.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_reduce.cuh"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/vector.cuh"

namespace flashflow::cuda {
namespace {

template <int kRowThreads>
constexpr int kBlockThreads = kRowThreads < 128 ? 128 : kRowThreads;

// kRowThreads threads own a row; each holds kVectors times 8 of its elements.
template <int kRowThreads, int kVectors>
__global__ void __launch_bounds__(kBlockThreads<kRowThreads>) ShortKernel(const SoftmaxArgs p) {
  __shared__ float scratch[2][32];
  const int64_t row = int64_t{blockIdx.x} * (kBlockThreads<kRowThreads> / kRowThreads) + threadIdx.x / kRowThreads;
  const int thread = threadIdx.x % kRowThreads;
  LetNextKernelStart();
  AwaitPreviousKernel();
  if (row >= p.rows) return;  // whole warps: a row has at least one

  const auto* x = static_cast<const __nv_bfloat16*>(p.x) + row * p.ldx;
  constexpr uint32_t kLowest = 0xff80ff80;  // two times -inf
  uint4 packed[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kVector;
    packed[v] = column < p.columns ? LoadStreaming(x + column) : make_uint4(kLowest, kLowest, kLowest, kLowest);
  }
  float e[kVectors][kVector];
  float maximum = -INFINITY;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    Unpack(packed[v], e[v]);
#pragma unroll
    for (int i = 0; i < kVector; ++i) maximum = fmaxf(maximum, e[v][i]);
  }
  const float scale = p.scale * kLog2E;
  const float offset = RowReduce<kRowThreads>(maximum, scratch[0], Max()) * scale;
  float sum = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      e[v][i] = Exp2(fmaf(e[v][i], scale, -offset));
      sum += e[v][i];
    }
  }
  const float inverse = 1.0f / RowReduce<kRowThreads>(sum, scratch[1], Sum());

  auto* y = static_cast<__nv_bfloat16*>(p.y) + row * p.ldy;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kVector;
    if (column >= p.columns) break;
#pragma unroll
    for (int i = 0; i < kVector; ++i) e[v][i] *= inverse;
    Store(y + column, Pack(e[v]));
  }
}

constexpr int kLongThreads = 1024;

// A thread's maximum so far and its sum relative to that.
struct Running {
  float max = -INFINITY;
  float sum = 0;

  // Adds the exponentials of n values, scaled to base 2.
  template <int kCount>
  __device__ __forceinline__ void Add(const float (&x)[kCount]) {
    float maximum = max;
#pragma unroll
    for (int i = 0; i < kCount; ++i) maximum = fmaxf(maximum, x[i]);
    if (maximum > max) {
      sum *= Exp2(max - maximum);
      max = maximum;
    }
    if (maximum == -INFINITY) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum += Exp2(x[i] - maximum);
  }
};

// A block a row, of any length and alignment. Elements before the first and after the last 16-byte boundary go one by
// one.
__global__ void __launch_bounds__(kLongThreads, 2) LongKernel(const SoftmaxArgs p) {
  __shared__ float scratch[2][32];
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int thread = threadIdx.x;
  const auto* x = static_cast<const __nv_bfloat16*>(p.x) + blockIdx.x * p.ldx;
  auto* y = static_cast<__nv_bfloat16*>(p.y) + blockIdx.x * p.ldy;
  const int to_boundary = static_cast<int>((16 - reinterpret_cast<uintptr_t>(x) % 16) % 16 / sizeof(*x));
  const int head = min(to_boundary, p.columns);
  const int vectors = (p.columns - head) / kVector;
  const int tail = head + vectors * kVector;
  const uint4* body = reinterpret_cast<const uint4*>(x + head);
  const float scale = p.scale * kLog2E;

  Running running;
  const auto add_one = [&](int column) {
    const float one[1] = {__bfloat162float(x[column]) * scale};
    running.Add(one);
  };
  if (thread < head) add_one(thread);
  constexpr int kUnroll = 4;
  for (int base = thread; base < vectors; base += kUnroll * kLongThreads) {
    uint4 packed[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int v = base + u * kLongThreads;
      if (v < vectors) packed[u] = body[v];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (base + u * kLongThreads >= vectors) break;
      float values[kVector];
      Unpack(packed[u], values);
#pragma unroll
      for (int i = 0; i < kVector; ++i) values[i] *= scale;
      running.Add(values);
    }
  }
  if (thread < p.columns - tail) add_one(tail + thread);

  const float maximum = RowReduce<kLongThreads>(running.max, scratch[0], Max());
  // A thread without a finite value has the sum 0, or NaN.
  const float mine = running.max == -INFINITY ? running.sum : running.sum * Exp2(running.max - maximum);
  const float sum = RowReduce<kLongThreads>(mine, scratch[1], Sum());
  const float inverse = 1.0f / sum;

  const auto write_one = [&](int column) {
    y[column] = __float2bfloat16(Exp2(fmaf(__bfloat162float(x[column]), scale, -maximum)) * inverse);
  };
  if (thread < head) write_one(thread);
  const bool aligned = reinterpret_cast<uintptr_t>(y + head) % 16 == 0;
  for (int v = thread; v < vectors; v += kLongThreads) {
    float values[kVector];
    Unpack(body[v], values);
#pragma unroll
    for (int i = 0; i < kVector; ++i) values[i] = Exp2(fmaf(values[i], scale, -maximum)) * inverse;
    if (aligned) {
      Store(y + head + v * kVector, Pack(values));
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) y[head + v * kVector + i] = __float2bfloat16(values[i]);
    }
  }
  if (thread < p.columns - tail) write_one(tail + thread);
}

template <int kRowThreads, int kVectors>
cudaError_t LaunchShort(const SoftmaxArgs& args, cudaStream_t stream) {
  constexpr int kRows = kBlockThreads<kRowThreads> / kRowThreads;
  return LaunchOverlapped(ShortKernel<kRowThreads, kVectors>, (args.rows + kRows - 1) / kRows, 1,
                          kBlockThreads<kRowThreads>, 0, stream, args);
}

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

cudaError_t Softmax(const SoftmaxArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.columns < 1 || args.x == nullptr || args.y == nullptr || args.ldx < args.columns ||
      args.ldy < args.columns || !(args.scale > 0)) {
    return cudaErrorInvalidValue;
  }
  const int vectors = args.columns / kVector;
  const bool aligned = args.columns % kVector == 0 && args.ldx % kVector == 0 && args.ldy % kVector == 0 &&
                       Aligned(args.x) && Aligned(args.y);
  if (!aligned || vectors > 128 * 8) {
    return LaunchOverlapped(LongKernel, args.rows, 1, kLongThreads, 0, stream, args);
  }
  if (vectors <= 32) return LaunchShort<32, 1>(args, stream);
  if (vectors <= 32 * 2) return LaunchShort<32, 2>(args, stream);
  if (vectors <= 32 * 4) return LaunchShort<32, 4>(args, stream);
  if (vectors <= 128 * 2) return LaunchShort<128, 2>(args, stream);
  if (vectors <= 128 * 4) return LaunchShort<128, 4>(args, stream);
  return LaunchShort<128, 8>(args, stream);
}

}  // namespace flashflow::cuda
