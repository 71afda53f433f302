// The kernels behind Norm. A warp or a block owns a row and keeps it in registers: device memory is read once.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/row_reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace flashflow::cuda {
namespace {

template <int kRowThreads>
constexpr int kBlockThreads = kRowThreads < 128 ? 128 : kRowThreads;

// kRowThreads threads own a row; each holds kVectors times 8 of its elements.
template <int kRowThreads, int kVectors, bool kRms>
__global__ void __launch_bounds__(kBlockThreads<kRowThreads>) NormKernel(const NormArgs p) {
  __shared__ float scratch[2][32];
  const int row = blockIdx.x * (kBlockThreads<kRowThreads> / kRowThreads) + threadIdx.x / kRowThreads;
  const int thread = threadIdx.x % kRowThreads;
  LetNextKernelStart();
  AwaitPreviousKernel();
  if (row >= p.rows) return;  // whole warps: a row has at least one

  const auto* x = static_cast<const __nv_bfloat16*>(p.x) + row * p.ld;
  uint4 packed[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kVector;
    packed[v] = column < p.columns ? LoadStreaming(x + column) : make_uint4(0, 0, 0, 0);
  }
  if (p.residual != nullptr) {
    const auto* residual = static_cast<const __nv_bfloat16*>(p.residual) + row * p.ld;
    uint4 added[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * kRowThreads + thread) * kVector;
      added[v] = column < p.columns ? LoadStreaming(residual + column) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      float a[kVector], b[kVector];
      Unpack(packed[v], a);
      Unpack(added[v], b);
#pragma unroll
      for (int i = 0; i < kVector; ++i) a[i] += b[i];
      packed[v] = Pack(a);
    }
  }
  if (p.sum != nullptr) {
    auto* sum = static_cast<__nv_bfloat16*>(p.sum) + row * p.ld;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int column = (v * kRowThreads + thread) * kVector;
      if (column < p.columns) Store(sum + column, packed[v]);
    }
  }

  const float count = static_cast<float>(p.columns);
  float mean = 0;
  if constexpr (!kRms) {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      float h[kVector];
      Unpack(packed[v], h);
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum += h[i];
    }
    mean = RowReduce<kRowThreads>(sum, scratch[0], Sum()) / count;
  }
  float squares = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if ((v * kRowThreads + thread) * kVector >= p.columns) break;
    float h[kVector];
    Unpack(packed[v], h);
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares += (h[i] - mean) * (h[i] - mean);
  }
  const float scale = rsqrtf(RowReduce<kRowThreads>(squares, scratch[1], Sum()) / count + p.epsilon);

  auto* y = static_cast<__nv_bfloat16*>(p.y) + row * p.ld;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kVector;
    if (column >= p.columns) break;
    float h[kVector], gamma[kVector], beta[kVector] = {};
    Unpack(packed[v], h);
    Unpack(*reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(p.gamma) + column), gamma);
    if (!kRms && p.beta != nullptr) {
      Unpack(*reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(p.beta) + column), beta);
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) h[i] = (h[i] - mean) * scale * gamma[i] + beta[i];
    Store(y + column, Pack(h));
  }
}

template <int kRowThreads, int kVectors>
cudaError_t Launch(const NormArgs& args, cudaStream_t stream) {
  constexpr int kRows = kBlockThreads<kRowThreads> / kRowThreads;
  const auto kernel = args.rms ? NormKernel<kRowThreads, kVectors, true> : NormKernel<kRowThreads, kVectors, false>;
  return LaunchOverlapped(kernel, (args.rows + kRows - 1) / kRows, 1, kBlockThreads<kRowThreads>, 0, stream, args);
}

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

cudaError_t Norm(const NormArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.columns < 1 || args.x == nullptr || args.gamma == nullptr || args.y == nullptr ||
      args.ld < args.columns || (args.rms && args.beta != nullptr)) {
    return cudaErrorInvalidValue;
  }
  if (args.columns > 32768 || args.columns % kVector != 0 || args.ld % kVector != 0 || !Aligned(args.x) ||
      !Aligned(args.residual) || !Aligned(args.sum) || !Aligned(args.gamma) || !Aligned(args.beta) ||
      !Aligned(args.y)) {
    return cudaErrorNotSupported;
  }
  const int vectors = args.columns / kVector;
  if (vectors <= 256) {
    switch ((vectors + 31) / 32) {
      case 1:
        return Launch<32, 1>(args, stream);
      case 2:
        return Launch<32, 2>(args, stream);
      case 3:
        return Launch<32, 3>(args, stream);
      case 4:
        return Launch<32, 4>(args, stream);
      case 5:
      case 6:
        return Launch<32, 6>(args, stream);
      case 7:
        return Launch<32, 7>(args, stream);
      default:
        return Launch<32, 8>(args, stream);
    }
  }
  if (vectors <= 128 * 4) return Launch<128, 4>(args, stream);
  if (vectors <= 128 * 8) return Launch<128, 8>(args, stream);
  if (vectors <= 512 * 4) return Launch<512, 4>(args, stream);
  return Launch<512, 8>(args, stream);
}

}  // namespace flashflow::cuda
