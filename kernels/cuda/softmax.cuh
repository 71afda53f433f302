// The kernels behind Softmax: short rows stay in registers, long ones are read twice by a whole block.
#ifndef KERNELS_CUDA_SOFTMAX_CUH_
#define KERNELS_CUDA_SOFTMAX_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fast_math.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_reduce.cuh"
#include "kernels/cuda/softmax.h"
#include "kernels/cuda/vector.cuh"

namespace flashflow::cuda::softmax {

template <int kRowThreads>
inline constexpr int kBlockThreads = kRowThreads < 128 ? 128 : kRowThreads;

// -inf in every element of a word.
template <class Element>
__device__ __forceinline__ uint32_t Lowest() {
  return sizeof(Element) == 4 ? 0xff800000u : kDtypeOf<Element> == Dtype::kBf16 ? 0xff80ff80u : 0xfc00fc00u;
}

// kRowThreads threads own a row; each holds kVectors times 16 bytes of it.
template <class Element, int kRowThreads, int kVectors>
__global__ void __launch_bounds__(kBlockThreads<kRowThreads>) ShortKernel(const SoftmaxArgs p) {
  constexpr int kElements = kPerVector<Element>;
  __shared__ float scratch[2][32];
  const int64_t row = int64_t{blockIdx.x} * (kBlockThreads<kRowThreads> / kRowThreads) + threadIdx.x / kRowThreads;
  const int thread = threadIdx.x % kRowThreads;
  LetNextKernelStart();
  AwaitPreviousKernel();
  if (row >= p.rows) return;  // whole warps: a row has at least one

  const auto* x = static_cast<const Element*>(p.x) + row * p.ldx;
  const uint32_t lowest = Lowest<Element>();
  uint4 packed[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kElements;
    packed[v] = column < p.columns ? LoadStreaming(x + column) : make_uint4(lowest, lowest, lowest, lowest);
  }
  float e[kVectors][kElements];
  float maximum = -INFINITY;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    UnpackVector<Element>(packed[v], e[v]);
#pragma unroll
    for (int i = 0; i < kElements; ++i) maximum = fmaxf(maximum, e[v][i]);
  }
  const float scale = p.scale * kLog2E;
  const float offset = RowReduce<kRowThreads>(maximum, scratch[0], Max()) * scale;
  float sum = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      e[v][i] = Exp2(fmaf(e[v][i], scale, -offset));
      sum += e[v][i];
    }
  }
  const float inverse = 1.0f / RowReduce<kRowThreads>(sum, scratch[1], Sum());

  auto* y = static_cast<Element*>(p.y) + row * p.ldy;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kElements;
    if (column >= p.columns) break;
#pragma unroll
    for (int i = 0; i < kElements; ++i) e[v][i] *= inverse;
    Store(y + column, PackVector<Element>(e[v]));
  }
}

inline constexpr int kLongThreads = 1024;

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

// Blocks a multiprocessor: as many as 2,048 threads allow, of which consumer GPUs have 1,536.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
inline constexpr int kLongBlocks = 1;
#else
inline constexpr int kLongBlocks = 2;
#endif

// A block a row, of any length and alignment. Elements before the first and after the last 16-byte boundary go one by
// one.
template <class Element>
__global__ void __launch_bounds__(kLongThreads, kLongBlocks) LongKernel(const SoftmaxArgs p) {
  constexpr int kElements = kPerVector<Element>;
  __shared__ float scratch[2][32];
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int thread = threadIdx.x;
  const auto* x = static_cast<const Element*>(p.x) + blockIdx.x * p.ldx;
  auto* y = static_cast<Element*>(p.y) + blockIdx.x * p.ldy;
  const int to_boundary = static_cast<int>((16 - reinterpret_cast<uintptr_t>(x) % 16) % 16 / sizeof(*x));
  const int head = min(to_boundary, p.columns);
  const int vectors = (p.columns - head) / kElements;
  const int tail = head + vectors * kElements;
  const uint4* body = reinterpret_cast<const uint4*>(x + head);
  const float scale = p.scale * kLog2E;

  Running running;
  const auto add_one = [&](int column) {
    const float one[1] = {ToFloat(x[column]) * scale};
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
      float values[kElements];
      UnpackVector<Element>(packed[u], values);
#pragma unroll
      for (int i = 0; i < kElements; ++i) values[i] *= scale;
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
    y[column] = FromFloat<Element>(Exp2(fmaf(ToFloat(x[column]), scale, -maximum)) * inverse);
  };
  if (thread < head) write_one(thread);
  const bool aligned = reinterpret_cast<uintptr_t>(y + head) % 16 == 0;
#pragma unroll 2
  for (int v = thread; v < vectors; v += kLongThreads) {
    float values[kElements];
    UnpackVector<Element>(body[v], values);
#pragma unroll
    for (int i = 0; i < kElements; ++i) values[i] = Exp2(fmaf(values[i], scale, -maximum)) * inverse;
    if (aligned) {
      Store(y + head + v * kElements, PackVector<Element>(values));
    } else {
#pragma unroll
      for (int i = 0; i < kElements; ++i) y[head + v * kElements + i] = FromFloat<Element>(values[i]);
    }
  }
  if (thread < p.columns - tail) write_one(tail + thread);
}

template <class Element, int kRowThreads, int kVectors>
cudaError_t LaunchShort(const SoftmaxArgs& args, cudaStream_t stream) {
  constexpr int kRows = kBlockThreads<kRowThreads> / kRowThreads;
  return LaunchOverlapped(ShortKernel<Element, kRowThreads, kVectors>, (args.rows + kRows - 1) / kRows, 1,
                          kBlockThreads<kRowThreads>, 0, stream, args);
}

inline bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Picks the kernel for rows of one element type. One file a type defines it.
template <Dtype kDtype>
cudaError_t LaunchElement(const SoftmaxArgs& args, cudaStream_t stream);

template <class Element>
cudaError_t LaunchElementOf(const SoftmaxArgs& args, cudaStream_t stream) {
  constexpr int kElements = kPerVector<Element>;
  const int vectors = args.columns / kElements;
  const bool aligned = args.columns % kElements == 0 && args.ldx % kElements == 0 && args.ldy % kElements == 0 &&
                       Aligned(args.x) && Aligned(args.y);
  if (aligned && vectors <= 128 * 8) {
    if (vectors <= 32) return LaunchShort<Element, 32, 1>(args, stream);
    if (vectors <= 32 * 2) return LaunchShort<Element, 32, 2>(args, stream);
    if (vectors <= 32 * 4) return LaunchShort<Element, 32, 4>(args, stream);
    if (vectors <= 128 * 2) return LaunchShort<Element, 128, 2>(args, stream);
    if (vectors <= 128 * 4) return LaunchShort<Element, 128, 4>(args, stream);
    return LaunchShort<Element, 128, 8>(args, stream);
  }
  return LaunchOverlapped(LongKernel<Element>, args.rows, 1, kLongThreads, 0, stream, args);
}

}  // namespace flashflow::cuda::softmax

#endif  // KERNELS_CUDA_SOFTMAX_CUH_
