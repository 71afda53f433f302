#include <cstdint>

#include "kernels/cuda/each.cuh"
#include "kernels/cuda/index.h"
#include "kernels/cuda/loop_nest.cuh"

namespace flashflow::cuda {
namespace {

// `units`: of E in a run.
template <class E>
__global__ void __launch_bounds__(kEachThreads)
    IndexKernel(const __grid_constant__ IndexArgs args, const LoopNest<kMaxDims> nest, int64_t units) {
  LetNextKernelStart();
  AwaitPreviousKernel();
  const int64_t i = ThisElement();
  const int64_t lookup = i / units;
  if (lookup >= nest.count) return;
  int64_t at[kMaxDims];
  Offsets(nest, lookup, at);
  int64_t run = 0;
  bool inside = true;
#pragma unroll
  for (int axis = 0; axis < kMaxDims; ++axis) {
    if (axis >= args.axes) break;
    const AxisIndex& index = args.indices[axis];
    int64_t value = index.wide ? static_cast<const int64_t*>(index.data)[at[axis]]
                               : static_cast<const int32_t*>(index.data)[at[axis]];
    inside = inside && value >= -index.size && value < index.size;
    if (value < 0) value += index.size;
    run = run * index.size + value;
  }
  E unit;
  if (inside) {
    unit = static_cast<const E*>(args.x)[run * units + (i - lookup * units)];
  } else {
    memset(&unit, args.missing, sizeof(E));
  }
  static_cast<E*>(args.y)[i] = unit;
}

template <class E>
cudaError_t Launch(const IndexArgs& args, const LoopNest<kMaxDims>& nest, cudaStream_t stream) {
  const int64_t units = args.run_bytes / static_cast<int64_t>(sizeof(E));
  if (nest.count > INT64_MAX / units) return cudaErrorNotSupported;
  return LaunchEach(IndexKernel<E>, nest.count * units, stream, args, nest, units);
}

}  // namespace

cudaError_t Index(const IndexArgs& args, cudaStream_t stream) {
  if (!IsValid(args.shape) || args.axes < 0 || args.axes > kMaxDims || args.run_bytes < 0) return cudaErrorInvalidValue;
  Strides strides[kMaxDims];
  for (int i = 0; i < args.axes; ++i) strides[i] = args.indices[i].strides;
  const LoopNest<kMaxDims> nest = MakeLoopNest(args.shape, strides);
  if (nest.count == 0 || args.run_bytes == 0) return cudaSuccess;
  if (args.x == nullptr || args.y == nullptr) return cudaErrorInvalidValue;
  for (int i = 0; i < args.axes; ++i) {
    if (args.indices[i].data == nullptr || args.indices[i].size < 0) return cudaErrorInvalidValue;
  }
  const uintptr_t all = reinterpret_cast<uintptr_t>(args.x) | reinterpret_cast<uintptr_t>(args.y) |
                        static_cast<uintptr_t>(args.run_bytes);
  if (all % 16 == 0) return Launch<uint4>(args, nest, stream);
  if (all % 4 == 0) return Launch<uint32_t>(args, nest, stream);
  if (all % 2 == 0) return Launch<uint16_t>(args, nest, stream);
  return Launch<uint8_t>(args, nest, stream);
}

}  // namespace flashflow::cuda
