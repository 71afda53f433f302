#include <cstdint>

#include "kernels/cuda/each.cuh"
#include "kernels/cuda/fill.h"

namespace flashflow::cuda {
namespace {

template <class E>
__global__ void __launch_bounds__(kEachThreads) FillKernel(E value, E* y, int64_t count) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  if (i < count) y[i] = value;
}

template <class E>
__global__ void __launch_bounds__(kEachThreads) IotaKernel(E* y, int64_t axis, int64_t inner, int64_t count) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  if (i < count) y[i] = static_cast<E>(i / inner % axis);
}

template <class E>
cudaError_t LaunchFill(const FillArgs& args, cudaStream_t stream) {
  return LaunchEach(FillKernel<E>, args.count, stream, static_cast<E>(args.value), static_cast<E*>(args.y), args.count);
}

template <class E>
cudaError_t LaunchIota(const IotaArgs& args, cudaStream_t stream) {
  const int64_t count = args.outer * args.axis * args.inner;
  if (count > 0 && args.y == nullptr) return cudaErrorInvalidValue;
  return LaunchEach(IotaKernel<E>, count, stream, static_cast<E*>(args.y), args.axis, args.inner, count);
}

}  // namespace

cudaError_t Fill(const FillArgs& args, cudaStream_t stream) {
  if (args.count < 0 || (args.count > 0 && args.y == nullptr)) return cudaErrorInvalidValue;
  switch (args.element_bytes) {
    case 1:
      return LaunchFill<uint8_t>(args, stream);
    case 2:
      return LaunchFill<uint16_t>(args, stream);
    case 4:
      return LaunchFill<uint32_t>(args, stream);
    case 8:
      return LaunchFill<uint64_t>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t Iota(const IotaArgs& args, cudaStream_t stream) {
  if (args.outer < 0 || args.axis < 0 || args.inner < 0) return cudaErrorInvalidValue;
  switch (args.dtype) {
    case Dtype::kF32:
      return LaunchIota<float>(args, stream);
    case Dtype::kS32:
      return LaunchIota<int32_t>(args, stream);
    case Dtype::kS64:
      return LaunchIota<int64_t>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
