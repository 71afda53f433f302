// The kernels behind Quantize. A warp or a block owns a row and keeps it in registers: device memory is read once.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/quantize_row.cuh"
#include "kernels/cuda/row_reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace flashflow::cuda {
namespace {

template <int kRowThreads>
constexpr int kBlockThreads = kRowThreads < 128 ? 128 : kRowThreads;

// kRowThreads threads own a row; each holds kVectors times 16 bytes of it.
template <class Element, int kRowThreads, int kVectors>
__global__ void __launch_bounds__(kBlockThreads<kRowThreads>) QuantizeKernel(const QuantizeArgs p) {
  constexpr int kElements = kPerVector<Element>;
  __shared__ uint32_t scratch[32];
  const int64_t row = int64_t{blockIdx.x} * (kBlockThreads<kRowThreads> / kRowThreads) + threadIdx.x / kRowThreads;
  const int thread = threadIdx.x % kRowThreads;
  LetNextKernelStart();
  AwaitPreviousKernel();
  if (row >= p.rows) return;  // whole warps: a row has at least one

  const auto* x = static_cast<const Element*>(p.x) + row * p.ldx;
  uint4 packed[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kElements;
    packed[v] = column < p.columns ? LoadStreaming(x + column) : make_uint4(0, 0, 0, 0);
  }
  uint32_t most = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    float values[kElements];
    UnpackVector<Element>(packed[v], values);
#pragma unroll
    for (int i = 0; i < kElements; ++i) most = max(most, Magnitude(values[i]));
  }
  const RowScale scale = ScaleOf(RowMost<kRowThreads>(most, scratch), p.clip);
  if (thread == 0) p.scale[row] = scale.scale;

  int8_t* codes = p.codes + row * p.ld_codes;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int column = (v * kRowThreads + thread) * kElements;
    if (column >= p.columns) break;
    float values[kElements];
    UnpackVector<Element>(packed[v], values);
    if constexpr (kElements == 8) {
      *reinterpret_cast<uint2*>(codes + column) =
          make_uint2(PackCodes(values, scale.factor), PackCodes(values + 4, scale.factor));
    } else {
      *reinterpret_cast<uint32_t*>(codes + column) = PackCodes(values, scale.factor);
    }
  }
}

template <class Element, int kRowThreads, int kVectors>
cudaError_t Launch(const QuantizeArgs& args, cudaStream_t stream) {
  constexpr int kRows = kBlockThreads<kRowThreads> / kRowThreads;
  return LaunchOverlapped(QuantizeKernel<Element, kRowThreads, kVectors>, (args.rows + kRows - 1) / kRows, 1,
                          kBlockThreads<kRowThreads>, 0, stream, args);
}

template <class Element>
cudaError_t LaunchElement(const QuantizeArgs& args, cudaStream_t stream) {
  const int vectors = args.columns / kPerVector<Element>;
  if (vectors <= 32) return Launch<Element, 32, 1>(args, stream);
  if (vectors <= 32 * 2) return Launch<Element, 32, 2>(args, stream);
  if (vectors <= 32 * 3) return Launch<Element, 32, 3>(args, stream);
  if (vectors <= 32 * 4) return Launch<Element, 32, 4>(args, stream);
  if (vectors <= 32 * 8) return Launch<Element, 32, 8>(args, stream);
  if (vectors <= 128 * 3) return Launch<Element, 128, 3>(args, stream);
  if (vectors <= 128 * 4) return Launch<Element, 128, 4>(args, stream);
  if (vectors <= 128 * 8) return Launch<Element, 128, 8>(args, stream);
  if (vectors <= 512 * 4) return Launch<Element, 512, 4>(args, stream);
  if (vectors <= 512 * 8) return Launch<Element, 512, 8>(args, stream);
  return Launch<Element, 1024, 8>(args, stream);
}

bool Aligned(const void* pointer, int bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace

cudaError_t Quantize(const QuantizeArgs& args, cudaStream_t stream) {
  if (args.rows < 1 || args.columns < 1 || args.x == nullptr || args.codes == nullptr || args.scale == nullptr ||
      args.ldx < args.columns || args.ld_codes < args.columns || !(args.clip > 0)) {
    return cudaErrorInvalidValue;
  }
  if (args.columns > 32768 || args.columns % 8 != 0 || args.ldx % 8 != 0 || args.ld_codes % 8 != 0 ||
      !Aligned(args.x, 16) || !Aligned(args.codes, 8)) {
    return cudaErrorNotSupported;
  }
  switch (args.dtype) {
    case Dtype::kBf16:
      return LaunchElement<__nv_bfloat16>(args, stream);
    case Dtype::kF16:
      return LaunchElement<__half>(args, stream);
    case Dtype::kF32:
      return LaunchElement<float>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
