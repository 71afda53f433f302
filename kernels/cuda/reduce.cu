// A warp a result where there is little to reduce, a block a result where there is much.
#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/loop_nest.cuh"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/row_reduce.cuh"

namespace flashflow::cuda {
namespace {

constexpr int kBlock = 256;
constexpr int64_t kMuch = 2048;  // elements of one result

struct Greater {  // NaN if either is
  __device__ __forceinline__ float operator()(float a, float b) const { return a > b || isnan(a) ? a : b; }
  static constexpr float kIdentity = -INFINITY;
};

// kThreads reduce a result.
template <class E, int kThreads>
__global__ void __launch_bounds__(kBlock)
    ReduceKernel(ReduceOp op, const LoopNest<1> kept, const LoopNest<1> reduced, const E* x, E* y) {
  __shared__ float scratch[32];
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t result = blockIdx.x * int64_t{kBlock / kThreads} + threadIdx.x / kThreads;
  if (result >= kept.count) return;  // whole warps, and with a block a result none
  int64_t first[1];
  Offsets(kept, result, first);
  const auto over = [&](auto operation) {
    float value = operation.kIdentity;
    for (int64_t i = threadIdx.x % kThreads; i < reduced.count; i += kThreads) {
      int64_t at[1];
      Offsets(reduced, i, at);
      value = operation(value, ToFloat(x[first[0] + at[0]]));
    }
    return RowReduce<kThreads>(value, scratch, operation);
  };
  float value = op == ReduceOp::kMax ? over(Greater()) : over(Sum());
  if (op == ReduceOp::kMean) value /= static_cast<float>(reduced.count);
  if (threadIdx.x % kThreads == 0) y[result] = FromFloat<E>(value);
}

template <class E>
cudaError_t Launch(const ReduceArgs& args, cudaStream_t stream) {
  const LoopNest<1> kept = MakeLoopNest(args.kept, {args.kept_strides});
  const LoopNest<1> reduced = MakeLoopNest(args.reduced, {args.reduced_strides});
  if (kept.count == 0) return cudaSuccess;
  if (args.y == nullptr || (args.x == nullptr && reduced.count > 0) ||
      (args.op == ReduceOp::kMax && reduced.count == 0)) {
    return cudaErrorInvalidValue;
  }
  const bool much = reduced.count >= kMuch;
  const int64_t blocks = much ? kept.count : (kept.count - 1) / (kBlock / 32) + 1;
  if (blocks > INT32_MAX) return cudaErrorNotSupported;
  return LaunchOverlapped(much ? ReduceKernel<E, kBlock> : ReduceKernel<E, 32>, static_cast<int>(blocks), 1, kBlock, 0,
                          stream, args.op, kept, reduced, static_cast<const E*>(args.x), static_cast<E*>(args.y));
}

}  // namespace

cudaError_t Reduce(const ReduceArgs& args, cudaStream_t stream) {
  if (!IsValid(args.kept) || !IsValid(args.reduced)) return cudaErrorInvalidValue;
  switch (args.dtype) {
    case Dtype::kF32:
      return Launch<float>(args, stream);
    case Dtype::kF16:
      return Launch<__half>(args, stream);
    case Dtype::kBf16:
      return Launch<__nv_bfloat16>(args, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace flashflow::cuda
