// How operands of many kernels lie in memory: a step for each dim of the result.
#ifndef KERNELS_CUDA_STRIDED_H_
#define KERNELS_CUDA_STRIDED_H_

#include <cstdint>

namespace flashflow::cuda {

inline constexpr int kMaxDims = 6;

// The dims of a result, outermost first.
struct Shape {
  int rank = 0;
  int64_t dims[kMaxDims] = {};
};

// For each of a Shape's dims, how many elements an operand steps: 0 where it is broadcast.
struct Strides {
  int64_t steps[kMaxDims] = {};
};

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_STRIDED_H_
