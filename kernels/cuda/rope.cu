#include <cstdint>

#include "kernels/cuda/each.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/loop_nest.cuh"
#include "kernels/cuda/rope.h"

namespace flashflow::cuda {
namespace {

// A thread has a channel of the first half and its partner.
template <class E, class Angle>
__global__ void __launch_bounds__(kEachThreads)
    RopeKernel(const LoopNest<2> rows, const E* x, const Angle* cos, const Angle* sin, E* y, int half) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  const int64_t row = i / half;
  if (row >= rows.count) return;
  const int channel = static_cast<int>(i - row * half);
  int64_t at[2];
  Offsets(rows, row, at);
  x += row * 2 * half + channel;
  y += row * 2 * half + channel;
  cos += at[0] + channel;
  sin += at[1] + channel;
  const float first = ToFloat(x[0]), second = ToFloat(x[half]);
  const float first_y = fmaf(-second, ToFloat(sin[0]), first * ToFloat(cos[0]));
  const float second_y = fmaf(first, ToFloat(sin[half]), second * ToFloat(cos[half]));
  y[0] = FromFloat<E>(first_y);
  y[half] = FromFloat<E>(second_y);
}

template <class E, class Angle>
cudaError_t Launch(const RopeArgs& args, cudaStream_t stream) {
  const LoopNest<2> rows = MakeLoopNest(args.rows, {args.cos_strides, args.sin_strides});
  const int half = args.channels / 2;
  if (rows.count == 0 || half == 0) return cudaSuccess;
  if (args.x == nullptr || args.cos == nullptr || args.sin == nullptr || args.y == nullptr) {
    return cudaErrorInvalidValue;
  }
  if (rows.count > INT64_MAX / half) return cudaErrorNotSupported;
  return LaunchEach(RopeKernel<E, Angle>, rows.count * half, stream, rows, static_cast<const E*>(args.x),
                    static_cast<const Angle*>(args.cos), static_cast<const Angle*>(args.sin), static_cast<E*>(args.y),
                    half);
}

template <class E>
cudaError_t LaunchOf(const RopeArgs& args, cudaStream_t stream) {
  return args.angle_dtype == Dtype::kF32 ? Launch<E, float>(args, stream) : Launch<E, E>(args, stream);
}

}  // namespace

cudaError_t Rope(const RopeArgs& args, cudaStream_t stream) {
  if (!IsValid(args.rows) || args.channels < 0) return cudaErrorInvalidValue;
  if (args.channels % 2 != 0 || (args.angle_dtype != Dtype::kF32 && args.angle_dtype != args.dtype)) {
    return cudaErrorNotSupported;
  }
  switch (args.dtype) {
    case Dtype::kF32:
      return LaunchOf<float>(args, stream);
    case Dtype::kF16:
      return LaunchOf<__half>(args, stream);
    case Dtype::kBf16:
      return LaunchOf<__nv_bfloat16>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
