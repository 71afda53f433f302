#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm_plain.h"
#include "kernels/cuda/row_reduce.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kThreads = 256;

template <class E>
__global__ void __launch_bounds__(kThreads) NormPlainKernel(const __grid_constant__ NormArgs args) {
  __shared__ float scratch[2][32];
  const int64_t first = blockIdx.x * args.ld;
  const E* x = static_cast<const E*>(args.x) + first;
  LetNextKernelStart();
  AwaitPreviousKernel();
  const auto h = [&](int column) {
    const float value = ToFloat(x[column]);
    if (args.residual == nullptr) return value;
    return ToFloat(FromFloat<E>(value + ToFloat(static_cast<const E*>(args.residual)[first + column])));
  };
  float mean = 0;
  if (!args.rms) {
    float sum = 0;
    for (int i = threadIdx.x; i < args.columns; i += kThreads) sum += h(i);
    mean = RowReduce<kThreads>(sum, scratch[0], Sum()) / static_cast<float>(args.columns);
  }
  float squares = 0;
  for (int i = threadIdx.x; i < args.columns; i += kThreads) {
    const float centered = h(i) - mean;
    squares = fmaf(centered, centered, squares);
  }
  const float variance = RowReduce<kThreads>(squares, scratch[1], Sum()) / static_cast<float>(args.columns);
  const float scale = 1.0f / sqrtf(variance + args.epsilon);
  const float* gamma = args.gamma;
  const float* beta = args.beta;
  for (int i = threadIdx.x; i < args.columns; i += kThreads) {
    const float value = h(i);  // before anything is written over it
    float y = (value - mean) * scale;
    if (gamma != nullptr) y *= gamma[i];
    if (beta != nullptr) y += beta[i];
    if (args.sum != nullptr) static_cast<E*>(args.sum)[first + i] = FromFloat<E>(value);
    static_cast<E*>(args.y)[first + i] = FromFloat<E>(y);
  }
}

template <class E>
cudaError_t Launch(const NormArgs& args, cudaStream_t stream) {
  return LaunchOverlapped(NormPlainKernel<E>, args.rows, 1, kThreads, 0, stream, args);
}

}  // namespace

cudaError_t NormPlain(const NormArgs& args, cudaStream_t stream) {
  if (args.codes != nullptr) return cudaErrorNotSupported;
  if (args.rows < 1 || args.columns < 1 || args.x == nullptr || args.y == nullptr || args.ld < args.columns ||
      (args.rms && args.beta != nullptr)) {
    return cudaErrorInvalidValue;
  }
  switch (args.dtype) {
    case Dtype::kBf16:
      return Launch<__nv_bfloat16>(args, stream);
    case Dtype::kF16:
      return Launch<__half>(args, stream);
    case Dtype::kF32:
      return Launch<float>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
