#include <cstdint>

#include "kernels/cuda/copy.h"
#include "kernels/cuda/each.cuh"
#include "kernels/cuda/loop_nest.cuh"

namespace flashflow::cuda {
namespace {

template <class E>
__global__ void __launch_bounds__(kEachThreads) CopyKernel(const LoopNest<2> nest, const E* from, E* to) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  if (i >= nest.count) return;
  int64_t at[2];
  Offsets(nest, i, at);
  to[at[1]] = from[at[0]];
}

template <class E>
cudaError_t Launch(const LoopNest<2>& nest, const CopyArgs& args, cudaStream_t stream) {
  return LaunchEach(CopyKernel<E>, nest.count, stream, nest, static_cast<const E*>(args.from),
                    static_cast<E*>(args.to));
}

// Makes whole vectors of `elements` elements the elements, where both operands have them side by side at addresses of
// such vectors; false where they have not.
bool Widen(LoopNest<2>* nest, int elements, int vector_bytes, const CopyArgs& args) {
  const auto divides = [&](int64_t value) { return value % elements == 0; };
  const int last = nest->rank - 1;
  if (last < 0 || !divides(nest->dims[last]) || reinterpret_cast<uintptr_t>(args.from) % vector_bytes != 0 ||
      reinterpret_cast<uintptr_t>(args.to) % vector_bytes != 0) {
    return false;
  }
  for (const auto& steps : nest->steps) {
    if (steps[last] != 1) return false;
    for (int i = 0; i < last; ++i) {
      if (!divides(steps[i])) return false;
    }
  }
  nest->count /= elements;
  nest->dims[last] /= elements;
  for (auto& steps : nest->steps) {
    for (int i = 0; i < last; ++i) steps[i] /= elements;
  }
  return true;
}

}  // namespace

cudaError_t StridedCopy(const CopyArgs& args, cudaStream_t stream) {
  if (!IsValid(args.shape)) return cudaErrorInvalidValue;
  LoopNest<2> nest = MakeLoopNest(args.shape, {args.from_strides, args.to_strides});
  if (nest.count == 0) return cudaSuccess;
  if (args.from == nullptr || args.to == nullptr) return cudaErrorInvalidValue;
  const int bytes = args.element_bytes;
  if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8) return cudaErrorInvalidValue;
  if (Widen(&nest, 16 / bytes, 16, args)) return Launch<uint4>(nest, args, stream);
  switch (bytes) {
    case 1:
      return Launch<uint8_t>(nest, args, stream);
    case 2:
      return Launch<uint16_t>(nest, args, stream);
    case 4:
      return Launch<uint32_t>(nest, args, stream);
    default:
      return Launch<uint64_t>(nest, args, stream);
  }
}

}  // namespace flashflow::cuda
