// Rotary position embedding in the half-split form (Su et al., RoFormer; the layout of GPT-NeoX and Llama).
#ifndef KERNELS_CUDA_ROPE_H_
#define KERNELS_CUDA_ROPE_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/dtype.h"
#include "kernels/cuda/strided.h"

namespace flashflow::cuda {

// For each index of `rows`, a row of `channels` (even), dense in y: y = x * cos + partner(x) * sin, partner(x)[i] being
// -x[i + channels / 2] in the first half and x[i - channels / 2] in the second; in f32, rounded once.
struct RopeArgs {
  Dtype dtype = Dtype::kF32;        // of x and y: kF32, kF16 or kBf16
  Dtype angle_dtype = Dtype::kF32;  // of cos and sin: kF32, or dtype
  const void* x = nullptr;          // dense
  const void* cos = nullptr;
  const void* sin = nullptr;
  void* y = nullptr;  // may be x
  Shape rows = {};
  Strides cos_strides = {}, sin_strides = {};  // from row to row, in elements
  int channels = 0;
};

// cudaErrorNotSupported for other dtypes and odd channels. Launches on `stream`; allocates nothing and does not wait.
cudaError_t Rope(const RopeArgs& args, cudaStream_t stream);

}  // namespace flashflow::cuda

#endif  // KERNELS_CUDA_ROPE_H_
