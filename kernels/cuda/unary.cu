#include <cstdint>

#include "kernels/cuda/each.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/unary.h"

namespace flashflow::cuda {
namespace {

// 1 / (1 + exp(-x)), by exp(-|x|) so that both tails keep their relative precision.
__device__ __forceinline__ float Sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0 ? e : 1.0f) / (1.0f + e);
}

__device__ float Apply(UnaryOp op, float x) {
  switch (op) {
    case UnaryOp::kNeg:
      return -x;
    case UnaryOp::kAbs:
      return fabsf(x);
    case UnaryOp::kExp:
      return expf(x);
    case UnaryOp::kSqrt:
      return sqrtf(x);
    case UnaryOp::kRsqrt:
      return 1.0f / sqrtf(x);
    case UnaryOp::kReciprocal:
      return 1.0f / x;
    case UnaryOp::kTanh:
      return tanhf(x);
    case UnaryOp::kErf:
      return erff(x);
    case UnaryOp::kSigmoid:
      return Sigmoid(x);
    case UnaryOp::kSin:
      return sinf(x);
    case UnaryOp::kCos:
      return cosf(x);
    case UnaryOp::kRelu:
      return x < 0 ? 0.0f : x;  // keeps NaN
    case UnaryOp::kGelu:
      return x * normcdff(x);
    case UnaryOp::kGeluTanh:  // (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel for negative u
      return x * Sigmoid(1.5957691216f * fmaf(0.044715f * (x * x), x, x));
    case UnaryOp::kSilu:
      return x * Sigmoid(x);
    case UnaryOp::kNot:
      break;
  }
  return x;
}

template <class E>
__global__ void __launch_bounds__(kEachThreads) UnaryKernel(const UnaryArgs args) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  if (i >= args.count) return;
  static_cast<E*>(args.y)[i] = FromFloat<E>(Apply(args.op, ToFloat(static_cast<const E*>(args.x)[i])));
}

__global__ void __launch_bounds__(kEachThreads) NotKernel(const UnaryArgs args) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  if (i >= args.count) return;
  static_cast<uint8_t*>(args.y)[i] = static_cast<const uint8_t*>(args.x)[i] == 0;
}

}  // namespace

cudaError_t Unary(const UnaryArgs& args, cudaStream_t stream) {
  if (args.count < 0 || (args.count > 0 && (args.x == nullptr || args.y == nullptr))) return cudaErrorInvalidValue;
  if ((args.op == UnaryOp::kNot) != (args.dtype == Dtype::kBool)) return cudaErrorNotSupported;
  switch (args.dtype) {
    case Dtype::kF32:
      return LaunchEach(UnaryKernel<float>, args.count, stream, args);
    case Dtype::kF16:
      return LaunchEach(UnaryKernel<__half>, args.count, stream, args);
    case Dtype::kBf16:
      return LaunchEach(UnaryKernel<__nv_bfloat16>, args.count, stream, args);
    case Dtype::kBool:
      return LaunchEach(NotKernel, args.count, stream, args);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
