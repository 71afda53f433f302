// Chooses elements by a condition, with numpy broadcasting.
#ifndef KERNELS_CUDA_SELECT_H_
#define KERNELS_CUDA_SELECT_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/strided.h"

namespace flashflow::cuda {

// y = condition ? a : b, y dense row-major.
struct SelectArgs {
  const void* condition = nullptr;  // of Dtype::kBool
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;      // may be a or b where that is not broadcast
  int element_bytes = 4;  // of a, b and y: 1, 2, 4 or 8
  Shape shape = {};       // of y
  Strides condition_strides = {}, a_strides = {}, b_strides = {};
};

// Launches on `stream`; allocates nothing and does not wait.
cudaError_t Select(const SelectArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_SELECT_H_
