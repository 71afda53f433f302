#include <cstdint>

#include "kernels/cuda/each.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/softmax_columns.h"

namespace flashflow::cuda {
namespace {

template <class E>
__global__ void __launch_bounds__(kEachThreads) SoftmaxColumnsKernel(const SoftmaxColumnsArgs args) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t column = ThisElement();
  if (column >= args.outer * args.inner) return;
  const int64_t first = column / args.inner * args.axis * args.inner + column % args.inner;
  const E* x = static_cast<const E*>(args.x) + first;
  E* y = static_cast<E*>(args.y) + first;
  float most = -INFINITY;
  for (int64_t i = 0; i < args.axis; ++i) most = fmaxf(most, ToFloat(x[i * args.inner]));
  float sum = 0;
  for (int64_t i = 0; i < args.axis; ++i) sum += expf(ToFloat(x[i * args.inner]) - most);
  for (int64_t i = 0; i < args.axis; ++i) {
    y[i * args.inner] = FromFloat<E>(expf(ToFloat(x[i * args.inner]) - most) / sum);
  }
}

}  // namespace

cudaError_t SoftmaxColumns(const SoftmaxColumnsArgs& args, cudaStream_t stream) {
  if (args.outer < 0 || args.axis < 0 || args.inner < 0) return cudaErrorInvalidValue;
  const int64_t columns = args.axis == 0 ? 0 : args.outer * args.inner;
  if (columns > 0 && (args.x == nullptr || args.y == nullptr)) return cudaErrorInvalidValue;
  switch (args.dtype) {
    case Dtype::kF32:
      return LaunchEach(SoftmaxColumnsKernel<float>, columns, stream, args);
    case Dtype::kF16:
      return LaunchEach(SoftmaxColumnsKernel<__half>, columns, stream, args);
    case Dtype::kBf16:
      return LaunchEach(SoftmaxColumnsKernel<__nv_bfloat16>, columns, stream, args);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
