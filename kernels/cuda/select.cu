#include <cstdint>

#include "kernels/cuda/each.cuh"
#include "kernels/cuda/loop_nest.cuh"
#include "kernels/cuda/select.h"

namespace flashflow::cuda {
namespace {

template <class E>
__global__ void __launch_bounds__(kEachThreads)
    SelectKernel(const LoopNest<3> nest, const uint8_t* condition, const E* a, const E* b, E* y) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  if (i >= nest.count) return;
  int64_t at[3];
  Offsets(nest, i, at);
  y[i] = condition[at[0]] != 0 ? a[at[1]] : b[at[2]];
}

template <class E>
cudaError_t Launch(const SelectArgs& args, cudaStream_t stream) {
  const LoopNest<3> nest = MakeLoopNest(args.shape, {args.condition_strides, args.a_strides, args.b_strides});
  if (nest.count > 0 && (args.condition == nullptr || args.a == nullptr || args.b == nullptr || args.y == nullptr)) {
    return cudaErrorInvalidValue;
  }
  return LaunchEach(SelectKernel<E>, nest.count, stream, nest, static_cast<const uint8_t*>(args.condition),
                    static_cast<const E*>(args.a), static_cast<const E*>(args.b), static_cast<E*>(args.y));
}

}  // namespace

cudaError_t Select(const SelectArgs& args, cudaStream_t stream) {
  if (!IsValid(args.shape)) return cudaErrorInvalidValue;
  switch (args.element_bytes) {
    case 1:
      return Launch<uint8_t>(args, stream);
    case 2:
      return Launch<uint16_t>(args, stream);
    case 4:
      return Launch<uint32_t>(args, stream);
    case 8:
      return Launch<uint64_t>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace flashflow::cuda
