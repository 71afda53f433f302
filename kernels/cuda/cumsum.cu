#include <cstdint>
#include <type_traits>

#include "kernels/cuda/cumsum.h"
#include "kernels/cuda/each.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kAhead = 8;  // elements read before the first of them is added

// E: float, or an unsigned integer, which wraps around.
template <class E>
__global__ void __launch_bounds__(kEachThreads) CumsumKernel(const CumsumArgs args) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t run = ThisElement();
  if (run >= args.outer * args.inner) return;
  const int64_t first = run / args.inner * args.axis * args.inner + run % args.inner;
  const E* x = static_cast<const E*>(args.x) + first;
  E* y = static_cast<E*>(args.y) + first;
  E sum = 0;
  for (int64_t begin = 0; begin < args.axis; begin += kAhead) {
    E ahead[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) ahead[i] = begin + i < args.axis ? x[(begin + i) * args.inner] : E{0};
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      sum = begin + i == 0 ? ahead[i] : sum + ahead[i];
      if (begin + i < args.axis) y[(begin + i) * args.inner] = sum;
    }
  }
}

}  // namespace

cudaError_t Cumsum(const CumsumArgs& args, cudaStream_t stream) {
  if (args.outer < 0 || args.axis < 0 || args.inner < 0) return cudaErrorInvalidValue;
  const int64_t runs = args.axis == 0 ? 0 : args.outer * args.inner;
  if (runs > 0 && (args.x == nullptr || args.y == nullptr)) return cudaErrorInvalidValue;
  switch (args.dtype) {
    case Dtype::kF32:
      return LaunchEach(CumsumKernel<float>, runs, stream, args);
    case Dtype::kS32:
      return LaunchEach(CumsumKernel<uint32_t>, runs, stream, args);
    case Dtype::kS64:
      return LaunchEach(CumsumKernel<uint64_t>, runs, stream, args);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
