// Where the elements of several strided operands lie, as a kernel computes it from an element's number.
#ifndef KERNELS_CUDA_LOOP_NEST_CUH_
#define KERNELS_CUDA_LOOP_NEST_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/strided.h"

namespace flashflow::cuda {

// A nest of loops, outermost first, in which operand o steps steps[o][i] elements in loop i. Loops of length one are
// dropped and neighbors that all operands run through evenly are one loop, so that there are few divisions.
template <int kOperands>
struct LoopNest {
  int rank = 0;
  int64_t count = 1;  // of elements
  int64_t dims[kMaxDims] = {};
  int64_t steps[kOperands][kMaxDims] = {};
};

inline bool IsValid(const Shape& shape) {
  return shape.rank >= 0 && shape.rank <= kMaxDims &&
         std::all_of(shape.dims, shape.dims + shape.rank, [](int64_t dim) { return dim >= 0; });
}

// Precondition: the shape is valid.
template <int kOperands>
LoopNest<kOperands> MakeLoopNest(const Shape& shape, const Strides (&strides)[kOperands]) {
  LoopNest<kOperands> nest;
  for (int i = 0; i < shape.rank; ++i) {
    const int64_t dim = shape.dims[i];
    nest.count *= dim;
    if (dim == 1) continue;
    bool merges = nest.rank > 0;
    for (int o = 0; o < kOperands && merges; ++o) {
      merges = nest.steps[o][nest.rank - 1] == strides[o].steps[i] * dim;
    }
    if (merges) {
      nest.dims[nest.rank - 1] *= dim;
    } else {
      nest.dims[nest.rank++] = dim;
    }
    for (int o = 0; o < kOperands; ++o) nest.steps[o][nest.rank - 1] = strides[o].steps[i];
  }
  return nest;
}

// The steps of a dense row-major tensor.
inline Strides DenseStrides(const Shape& shape) {
  Strides strides;
  int64_t step = 1;
  for (int i = shape.rank - 1; i >= 0; --i) {
    strides.steps[i] = step;
    step *= shape.dims[i];
  }
  return strides;
}

template <class Index, int kOperands>
__device__ __forceinline__ void OffsetsOf(const LoopNest<kOperands>& nest, Index element,
                                          int64_t (&offsets)[kOperands]) {
#pragma unroll
  for (int i = kMaxDims - 1; i >= 0; --i) {
    if (i >= nest.rank) continue;
    Index index = element;
    if (i > 0) {
      const Index dim = static_cast<Index>(nest.dims[i]);
      element /= dim;
      index -= element * dim;
    }
#pragma unroll
    for (int o = 0; o < kOperands; ++o) offsets[o] += static_cast<int64_t>(index) * nest.steps[o][i];
  }
}

// The operands' offsets of element number `element` < nest.count.
template <int kOperands>
__device__ __forceinline__ void Offsets(const LoopNest<kOperands>& nest, int64_t element,
                                        int64_t (&offsets)[kOperands]) {
#pragma unroll
  for (int o = 0; o < kOperands; ++o) offsets[o] = 0;
  if (nest.count <= UINT32_MAX) {  // the same for all: divisions of 32 bits are several times as fast
    OffsetsOf(nest, static_cast<uint32_t>(element), offsets);
  } else {
    OffsetsOf(nest, static_cast<uint64_t>(element), offsets);
  }
}

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_LOOP_NEST_CUH_
